"""DetectNetTransformation: its maps against loops over cells, its images against OpenCV's functions in NVIDIA's order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minicaffe import Net, proto, set_random_seed
from minicaffe.backend.random import Stream
from minicaffe.data import scene_augmentation
from minicaffe.data.scene_augmentation import Change

RNG = np.random.default_rng(0)
BOXES = np.array([[10, 8, 40, 30], [-6, 20, 30, 25], [50, 30, 12, 60], [200, 10, 20, 20], [30, 20, 20, 12]], np.float32)
CLASSES = [1, 4, 1, 1, 9]  # 9 is not mapped


def labels(boxes=BOXES, classes=CLASSES):
    table = np.zeros((len(boxes) + 3, 16), np.float32)
    table[0, :2] = len(boxes), 16
    table[1 : 1 + len(boxes), :4], table[1 : 1 + len(boxes), 5] = boxes, classes
    return table


def smooth(height, width):
    """An image that changes slowly, so that 32nds of a pixel hardly matter."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in ((9, 14), (17, 8), (11, 25))]
    return ((np.stack(waves) + 1) * 127).astype(np.float32)


def net(tmp_path, phase, ground_truth, augmentation="", transform="mean_value: 127", size=(48, 80)):
    path = tmp_path / "net.prototxt"
    path.write_text(f"""
    layer {{ name: "in" type: "Input" top: "data" top: "label"
      input_param {{ shape {{ dim: [1, 3, {size[0]}, {size[1]}] }} shape {{ dim: [1, 1, {len(BOXES) + 3}, 16] }} }} }}
    layer {{ name: "t" type: "DetectNetTransformation" bottom: "data" bottom: "label" top: "images" top: "maps"
      detectnet_groundtruth_param {{ {ground_truth} object_class {{ src: 1 dst: 0 }} object_class {{ src: 4 dst: 2 }} }}
      detectnet_augmentation_param {{ {augmentation} }} transform_param {{ {transform} }} }}""")
    return Net(path, phase)


def mapped(boxes, classes, stride, width, height, scale, least, most, norm, cut):
    """Maps as NVIDIA's Caffe draws them: cell by cell."""
    maps = np.zeros((8 + 3, height // stride, width // stride))
    for (x, y, w, h), kind in zip(np.asarray(boxes, float), classes, strict=True):
        if cut:
            right, bottom = min(x + w, width), min(y + h, height)
            x, y = max(x, 0), max(y, 0)
            w, h = max(right - x, 0), max(bottom - y, 0)
        if kind not in (1, 4) or w * h < 1e-7:
            continue
        if least is not None:
            cw, ch = min(w, max(least, scale * w)), min(h, max(least, scale * h))
        else:
            cw, ch = min(most, scale * w), min(most, scale * h)
        left, top = x + w / 2 - cw / 2, y + h / 2 - ch / 2
        for i in range(maps.shape[1]):
            for j in range(maps.shape[2]):
                across = min(left + cw, (j + 1) * stride) - max(left, j * stride)
                down = min(top + ch, (i + 1) * stride) - max(top, i * stride)
                if across <= 0 or down <= 0 or across * down / stride**2 <= 1.2e-7:
                    continue
                maps[8:, i, j] = 0
                maps[8 + {1: 0, 4: 2}[kind], i, j] = maps[0, i, j] = 1
                maps[1:5, i, j] = x - j * stride, y - i * stride, x + w - j * stride, y + h - i * stride
                maps[5:7, i, j] = 1 / w, 1 / h
                maps[7, i, j] = max(0 if norm else 1, stride**2 / (cw * ch))
    return maps


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ("stride: 8 scale_cvg: 0.4 gridbox_type: GRIDBOX_MIN min_cvg_len: 20", (0.4, 20, None, False, True)),
        ("stride: 4 scale_cvg: 0.6 max_cvg_len: 10 obj_norm: true crop_bboxes: false", (0.6, None, 10, True, False)),
    ],
)
def test_maps_of_boxes(tmp_path, options, how):
    stride = int(options.split()[1])
    found = net(tmp_path, proto.TEST, f"{options} image_size_x: 80 image_size_y: 48")
    found.blobs["label"].data[...] = labels()
    found.forward()
    expected = mapped(BOXES, CLASSES, stride, 80, 48, *how)
    np.testing.assert_allclose(found.blobs["maps"].data[0], expected, rtol=1e-5, atol=1e-5)
    assert 10 < expected[0].sum() < expected[0].size


