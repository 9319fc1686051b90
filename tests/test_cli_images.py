"""``classify``, ``detect``, ``classification`` and ``resize_and_crop``, against the same arithmetic in plain NumPy."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_case import run
from PIL import Image

import minicaffe as caffe
from minicaffe import proto
from minicaffe.data.image import read_image, resize

NET = """
name: "scores" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: %d dim: 6 dim: 6 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
LABELS = ["ant", "bee", "cat", "dog"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caffe.set_random_seed(3)
    for channels, name in ((3, "net"), (1, "gray")):
        Path(f"{name}.prototxt").write_text(NET % channels)
        caffe.Net(f"{name}.prototxt", caffe.TEST).save(f"{name}.caffemodel")
    Path("labels.txt").write_text("\n".join(LABELS) + "\n")
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    for name in ("b", "a"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(f"images/{name}.png")
    np.save("mean.npy", np.array([100.0, 110.0, 120.0]))
    mean = proto.BlobProto(num=1, channels=3, height=1, width=2, data=[90, 110, 100, 120, 110, 130])
    Path("mean.binaryproto").write_bytes(mean.SerializeToString())


def scores(x: np.ndarray, name: str = "net") -> np.ndarray:
    """What a net says of inputs (N, channels, 6, 6)."""
    net = caffe.Net(f"{name}.prototxt", caffe.TEST, weights=f"{name}.caffemodel")
    x = x.reshape(len(x), -1) @ net.params["fc"][0].data.T + net.params["fc"][1].data
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def planes(name: str) -> np.ndarray:
    """The middle of an image, blue, green, red, less the mean."""
    middle = np.asarray(Image.open(name))[1:7, 1:7, ::-1].transpose(2, 0, 1).astype(np.float64)
    return middle - np.array([100, 110, 120])[:, None, None]


NET_FLAGS = ("--model_def", "net.prototxt", "--pretrained_model", "net.caffemodel", "--mean_file")
CENTRE = ("--images_dim", "8,8", "--center_only")


def test_a_folder_is_classified(capsys):
    outcome = run(
        capsys, "classify", "images", "out", *NET_FLAGS, "mean.npy", *CENTRE, "--ext", "png", "--input_scale", 0.5
    )
    assert outcome.out == "Saving results into out.npy: 2 x 4 (images x classes)\n"
    assert "Classifying 2 inputs." in outcome.messages
    expected = scores(0.5 * np.stack([planes("images/a.png"), planes("images/b.png")]))
    np.testing.assert_allclose(np.load("out.npy"), expected, rtol=1e-4)


def test_an_array_gives_what_its_files_give(capsys):
    images = np.stack([caffe.io.load_image(f"images/{name}.png") for name in "ab"])
    np.save("in.npy", images)
    for source, target in (("images", "x.npy"), ("in.npy", "y.npy")):
        assert run(capsys, "classify", source, target, *NET_FLAGS, "", "--images_dim=8,8", "--ext=png").status == 0
    np.testing.assert_array_equal(np.load("x.npy"), np.load("y.npy"))


def test_ten_crops_are_averaged_unless_only_the_middle_is_wanted(capsys):
    run(capsys, "classify", "images/a.png", "ten.npy", *NET_FLAGS, "mean.npy", "--images_dim", "8,8")
    run(capsys, "classify", "images/a.png", "one.npy", *NET_FLAGS, "mean.npy", *CENTRE)
    image = (
        np.asarray(Image.open("images/a.png"))[..., ::-1].transpose(2, 0, 1) - np.array([100, 110, 120])[:, None, None]
    )
    crops = [image[:, y : y + 6, x : x + 6] for y in (0, 2) for x in (0, 2)] + [image[:, 1:7, 1:7]]
    expected = scores(np.stack(crops + [crop[:, :, ::-1] for crop in crops]).astype(np.float64))
    np.testing.assert_allclose(np.load("ten.npy")[0], expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(np.load("one.npy")[0], expected[4], rtol=1e-4)


def test_the_best_classes_are_shown(capsys):
    args = ("classify", "images/a.png", "x.npy", *NET_FLAGS, "mean.npy", *CENTRE, "--top", 2, "--quiet")
    row = scores(planes("images/a.png")[None])[0]
    first, second = np.argsort(-row)[:2]
    plain, named = run(capsys, *args).out.splitlines()[0], run(capsys, *args, "--labels=labels.txt").out.splitlines()[0]
    assert plain == f"images/a.png: {row[first]:.4f} class {first}, {row[second]:.4f} class {second}"
    assert named == f"images/a.png: {row[first]:.4f} {LABELS[first]}, {row[second]:.4f} {LABELS[second]}"


def test_a_net_of_gray_images(capsys):
    flags = ("--model_def", "gray.prototxt", "--pretrained_model", "gray.caffemodel")
    assert run(capsys, "classify", "images/a.png", "x.npy", *flags, *CENTRE).status == 0
    gray = caffe.io.load_image("images/a.png", color=False)[1:7, 1:7, 0] * 255
    np.testing.assert_allclose(np.load("x.npy"), scores(gray[None, None], "gray"), rtol=1e-4)
    Path("w.csv").write_text("filename,xmin,ymin,xmax,ymax\nimages/a.png,1,1,7,7\n")
    assert run(capsys, "detect", "w.csv", "w.csv.out.csv", *flags, "--context_pad", 0).status == 0
    with open("w.csv.out.csv", newline="") as file:
        row = next(csv.DictReader(file))
    np.testing.assert_allclose([float(row[f"class{k}"]) for k in range(4)], np.load("x.npy")[0], rtol=1e-4)


WINDOWS = "filename, xmin, ymin, xmax, ymax\nimages/a.png,1,1,7,7\nimages/b.png,1,1,7,7\nimages/a.png,0,2,6,8\n"


@pytest.mark.parametrize("output", ["found.csv", "found.h5"])
def test_windows_are_classified(capsys, output):
    Path("windows.csv").write_text(WINDOWS)
    outcome = run(capsys, "detect", "windows.csv", output, *NET_FLAGS, "mean.npy", "--context_pad", 0)
    assert outcome.out == f"Saving results into {output}: 3 windows of 2 images\n"
    image = (
        np.asarray(Image.open("images/a.png"))[..., ::-1].transpose(2, 0, 1) - np.array([100, 110, 120])[:, None, None]
    )
    crops = np.stack([image[:, 1:7, 1:7], image[:, 2:8, 0:6], planes("images/b.png")]).astype(np.float64)
    if output.endswith("h5"):
        with h5py.File(output) as file:
            names = [name.decode() for name in file["df/filename"][:]]
            corners, predictions = file["df/window"][:], file["df/prediction"][:]
    else:
        with open(output, newline="") as file:
            rows = list(csv.DictReader(file))
        names = [row["filename"] for row in rows]
        corners = np.array([[float(row[name]) for name in ("ymin", "xmin", "ymax", "xmax")] for row in rows])
        predictions = np.array([[float(row[f"class{k}"]) for k in range(4)] for row in rows])
    assert names == ["images/a.png", "images/a.png", "images/b.png"]
    assert corners.tolist() == [[1, 1, 7, 7], [2, 0, 8, 6], [1, 1, 7, 7]]
    np.testing.assert_allclose(predictions, scores(crops), rtol=1e-4)


@pytest.mark.parametrize("table, message", [
    ("filename,xmin,ymin\nx,1,2\n", "no column ymax, xmax; expected a table"),
    ("filename,xmin,ymin,xmax,ymax\nx,1,2,3,four\n", "windows.csv:2: a window takes four numbers"),
    ("filename,xmin,ymin,xmax,ymax\n", "windows.csv: lists no window"),
    ("filename,xmin,ymin,xmax,ymax\nnone.png,1,2,3,4\n", "none.png"),
    (b"\xff\xfe\x00", "not text in UTF-8"),
])  # fmt: skip
def test_tables_of_windows_that_are_wrong(capsys, table, message):
    Path("windows.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    outcome = run(capsys, "detect", "windows.csv", "found.csv", *NET_FLAGS, "", "--context_pad", 0)
    assert outcome.status == 1 and message in outcome.errors[0]
    assert not Path("found.csv").exists()


@pytest.mark.parametrize("args, status, message", [
    (("none", "x.npy"), 1, "no image, folder or array none"),
    (("images", "x.npy"), 1, "folder images: no file ends in .jpg"),
    (("labels.txt", "x.npy"), 1, "labels.txt"),
    (("images/a.png", "x.npy", "--images_dim", "8"), 2, "expected 2 whole numbers"),
    (("images/a.png", "x.npy", "--images_dim", "2,2"), 1, "image_dims must be"),
    (("images/a.png", "x.npy", "--channel_swap", "2,2,0"), 1, "2, 2, 0"),
    (("mean.npy", "x.npy"), 1, "expected images x height x width x channels; found an array of (3,)"),
])  # fmt: skip
def test_what_cannot_be_classified(capsys, args, status, message):
    outcome = run(capsys, "classify", *args, *NET_FLAGS, "mean.npy", *([] if "--images_dim" in args else CENTRE))
    assert outcome.status == status and message in outcome.errors[0]
    assert not Path("x.npy").exists()


def test_selective_search_is_refused(capsys):
    outcome = run(capsys, "detect", "x.txt", "x.csv", *NET_FLAGS, "", "--crop_mode", "selective_search")
    assert outcome.status == 2 and "MATLAB" in outcome.errors[0]


def test_the_example_in_cpp(capsys):
    outcome = run(
        capsys,
        "classification",
        "net.prototxt",
        "net.caffemodel",
        "mean.binaryproto",
        "labels.txt",
        "images/a.png",
        "--quiet",
    )
    pixels = resize(read_image("images/a.png"), 6, 6).astype(np.float64)
    row = scores((pixels - np.array([100, 110, 120])[:, None, None])[None])[0]
    assert outcome.out.splitlines() == [
        "---------- Prediction for images/a.png ----------",
        *(f'{row[i]:.4f} - "{LABELS[i]}"' for i in np.argsort(-row)),
    ]


def test_as_many_labels_as_classes(capsys):
    Path("labels.txt").write_text("one\ntwo\n")
    args = ("net.prototxt", "net.caffemodel", "mean.binaryproto", "labels.txt", "images/a.png")
    assert "2 lines, but the net has 4 classes" in run(capsys, "classification", *args).errors[0]


# --- resize_and_crop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, box", [((30, 60), (0, 15, 30, 45)), ((60, 30), (15, 0, 45, 30)), ((31, 31), (0, 0, 31, 31))]
)
def test_the_square_in_the_middle(capsys, shape, box):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    Path("in/sub").mkdir(parents=True)
    Image.fromarray(pixels).save("in/sub/x.png")
    side = min(shape)
    for library in ("opencv", "pil"):
        outcome = run(
            capsys, "resize_and_crop", "--input_folder=in", f"--output_folder={library}", f"-output_side_length={side}",
            f"-image_lib={library}", "--quiet",
        )  # fmt: skip
        assert outcome.out == f"{library}: 1 images of {side} x {side}\n"
        top, left, bottom, right = box
        np.testing.assert_array_equal(np.asarray(Image.open(f"{library}/sub/x.png")), pixels[top:bottom, left:right])


def test_images_shrink_as_opencv_has_it(capsys):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 90, 3), np.uint8)
    Path("in").mkdir()
    Image.fromarray(pixels).save("in/x.png")
    run(capsys, "resize_and_crop", "--input_folder", "in", "--output_folder", "out", "--output_side_length", 16)
    expected = resize(pixels.transpose(2, 0, 1), 16, 36)[:, :, 10:26]
    np.testing.assert_array_equal(np.asarray(Image.open("out/x.png")).transpose(2, 0, 1), expected)


def test_files_that_are_no_images_are_left_out(capsys):
    Path("images/notes.txt").write_text("no image")
    Path("list.txt").write_text("a.png\nnotes.txt\nnone.png\n")
    folders = ("--input_folder=images", "--output_folder=out", "--output_side_length=4")
    outcome = run(capsys, "resize_and_crop", *folders)
    assert outcome.status == 0 and "2 images of 4 x 4; 1 could not be read and were left out" in outcome.out
    assert any("notes.txt" in message for message in outcome.messages)
    outcome = run(capsys, "resize_and_crop", *folders, "--input=list.txt")
    assert "1 images of 4 x 4; 2 could not be read" in outcome.out
    Path("empty").mkdir()
    assert "not one of 0 files" in run(capsys, "resize_and_crop", "-input_folder=empty", *folders[1:]).errors[0]
    assert "no folder none" in run(capsys, "resize_and_crop", "-input_folder=none", *folders[1:]).errors[0]
