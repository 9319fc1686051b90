"""DenseImageData: images and maps of labels, cropped and mirrored together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import minicaffe
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
