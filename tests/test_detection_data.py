"""The data layers of MS-CNN and Cascade R-CNN: window files, images on a canvas, what cells stand for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_cascades import of_corners, of_sizes

from minicaffe import backend, testing
from minicaffe.data.listed_boxes import read_boxes
from minicaffe.errors import DataError, LayerError

OBJECTS = ((2, 0, 1, 4, 6, 27, 30), (1, 0, 0, 30, 10, 60, 44), (3, 1, 0, 8, 30, 30, 46), (1, 0, 0, 55, 2, 62, 9))
UNWANTED = ((30, 0, 50, 14), (0, 36, 20, 47))
FIELDS = ((8, 24, 24), (8, 32, 20), (16, 40, 30))
SIZE = (48, 64)


def window_file(folder, objects=OBJECTS, difficult=True, count=1, size=SIZE, unwanted=UNWANTED) -> str:
    """A list of as many images, in which each object is a rectangle of a colour of its own."""
    text = []
    for n in range(count):
        height, width = size if isinstance(size[0], int) else size[n]
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 2] = n + 1
        for k, (*_, x1, y1, x2, y2) in enumerate(objects):
            pixels[y1 : y2 + 1, x1 : x2 + 1, 0] = 100 + 50 * k
        Image.fromarray(pixels[..., ::-1]).save(folder / f"a picture {n}.png")
        text.append(f"# {n}\n{folder}/a picture {n}.png\n3\n{height}\n{width}\n{len(objects)}")
        text += [" ".join(map(str, o if difficult else (*o[:2], *o[3:]))) for o in objects]
        text += [str(len(unwanted)), *(" ".join(map(str, u)) for u in unwanted)]
    (folder / "windows.txt").write_text("\n".join(text) + "\n")
    return str(folder / "windows.txt")


def expected_maps(cascade: bool, least: float, pick_up: float, edge: float) -> list[np.ndarray]:
    """Cell by cell, for an image as large as its canvas."""
    objects = [(*o[3:], *o[:2]) for o in OBJECTS]

    def overlap(a, b, mode):
        if cascade:
            return of_corners(a, b, mode)
        return of_sizes(*((x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (a, b)), 0, mode)

    maps, best, matched = [], [(0.0, 0)] * len(objects), set()
    for n, (stride, width, height) in enumerate(FIELDS):
        found = np.zeros((6, SIZE[0] // stride, SIZE[1] // stride))
        for y, x in np.ndindex(*found.shape[1:]):
            cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
            field = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
            beyond = (
                max(-field[0], field[2] - SIZE[1]) > 0.3 * width / 2
                or max(-field[1], field[3] - SIZE[0]) > 0.3 * height / 2
            )
            regions = sum(overlap(field, u, "IOFU") for u in UNWANTED)
            if (cascade and beyond) or (not cascade and regions >= 0.4):
                found[5, y, x] = 1
                continue
            shares = [overlap(o[:4], field, "IOU") for o in objects]
            best = [max(b, (s, -n)) for b, s in zip(best, shares, strict=True)]
            k = int(np.argmax(shares))
            if shares[k] > least:
                x1, y1, x2, y2, label, ignored = objects[k]
                found[:5, y, x] = 0 if ignored else label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + edge, y2 - y1 + edge
                matched.add(k)
            found[5, y, x] = shares[k] if not cascade or shares[k] > least or regions < 0.4 else 1
        maps.append(found)
    for k, (x1, y1, x2, y2, label, ignored) in enumerate(objects):
        if k in matched or ignored or best[k][0] < pick_up:
            continue
        n = -best[k][1]
        x, y = int((x1 + x2) / 2 // FIELDS[n][0]), int((y1 + y2) / 2 // FIELDS[n][0])
        if not maps[n][0, y, x]:
            maps[n][:5, y, x] = label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + edge, y2 - y1 + edge
            if cascade:
                maps[n][5, y, x] = best[k][0]
    return maps


OF_FIELDS = {"field_w": [f[1] for f in FIELDS], "field_h": [f[2] for f in FIELDS], "output_gt_boxes": True}
MEAN = {"mean_value": [1.0, 2.0, 3.0]}


def run(kind, tops, phase="TRAIN", **fields):
    rig = testing.Rig(kind, [], tops=tops, phase=phase, backward=False, **fields)
    rig.forward()
    return rig


@pytest.mark.parametrize("cascade", [True, False])
def test_cells_stand_for_what_their_fields_overlap_most(tmp_path, cascade):
    source = window_file(tmp_path, difficult=cascade)
    if cascade:
        how = {"stride": [f[0] for f in FIELDS], "anchor_ignore_margin_ratio": 0.3, "pickup_iou_thr": 0.05}
        fields = {"transform_param": {**MEAN, "scale": 0.5}, "detection_data_param": {"source": source, **how}}
        param, kind = fields["detection_data_param"], "DetectionData"
    else:
        how = {"downsample_rate": [f[0] for f in FIELDS], "scale": 0.5}
        fields = {"transform_param": MEAN, "image_gt_data_param": {"source": source, **how}}
        param, kind = fields["image_gt_data_param"], "ImageGtData"
    param |= {**OF_FIELDS, "batch_size": 2, "fg_threshold": 0.45, "min_gt_width": 5}
    rig = run(kind, 5, **fields)
    pixels = np.asarray(Image.open(tmp_path / "a picture 0.png"))[..., ::-1].transpose(2, 0, 1)
    for item in rig.top[0].data:
        np.testing.assert_allclose(item, (pixels - np.array([1.0, 2, 3])[:, None, None]) * 0.5)
    expected = expected_maps(cascade, 0.45, 0.05 if cascade else 0.2, float(cascade))
    labels = [m[0] for m in expected]
    assert {0.0, 1.0, 2.0} <= set(np.concatenate([m.ravel() for m in labels]))
    for blob, wanted in zip(rig.top[1:4], expected, strict=True):
        for item in blob.data:
            np.testing.assert_allclose(item, wanted, rtol=1e-5, atol=1e-6)
    rows = [[n, *o[3:], *o[:3]][: 8 if cascade else 7] for n in range(2) for o in OBJECTS]
    np.testing.assert_array_equal(rig.top[4].data.reshape(len(rows), -1), rows)


ONE = ((1, 0, 0, 20, 14, 41, 33),)
WAYS = {
    "DetectionData": [
        {"short_size": 64, "long_size": 96, "low_scale_ratio": 0.5, "high_scale_ratio": 2.5, "multiscale_prob": 0.8},
        {"resize_ratio": 1.5, "crop_width": 56, "crop_height": 72, "min_scale": 16, "max_scale": 48, "min_whaspect": 0.5, "max_whaspect": 2},
        {"short_size": 96, "long_size": 128, "crop_short_size": 64, "crop_long_size": 96, "template_ratio": [0.75, 1.5]},
    ],
    "ImageGtData": [
        {"resize_width": 96, "resize_height": 72, "crop_width": 64, "crop_height": 48, "do_multiple_scale": True, "min_scale": 16, "max_scale": 48, "min_whaspect": 0.5, "max_whaspect": 2},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for kind, ways in WAYS.items() for way in ways])
def test_boxes_stay_on_their_objects(kind, way, tmp_path):
    """Whatever is drawn: mirrored, resized, rescaled, cut out, on a larger canvas."""
    cascade = kind == "DetectionData"
    source = window_file(tmp_path, ONE, cascade, count=3, size=((48, 64), (64, 48), (48, 64)), unwanted=())
    param = {"source": source, "batch_size": 2, "output_gt_boxes": True, **way}
    backend.random.seed(7)
    names = {"DetectionData": "detection_data_param", "ImageGtData": "image_gt_data_param"}
    rig = testing.Rig(
        kind,
        [],
        tops=2,
        phase="TRAIN",
        backward=False,
        seed=None,
        transform_param={"mirror": True},
        **{names[kind]: param},
    )
    seen, shapes = set(), set()
    for _ in range(12):
        rig.forward()
        height, width = rig.top[0].shape[2:]
        shapes.add((height, width))
        for item, row in zip(rig.top[0].data, rig.top[1].data.reshape(2, -1), strict=True):
            assert (row[1:3] < [width, height]).all() and (row[3:5] >= 0).all()
            bright = item[0] > 50
            y, x = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            found = np.array([x[0], y[0], x[-1], y[-1]])
            scale = max((row[3] - row[1]) / 21, (row[4] - row[2]) / 19)
            inside = np.clip(row[1:5], 0, np.array([width, height, width, height]) - 1)
            np.testing.assert_allclose(found, inside, atol=2 + 1.2 * scale)
            seen.add(tuple(np.round(row[1:5])))
    assert len(seen) > 8
    if "short_size" in way:
        assert {h > w for h, w in shapes} == {True, False}


def test_whole_images_to_test_on(tmp_path):
    source = window_file(tmp_path, ONE, count=3, size=((48, 64), (100, 40), (48, 64)), unwanted=())
    param = {"source": source, "batch_size": 1, "short_size": 64, "long_size": 120}
    rig = run("EvalData", 3, "TEST", transform_param={"mean_value": [1.0], "scale": 2}, eval_data_param=param)
    found = [(rig.top[0].shape[2:], rig.top[2].data.ravel().tolist(), rig.top[1].data.flatten())]
    rig.forward()
    found.append((rig.top[0].shape[2:], rig.top[2].data.ravel().tolist(), rig.top[1].data.flatten()))
    assert [f[:2] for f in found] == [((64, 96), [64, 96]), ((128, 64), [128, 64])]  # 64 x 85, 120 x 64 before
    for (_, (height, width), row), (h, w) in zip(found, ((48, 64), (100, 40)), strict=True):
        scale = np.array([width / w, height / h] * 2)
        np.testing.assert_allclose(row, [0, *(np.array(ONE[0][3:]) * scale), 1, 0, 0], rtol=1e-5)
    state = rig.layer.state()
    rig.forward()
    third = rig.top[0].data.copy()
    rig.layer.restore(state)
    rig.forward()
    np.testing.assert_array_equal(rig.top[0].data, third)


@pytest.mark.parametrize("objects", [(), ONE])
def test_rounds_are_shuffled_and_can_be_resumed(tmp_path, objects):
    high = [(48, 64), (64, 48), (48, 64), (64, 48), (48, 64), (64, 48)]
    source = window_file(tmp_path, objects, count=6, size=high, unwanted=())
    param = {"source": source, "batch_size": 1, "output_gt_boxes": True, "crop_width": 64, "crop_height": 64}
    kept = {}
    for way in ("random", "random_aspect", "random_mix_aspect", None):
        rig = testing.Rig(
            "DetectionData",
            [],
            tops=2,
            phase="TRAIN",
            backward=False,
            transform_param={"mirror": True},
            detection_data_param={**param, "mix_group_size": 1} | ({"shuffle": way} if way else {}),
        )
        numbers = []
        for n in range(12):
            if n == 4:
                state = rig.layer.state()
            rig.forward()
            numbers.append(int(rig.top[0].data[0, 2].max()) - 1)
            kept[n] = rig.top[0].data.copy()
        assert sorted(numbers[:6]) == sorted(numbers[6:]) == list(range(6))
        wide = [k % 2 for k in numbers[:6]]
        if way == "random_aspect":
            assert wide in ([0] * 3 + [1] * 3, [1] * 3 + [0] * 3)
        if way == "random_mix_aspect":
            assert wide in ([0, 1] * 3, [1, 0] * 3)
        assert (numbers[:6] == list(range(6))) == (way is None)
        rig.layer.restore(state)
        for n in range(4, 12):
            rig.forward()
            np.testing.assert_array_equal(rig.top[0].data, kept[n])
    if not objects:
        assert rig.top[1].data.ravel().tolist() == [-1] * 8


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("# 1\na.png 3 4 5 0 0", r"block 0 must begin with '# 0'.*found '# 1 a.png'"),
        ("# 0\na.png\n3 4 5\n1\n1 0 0 1 2", "block 0: the file ends in the middle"),
        ("# 0\na.png\n3 4 5\n1\n0 0 0 1 2 3 4\n0", "objects need a label, a positive whole number"),
        ("# 0\na.png\n3 4 5\n1\n1 0 0 1 x 3 4\n0", "could not convert"),
        ("# 0\na.png\n3 4 5\n0\n-1", "no number of regions"),
    ],
)
def test_window_files_that_are_none_are_told(tmp_path, text, problem):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_boxes(str(tmp_path / "list.txt"), True)


@pytest.mark.parametrize(
    ("kind", "param", "problem"),
    [
        ("DetectionData", {"batch_size": 0}, r"batch_size: must be at least 1"),
        ("DetectionData", {"stride": [8]}, r"equally often; found 0, 0 and 1"),
        ("DetectionData", {"coord_num": 5}, r"coord_num: must be 4"),
        ("DetectionData", {"shuffle": "all"}, r"shuffle must be one of random, .*found 'all'"),
        ("DetectionData", {"short_size": 9}, r"give short_size and long_size, or neither"),
        ("DetectionData", {"short_size": 9, "long_size": 5}, r"needs 0 < short_size <= long_size; found 9 and 5"),
        ("DetectionData", {"resize_ratio": float("nan")}, r"resize_ratio must be a positive number; found nan"),
        ("DetectionData", {"resize_ratio": float("inf")}, r"resize_ratio must be a positive number; found inf"),
        ("DetectionData", {"resize_ratio": 2, "short_size": 5, "long_size": 9}, r"resize_ratio and short_size contradict"),
        ("DetectionData", {"fg_threshold": 0}, r"fg_threshold must be positive"),
        ("DetectionData", {"multiscale_prob": 2}, r"multiscale_prob in 0 \.\. 1"),
        ("DetectionData", {"mix_group_size": 0}, r"mix_group_size must be positive"),
        ("EvalData", {"batch_size": 2}, r"must be 1 where images keep their proportions"),
        ("EvalData", {"short_size": 2}, r"give short_size and long_size"),
        ("ImageGtData", {"fg_img_multiple": 0}, r"fg_img_multiple lies in 1 .. 1000; found 0"),
        ("ImageGtData", {"fg_img_multiple": 2**32 - 1}, r"fg_img_multiple lies in 1 .. 1000"),
        ("ImageGtData", {"resize_width": 9}, r"give resize_width and resize_height"),
        ("ImageGtData", {"crop_width": 99}, r"a crop of 0 x 99 is larger than the image, 48 x 64"),
        ("ImageGtData", {"do_multiple_scale": True, "min_scale": 9, "max_scale": 5}, r"0 < min_scale <= max_scale"),
        ("ImageGtData", {"downsample_rate": [0], "field_w": [3], "field_h": [3]}, r"must be positive"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_told(tmp_path, kind, param, problem):
    names = {
        "DetectionData": "detection_data_param",
        "EvalData": "eval_data_param",
        "ImageGtData": "image_gt_data_param",
    }
    source = window_file(tmp_path, difficult=kind != "ImageGtData")
    with pytest.raises(DataError, match=rf"layer '{kind}'.*{problem}"):
        run(kind, 2 if kind == "EvalData" else 1, **{names[kind]: {"source": source, "batch_size": 1, **param}})


def test_tops_are_as_many_as_maps_and_objects(tmp_path):
    source = window_file(tmp_path)
    param = {"source": source, "batch_size": 1, "stride": [8], "field_w": [8], "field_h": [8], "output_gt_boxes": True}
    with pytest.raises(LayerError, match=r"top: makes 3 tops; found 2"):
        run("DetectionData", 2, detection_data_param=param)
    with pytest.raises(LayerError, match=r"top: makes 3 tops; found 1"):
        run("EvalData", 1, eval_data_param={"source": source, "batch_size": 1})


def test_a_mean_image_and_a_missing_one_are_told(tmp_path):
    source = window_file(tmp_path)
    with pytest.raises(DataError, match=r"crop_size: is not read here"):
        run("EvalData", 2, transform_param={"crop_size": 5}, eval_data_param={"source": source, "batch_size": 1})
    with pytest.raises(DataError, match=r"mean_value: specify either 1 or as many as channels, 3; found 2"):
        run("EvalData", 2, transform_param={"mean_value": [1, 2]}, eval_data_param={"source": source, "batch_size": 1})
    (tmp_path / "a picture 0.png").unlink()
    with pytest.raises(DataError, match=r"a picture 0.png: cannot be read"):
        run("EvalData", 2, eval_data_param={"source": source, "batch_size": 1})