def test_in_the_test_phase_images_and_boxes_are_resized(tmp_path):
    cv2 = pytest.importorskip("cv2")
    found = net(tmp_path, proto.TEST, "stride: 4 image_size_x: 40 image_size_y: 72", transform="mean_value: [1, 2, 3]")
    image = RNG.integers(0, 256, (3, 48, 80)).astype(np.float32)
    found.blobs["data"].data[...], found.blobs["label"].data[...] = image, labels()
    found.forward()
    less = np.ascontiguousarray((image - np.reshape([1, 2, 3], (3, 1, 1))).transpose(1, 2, 0), np.float32)
    expected = cv2.resize(less, (40, 72), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1)
    np.testing.assert_allclose(found.blobs["images"].data[0], expected, atol=2e-2)
    scaled = BOXES * np.array([0.5, 1.5, 0.5, 1.5])
    maps = mapped(scaled, CLASSES, 4, 40, 72, 0.5, None, 50, False, True)
    np.testing.assert_allclose(found.blobs["maps"].data[0], maps, rtol=1e-4, atol=1e-4)


AUGMENTATION = """hue_rotation_prob: 0.8 hue_rotation: 30 desaturation_prob: 0.8 desaturation_max: 0.8 flip_prob: 0.5
  scale_prob: 0.6 scale_min: 0.8 scale_max: 1.3 rotation_prob: 0.6 max_rotate_degree: 8 crop_prob: 0.9 shift_x: 9 shift_y: 5"""


