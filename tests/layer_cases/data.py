"""Layers that bring data into a net or out of it, and the Python layer."""

from __future__ import annotations

import h5py
import numpy as np
from PIL import Image

import minicaffe
from layer_cases.case import Case, normal
from minicaffe.data.annoset import write_annotated
from minicaffe.data.annotations import Box
from minicaffe.data.write import write_images


class Cubed(minicaffe.Layer):
    """y = a x^3 with a learned."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * bottom[0].data ** 3

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data ** 3).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = 3 * self.blobs[0].data * bottom[0].data ** 2 * top[0].diff


def _pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def database(folder):
    if not (folder / "db").exists():
        write_images(folder / "db", _pixels(5, 3, 6, 7), np.arange(5))
    return {"source": str(folder / "db")}


def annotated(folder):
    boxes = [[Box(n % 3 + 1, 0.1, 0.2, 0.5, 0.75)] for n in range(5)]
    if not (folder / "anno").exists():
        write_annotated(folder / "anno", _pixels(5, 3, 6, 7), boxes)
    return {"source": str(folder / "anno")}


def clips(folder):
    lines = []
    for video in range(3):
        (folder / str(video)).mkdir(exist_ok=True)
        for frame in (1, 2):
            pixels = np.full((4, 5, 3), 50 * video + frame, np.uint8)
            Image.fromarray(pixels).save(folder / str(video) / f"{frame:06d}.jpg")
        lines.append(f"{folder}/{video} 1 {video}\n")
    (folder / "clips.txt").write_text("".join(lines))
    return {"source": str(folder / "clips.txt")}


def images(folder):
    for i in range(3):
        Image.fromarray(_pixels(6, 7, 3)).save(folder / f"{i}.png")
    (folder / "list.txt").write_text("".join(f"{folder / f'{i}.png'} {i}\n" for i in range(3)))
    return {"source": str(folder / "list.txt")}


def label_maps(folder):
    for i in range(3):
        Image.fromarray(_pixels(6, 7, 3) // (i + 1)).save(folder / f"{i}.png")
        Image.fromarray(_pixels(6, 7, 3)[:, :, 0] % (5 - i)).save(folder / f"labels{i}.png")
    (folder / "list.txt").write_text("".join(f"{folder / f'{i}.png'} {folder / f'labels{i}.png'}\n" for i in range(3)))
    return {"source": str(folder / "list.txt")}


def windows(folder):
    Image.fromarray(_pixels(20, 24, 3)).save(folder / "image.png")
    rows = "1 0.9 2 3 12 15\n0 0.1 4 4 20 18\n"
    (folder / "windows.txt").write_text(f"# 0\n{folder / 'image.png'}\n3\n20\n24\n2\n{rows}")
    return {"source": str(folder / "windows.txt")}


def listed(fields):
    """A window file with one object in its image."""

    def write(folder):
        Image.fromarray(_pixels(32, 32, 3)).save(folder / "image.png")
        numbers = "1 0 3 4 20 22" if "image_gt_data_param" in fields else "1 0 0 3 4 20 22"
        (folder / "boxes.txt").write_text(f"# 0\n{folder / 'image.png'}\n3\n32\n32\n1\n{numbers}\n0\n")
        return {name: {**field, "source": str(folder / "boxes.txt")} for name, field in fields.items()}

    return write


OF_FIELDS = {"batch_size": 2, "field_w": [16, 24], "field_h": [16, 24], "output_gt_boxes": True}


def hdf5(folder):
    with h5py.File(folder / "rows.h5", "w") as file:
        file["data"], file["label"] = np.arange(30.0).reshape(5, 3, 2), np.arange(5.0)
    (folder / "list.txt").write_text(str(folder / "rows.h5"))
    return {"source": str(folder / "list.txt")}


def output(folder):
    return {"file_name": str(folder / "out.h5")}


def matrices(folder):
    return {"prefix": str(folder / "out_")}


CASES = [
    Case("Input", (), {"shape": [{"dim": [2, 3]}, {"dim": [4]}]}, tops=2),
    Case("DummyData", (), {"shape": {"dim": [2, 3]}, "data_filler": {"value": 2.5}}),
    Case(
        "DummyData",
        (),
        {"num": 2, "channels": 3, "height": 1, "width": [4, 5], "data_filler": {"type": "uniform"}},
        "legacy",
        tops=2,
    ),
    Case(
        "Data",
        (),
        {"backend": "LMDB", "batch_size": 4, "transform_param": {"scale": 0.5, "mean_value": [9]}},
        tops=2,
        files=database,
    ),
    Case("AnnotatedData", (), {"backend": "LMDB", "batch_size": 4}, tops=2, files=annotated),
    Case("DenseImageData", (), {"batch_size": 4, "new_height": 5, "new_width": 4}, tops=2, files=label_maps),
    Case("ImageSegData", (), {"batch_size": 4, "transform_param": {"crop_size": 8}}, tops=3, files=label_maps),
    Case("ImageLabelmapData", (), {"batch_size": 4, "new_height": 5, "new_width": 4}, tops=2, files=label_maps),
    Case("ImageData", (), {"batch_size": 4, "new_height": 5, "new_width": 4}, tops=2, files=images),
    Case("VideoData", (), {"batch_size": 4, "new_length": 2, "use_image": True}, tops=2, files=clips),
    Case("WindowData", (), {"batch_size": 4, "transform_param": {"crop_size": 8}}, tops=2, files=windows),
    Case("DetectionData", (), tops=4, files=listed({"detection_data_param": {**OF_FIELDS, "stride": [8, 8]}})),
    Case("EvalData", (), tops=3, phase="TEST", files=listed({"eval_data_param": {"batch_size": 1}})),
    Case("ImageGtData", (), tops=4, files=listed({"image_gt_data_param": {**OF_FIELDS, "downsample_rate": [8, 8]}})),
    Case("HDF5Data", (), {"batch_size": 4}, tops=("data", "label"), files=hdf5),
    Case(
        "MemoryData",
        (),
        {"batch_size": 2, "channels": 3, "height": 4, "width": 5},
        tops=2,
        why_not={"parity": "a program hands it arrays with reset, which test_layers_data.py does"},
    ),
    Case(
        "MatWrite", (normal(2, 3, 2, 4), normal(4)), sizes=(((1, 3, 2, 2), (2,)), ((3, 3, 2, 5), (7,))), files=matrices
    ),
    Case("HDF5Output", (normal(4, 3), normal(4)), sizes=(((2, 3), (2,)), ((7, 3), (7,))), files=output),
    Case("Python", (normal(2, 3, 4),), {"module": __name__, "layer": "Cubed"}, sizes=(((1, 2),), ((4, 5, 6),))),
]
