"""DenseImageData, ImageSegData, ImageLabelmapData: images and maps of labels, cropped and mirrored together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import minicaffe
from minicaffe.backend import random
from minicaffe.data.image import resize
from minicaffe.errors import DataError

IMAGES = 5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five images of 12 x 16 with labels 0 .. 4, and their list."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(f"{i}.png")
        Image.fromarray(rng.integers(0, 5, (12, 16), np.uint8)).save(f"labels{i}.png")
    (tmp_path / "list.txt").write_text("".join(f"{i}.png labels{i}.png\n" for i in range(IMAGES)))
    return tmp_path


def net(folder, options: str = "", transform: str = "") -> minicaffe.Net:
    (folder / "net.prototxt").write_text(
        'layer { name: "data" type: "DenseImageData" top: "data" top: "label" '
        f'dense_image_data_param {{ source: "list.txt" {options} }} transform_param {{ {transform} }} }}'
    )
    return minicaffe.Net("net.prototxt", minicaffe.TRAIN)


def files(i: int) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(Image.open(f"{i}.png"))[:, :, ::-1].transpose(2, 0, 1), np.asarray(Image.open(f"labels{i}.png"))


def test_images_and_labels_come_in_order(folder):
    made = net(folder, "batch_size: 2", "scale: 0.5")
    for first in (0, 2, 4):
        made.forward()
        for n in range(2):
            image, labels = files((first + n) % IMAGES)
            np.testing.assert_array_equal(made.blobs["data"].data[n], image * np.float32(0.5))
            np.testing.assert_array_equal(made.blobs["label"].data[n, 0], labels)


def test_labels_are_cropped_and_mirrored_with_their_image(folder):
    made = net(folder, "batch_size: 3 shuffle: true", "crop_size: 7 mirror: true")
    windows = {
        image[:, y : y + 7, x : x + 7][:, :, ::step].tobytes(): labels[y : y + 7, x : x + 7][:, ::step]
        for image, labels in map(files, range(IMAGES)) for y in range(6) for x in range(10) for step in (1, -1)
    }  # fmt: skip
    for _ in range(6):
        made.forward()
        for image, labels in zip(made.blobs["data"].data, made.blobs["label"].data, strict=True):
            np.testing.assert_array_equal(labels[0], windows[image.astype(np.uint8).tobytes()])


def test_labels_are_resized_to_the_nearest_and_divided(folder):
    made = net(folder, "new_height: 24 new_width: 8 label_divide_factor: 2")
    made.forward()
    np.testing.assert_array_equal(made.blobs["label"].data[0, 0], files(0)[1].repeat(2, axis=0)[:, ::2] // 2)


def test_a_divisor_larger_than_all_labels(folder):
    made = net(folder, "batch_size: 2 label_divide_factor: 4294967295")
    made.forward()
    assert not made.blobs["label"].data.any()


def test_images_of_other_sizes_one_by_one(folder):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save("0.png")
    Image.fromarray(np.ones((3, 4), np.uint8)).save("labels0.png")
    made = net(folder)
    made.forward()
    assert made.blobs["label"].shape == (1, 1, 3, 4) and (made.blobs["label"].data == 1).all()
    made.forward()
    assert made.blobs["label"].shape == (1, 1, 12, 16)


def test_what_does_not_fit_is_named(folder):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save("labels0.png")
    with pytest.raises(DataError, match=r"list\.txt, line 1: image 0\.png has 12 x 16 pixels, its labels .* 3 x 4"):
        net(folder)
    (folder / "list.txt").write_text("0.png\n")
    with pytest.raises(DataError, match=r"line 1: expected the paths of an image and of its labels"):
        net(folder)
    with pytest.raises(DataError, match=r"dense_image_data_param: new_height and new_width must be set"):
        net(folder, "new_height: 3")


def test_a_palette_gives_the_numbers_of_its_colours(folder):
    numbers = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 7
    for n, palette in enumerate(([0, 0, 0, 128, 0, 0, 0, 128, 0] + [64] * 12, [5, 5, 5, 3, 3, 3] + [9] * 15)):
        image = Image.fromarray(numbers, "P")
        image.putpalette(palette)
        image.save(f"labels{n}.png")
    made = net(folder, "batch_size: 2")
    made.forward()
    colored, gray = made.blobs["label"].data[:, 0]
    np.testing.assert_array_equal(colored, numbers)
    np.testing.assert_array_equal(gray, np.array([5, 3, 9, 9, 9, 9, 9])[numbers])


# --- ImageSegData, ImageLabelmapData ------------------------------------------------------------------------------------


def made_of(folder, type: str, options: str = "", transform: str = "", phase: int = minicaffe.TRAIN) -> minicaffe.Net:
    top = 'top: "size"' if type == "ImageSegData" else ""
    (folder / "net.prototxt").write_text(
        f'layer {{ name: "data" type: "{type}" top: "data" top: "label" {top} '
        f'image_data_param {{ source: "list.txt" {options} }} transform_param {{ {transform} }} }}'
    )
    net = minicaffe.Net("net.prototxt", phase)
    net.forward()
    return net


def test_small_images_are_padded_and_large_ones_cut(folder):
    """The margin is the mean, so that 0 is left of it, and its labels do not count."""
    transform = "mean_value: 10 mean_value: 20.25 mean_value: 30 scale: 2 crop_height: 9 crop_width: 20"
    net = made_of(folder, "ImageSegData", "ignore_label: 77", transform, minicaffe.TEST)
    image, labels = files(0)
    data, label, size = (net.blobs[name].data for name in ("data", "label", "size"))
    expected = 2 * (image[:, 1:10] - np.array([10, 20.25, 30], np.float32)[:, None, None])
    np.testing.assert_array_equal(data[0, :, :, :16], expected)
    np.testing.assert_array_equal(label[0, 0, :, :16], labels[1:10])
    assert (data[0, :, :, 16:] == 0).all() and (label[0, 0, :, 16:] == 77).all()
    assert size.shape == (1, 1, 1, 2) and size.ravel().tolist() == [9, 16]


def test_images_are_scaled_mirrored_and_cropped_at_random(folder):
    """As PSPNet draws: the mirror, the factor, then the first row and column, for each image."""
    minicaffe.set_random_seed(5)
    seeds = [random.stream().draw() for _ in range(2)]
    minicaffe.set_random_seed(5)
    factors = [2, 0.5, 1]
    transform = f"mirror: true crop_size: 7 {' '.join(f'scale_factors: {f}' for f in factors)}"
    net = made_of(folder, "ImageSegData", "batch_size: 4", transform)
    stream = random.Stream(seeds[1])  # the first is drawn before the layer knows its list
    for n in range(4):
        image, labels = (np.atleast_3d(each.T).T for each in files(n))
        mirror, factor = stream.draw() % 2, factors[stream.draw() % 3]
        if factor == 2:
            image, labels = resize(image, 24, 32), labels.repeat(2, axis=1).repeat(2, axis=2)
        if factor == 0.5:
            image, labels = resize(image, 6, 8), labels[:, ::2, ::2]
            image, labels = (
                np.pad(image, ((0, 0), (0, 1), (0, 0))),
                np.pad(labels, ((0, 0), (0, 1), (0, 0)), constant_values=255),
            )
        y, x = (stream.draw() % (side - 7 + 1) for side in image.shape[1:])
        for name, expected in (("data", image), ("label", labels)):
            cut = expected[:, y : y + 7, x : x + 7]
            np.testing.assert_array_equal(net.blobs[name].data[n], cut[:, :, ::-1] if mirror else cut)
    assert (net.blobs["size"].data == 7).all()


def test_one_label_an_image_or_none(folder):
    (folder / "list.txt").write_text("0.png 3\n1.png 14\n")
    label = made_of(folder, "ImageSegData", "batch_size: 2 label_type: IMAGE").blobs["label"].data
    assert label.shape == (2, 1, 12, 16) and (label[0] == 3).all() and (label[1] == 14).all()
    with pytest.raises(DataError, match="IMAGE expects whole numbers after the paths; found 'no'"):
        (folder / "list.txt").write_text("0.png no\n")
        made_of(folder, "ImageSegData", "label_type: IMAGE")
    (folder / "list.txt").write_text("0.png\n1.png 14\n")
    label = made_of(folder, "ImageSegData", "batch_size: 2 label_type: NONE").blobs["label"].data
    assert label.shape == (2, 1, 12, 16) and (label == 255).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("normalize: true", [0, 0, 0, 1, 1]),
        ("label_values: FRACTIONS", [0, 1 / 255, 127 / 255, 128 / 255, 1]),
        ("normalize: false", [0, 1, 127, 128, 255]),
    ],
)
def test_edges_are_shares_of_white(folder, options, expected, caplog):
    gray = np.resize(np.array([0, 1, 127, 128, 255], np.uint8), (12, 15))
    Image.fromarray(gray).save("labels0.png")
    Image.fromarray(np.zeros((12, 15), np.uint8)).save("0.png")
    net = made_of(folder, "ImageLabelmapData", options)
    np.testing.assert_array_equal(net.blobs["label"].data[0, 0, 0], np.resize(np.array(expected, np.float32), 15))
    assert "labels are neither" not in caplog.text


def test_rounded_edges_are_worth_a_warning(folder, caplog):
    (folder / "list.txt").write_text("0.png labels0.png\n")
    net = made_of(folder, "ImageLabelmapData", "new_height: 6 new_width: 8")
    expected = np.rint(resize(files(0)[1][None], 6, 8)[0] / 255)
    np.testing.assert_array_equal(net.blobs["label"].data[0, 0], expected)
    assert caplog.text.count("labels are neither 0 nor 255 only") == 1


@pytest.mark.parametrize("sizes", ["crop_size: 5", "crop_h: 5 crop_w: 5", "crop_height: 5 crop_width: 5"])
def test_crops_by_any_name_are_one(folder, sizes):
    (folder / "list.txt").write_text("0.png 1\n1.png 2\n2.png 0\n")
    net = []
    for transform in ("crop_size: 5", sizes):
        minicaffe.set_random_seed(3)
        net.append(made_of(folder, "ImageData", "batch_size: 3", f"mirror: true {transform}"))
    np.testing.assert_array_equal(net[0].blobs["data"].data, net[1].blobs["data"].data)


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ("crop_size: 5 crop_height: 3 crop_width: 3", "give crop_size, or both .*; found crop_size: 5, crop_height: 3"),
        ("crop_width: 3", "both crop_height and crop_width; found crop_width: 3"),
        ("crop_h: 3 crop_width: 3", "found crop_h: 3, crop_width: 3"),
        ("scale_factors: 0", "scale_factors: must be positive"),
        ("scale_factors: 0.01", "scaled by 0.01, nothing is left of 12 x 16 pixels"),
        ('mean_file: "m"', "give mean_value instead"),
    ],
)
def test_transformations_that_make_no_sense(folder, transform, problem):
    with pytest.raises(DataError, match=problem):
        made_of(folder, "ImageSegData", "", transform)