def changed(cv2, image, boxes, stream, width, height):
    """NVIDIA's order of draws and of OpenCV's functions."""

    def number():
        return float(np.float32(stream.draw()) / np.float32(2**32 - 1))

    hue = (number() - 0.5) * 60 if number() <= np.float32(0.8) else 0
    saturation = 1 - number() * 0.8 if number() <= np.float32(0.8) else 1
    flip = number() <= 0.5
    rows, columns = image.shape[1:]
    if number() <= np.float32(0.6):
        scale = 0.8 + 0.5 * number()
        rows, columns = math.floor(rows * scale + 0.5), math.floor(columns * scale + 0.5)
    angle = (number() - 0.5) * 16 if number() <= np.float32(0.6) else 0
    pixels = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)) / np.float32(255), cv2.COLOR_BGR2HSV)
    pixels[..., 0] = (pixels[..., 0] + hue) % 360  # OpenCV 4 no longer takes angles below 0
    pixels[..., 1] *= saturation
    pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR) - np.float32(127 / 255)
    boxes = np.array(boxes, float)
    if flip:
        pixels = pixels[:, ::-1]
        boxes[:, 0] = image.shape[2] - boxes[:, 0] - boxes[:, 2] - 1
    boxes *= np.array([columns / image.shape[2], rows / image.shape[1]] * 2)
    pixels = cv2.resize(np.ascontiguousarray(pixels), (columns, rows), interpolation=cv2.INTER_CUBIC)
    size = (rows, columns)
    if angle:
        centre = (columns / 2, rows / 2)
        corners = cv2.boxPoints((centre, (columns, rows), angle))
        low = np.floor(corners.min(axis=0))
        whole = cv2.boxPoints(((round(centre[0]), round(centre[1])), (columns, rows), angle))
        columns, rows = (np.ceil(whole.max(axis=0)) - np.floor(whole.min(axis=0)) + 1).astype(int).tolist()
        straight = cv2.boxPoints((centre, (size[1], size[0]), 0))
        matrix = cv2.getAffineTransform(straight[:3], (corners - low)[:3].astype(np.float32))
        centres = boxes[:, :2] + boxes[:, 2:] / 2
        boxes[:, :2] = centres @ matrix[:, :2].T + matrix[:, 2] - boxes[:, 2:] / 2
        pixels = cv2.warpAffine(
            pixels, matrix, (columns, rows), np.zeros((rows, columns, 3), np.float32), cv2.INTER_LINEAR,
            cv2.BORDER_TRANSPARENT,
        )  # fmt: skip
    shift, at = (0, 0), (0.5, 0.5)
    if number() <= np.float32(0.9):
        at, shift = (number(), number()), (9, 5)
    rooms = (columns - width, rows - height)
    left, top = (
        int(np.sign(v) * np.floor(abs(v) + 0.5))
        for v in (a * (room + s) - s // 2 for a, room, s in zip(at, rooms, shift, strict=True))
    )
    result = np.zeros((height, width, 3), np.float32)
    for i in range(height):
        for j in range(width):
            if 0 <= i + top < rows and 0 <= j + left < columns:
                result[i, j] = pixels[i + top, j + left]
    boxes[:, :2] -= left, top
    return result.transpose(2, 0, 1) * 255, boxes


def test_random_changes_in_training(tmp_path):
    cv2 = pytest.importorskip("cv2")
    set_random_seed(6)
    stream = Stream(Stream(6).draw())
    found = net(tmp_path, proto.TRAIN, "stride: 4 image_size_x: 72 image_size_y: 40", AUGMENTATION)
    image = smooth(48, 80)
    for _ in range(12):
        found.blobs["data"].data[...], found.blobs["label"].data[...] = image, labels()
        found.forward()
        expected, boxes = changed(cv2, image, BOXES, stream, 72, 40)
        images = found.blobs["images"].data[0]
        assert np.mean(abs(images - expected) > 1) < 2e-3  # a few at the borders of turned images: 32nds of a pixel
        maps = mapped(boxes, CLASSES, 4, 72, 40, 0.5, None, 50, False, True)
        np.testing.assert_allclose(found.blobs["maps"].data[0], maps, rtol=1e-3, atol=1e-3)


def test_without_chance_the_centre_is_cut_out_and_a_resumed_net_goes_on(tmp_path):
    never = " ".join(
        f"{name}_prob: -1" for name in ("crop", "scale", "flip", "rotation", "hue_rotation", "desaturation")
    )
    found = net(tmp_path, proto.TRAIN, "stride: 4 image_size_x: 72 image_size_y: 56", never)
    found.blobs["data"].data[...] = image = smooth(48, 80)
    found.blobs["label"].data[...] = labels()
    found.forward()
    expected = np.zeros((3, 56, 72), np.float32)
    expected[:, 4:52] = image[:, :, 4:76] - 127
    np.testing.assert_allclose(found.blobs["images"].data[0], expected, atol=1e-3)
    state = found.state()
    change = scene_augmentation.drawn(proto.DetectNetAugmentationParameter(), (9, 9), (9, 9), found.layers[1].stream)
    found.restore(state)
    again = scene_augmentation.drawn(proto.DetectNetAugmentationParameter(), (9, 9), (9, 9), found.layers[1].stream)
    assert change == again


def test_a_third_of_a_turn_of_hue_changes_places_of_colours():
    image = RNG.random((3, 4, 5)).astype(np.float32)
    turned = Change((4, 5), (4, 5), hue=120.0).of_image(image, 0.0, (4, 5))
    np.testing.assert_allclose(turned, image[[1, 2, 0]], atol=1e-5)  # red becomes green, green blue, blue red
    pale = Change((4, 5), (4, 5), saturation=0.5).of_image(image, 0.0, (4, 5))
    most = image.max(axis=0)
    np.testing.assert_allclose(pale, most - (most - image) / 2, atol=1e-5)


def test_a_quarter_turn_of_an_image_and_its_boxes():
    image = RNG.random((3, 6, 9)).astype(np.float32)
    change = Change((6, 9), (6, 9), angle=90.0)
    turned = change.of_image(image, 0.0, change.turned_size())
    boxes = np.array([[2, 1, 5, 3]], np.float32)
    ((left, top, right, bottom),) = change.of_boxes(boxes)
    assert (right - left, bottom - top) == (3, 2)  # they keep their size
    assert ((left + right) / 2, (top + bottom) / 2) == (4.5, 4)  # what was at column 3.5 of row 2
    np.testing.assert_allclose(turned[:, 4, 4], image[:, 2:4, 3:5].mean(axis=(1, 2)), atol=1e-5)
