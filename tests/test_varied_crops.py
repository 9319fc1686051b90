"""Crops of forks: yjxiong's corners and scales, Intel's random sizes, against plain slicing."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data import varied_crops
from minicaffe.data.datum import from_array
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.db import open_db
from minicaffe.data.image import resize
from minicaffe.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 21, 33), np.uint8)


@pytest.fixture
def database(tmp_path):
    with open_db(tmp_path / "db", "lmdb", "new") as db:
        for n in range(3):
            db.put(b"%d" % n, from_array(IMAGE + np.uint8(n), n).SerializeToString())
    return tmp_path / "db"


def batch(database, phase=proto.TRAIN, seed=3, size=12, **transform):
    """The images of a batch, and the draws that a transformer's own stream makes from this seed."""
    data_param = proto.DataParameter(source=str(database), batch_size=size, backend="LMDB")
    data = DatumSource(data_param, proto.TransformationParameter(**transform), phase, Stream(seed))
    images = data.next_batch().data.copy()
    data.close()
    seeds = Stream(seed)
    seeds.draw()
    return images, Stream(seeds.draw())


def records(count):
    return [IMAGE + np.uint8(n % 3) for n in range(count)]


@pytest.mark.parametrize("more", [False, True])
def test_fixed_crops_stand_at_corners_centre_and_quarters(database, more):
    images, stream = batch(database, size=40, crop_size=10, fix_crop=True, more_fix_crop=more, mirror=True)
    h, w = (21 - 10) // 4, (33 - 10) // 4
    places = [(0, 0), (0, 4 * w), (4 * h, 0), (4 * h, 4 * w), (2 * h, 2 * w)]
    if more:
        places += [(0, 2 * w), (4 * h, 2 * w), (2 * h, 0), (2 * h, 4 * w), (h, w), (h, 3 * w), (3 * h, w)]
        places += [(3 * h, 3 * w)]
    for image, record in zip(images, records(40), strict=True):
        mirror, place = stream.draws(2)
        top, left = places[place % len(places)]
        crop = record[:, top : top + 10, left : left + 10]
        np.testing.assert_array_equal(image, crop[..., ::-1] if mirror % 2 else crop)


def test_scaled_crops_and_the_mean_of_their_first_pixels(database, tmp_path):
    mean = np.arange(IMAGE.size, dtype=np.float32).reshape(1, *IMAGE.shape) / 50
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(proto.BlobProto(shape=proto.BlobShape(dim=mean.shape), data=mean.reshape(-1)).SerializeToString())
    images, stream = batch(
        database, size=30, crop_size=10, multi_scale=True, scale_ratios=[1, 0.5, 0.4], mean_file=str(path), mirror=True,
        scale=0.5,
    )  # fmt: skip
    sides = [21, 10, 10]  # int(8.4) is within 2 of the crop's size
    sizes = [(sides[i], sides[j]) for i in range(3) for j in range(3) if abs(i - j) <= 1]
    for image, record in zip(images, records(30), strict=True):
        mirror, size, top, left = (int(draw) for draw in stream.draws(4))
        height, width = sizes[size % len(sizes)]
        top, left = top % (21 - height + 1), left % (33 - width + 1)
        crop = resize(record[:, top : top + height, left : left + width], 10, 10).astype(np.float32)
        expected = (crop - mean[0, :, :10, :10]) * np.float32(0.5)
        np.testing.assert_array_equal(image, expected[..., ::-1] if mirror % 2 else expected)


def test_mirrored_flow_turns_round_along_x(database):
    images, stream = batch(database, proto.TEST, is_flow=True, mirror=True, mean_value=[128])
    turned = 0
    for image, record in zip(images, records(12), strict=True):
        expected = record.astype(np.float32)
        if stream.draw() % 2:
            expected[::2] = 255 - expected[::2]
            expected, turned = expected[..., ::-1], turned + 1
        np.testing.assert_array_equal(image, expected - 128)
    assert 0 < turned < 12


def test_in_the_test_phase_crops_stand_in_the_centre(database):
    images, _ = batch(database, proto.TEST, size=1, crop_size=11, fix_crop=True, multi_scale=True)
    np.testing.assert_array_equal(images[0], IMAGE[:, 5:16, 11:22])


@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
def test_random_sizes_of_the_shorter_side(database, phase):
    options = proto.RandomResizeParameter(min_size=12, max_size=30)
    images, stream = batch(database, phase, crop_size=12, random_resize_param=options)
    for image, record in zip(images, records(12), strict=True):
        draws = stream.draws(3 if phase == proto.TRAIN else 1)
        side = 12 + Stream(int(draws[0])).draw() % 19
        resized = resize(record, side, int(33 / 21 * side))
        room = np.subtract(resized.shape[1:], 12)
        top, left = draws[1:] % (room + 1) if phase == proto.TRAIN else room // 2
        np.testing.assert_array_equal(image, resized[:, top : top + 12, left : left + 12])


@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
def test_nvcaffes_sizes_and_the_centre_of_the_mean(database, phase, tmp_path):
    mean = np.arange(4 * 20 * 30, dtype=np.float32).reshape(4, 20, 30) / 50
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(proto.BlobProto(shape=proto.BlobShape(dim=mean.shape), data=mean.reshape(-1)).SerializeToString())
    images, stream = batch(
        database, phase, size=30, crop_size=12, mirror=True, mean_file=str(path), img_rand_resize_lower=10,
        img_rand_resize_upper=20, rand_resize_ratio_lower=1, rand_resize_ratio_upper=1.5, vertical_stretch_lower=0.8,
        vertical_stretch_upper=1.1, interpolation_algo_up="INTER_LINEAR", interpolation_algo_down="INTER_LINEAR",
    )  # fmt: skip
    heights = set()
    for image, record in zip(images, records(30), strict=True):
        draws = stream.draws(4 if phase == proto.TRAIN else 2)
        own = Stream(int(draws[1]))
        side = 10 + own.draw() % 11
        ratio, stretch = (low + (high - low) * own.draw() / (2**32 - 1) for low, high in ((1, 1.5), (0.8, 1.1)))
        height = min(max(round(side * float(np.float32(stretch))), 12), 21)
        resized = resize(record, height, min(max(round(side * ratio), 12), 33))
        room = np.subtract(resized.shape[1:], 12)
        top, left = draws[2:] % (room + 1) if phase == proto.TRAIN else room // 2
        expected = resized[:, top : top + 12, left : left + 12] - mean[:, 4:16, 9:21]
        np.testing.assert_array_equal(image, expected[..., ::-1] if draws[0] % 2 else expected)
        heights.add(height)
    assert len(heights) > 5


def test_nvcaffes_images_grow_only_if_they_may(database):
    sizes = {"img_rand_resize_lower": 42, "img_rand_resize_upper": 42, "interpolation_algo_up": "INTER_NEAREST"}
    images, _ = batch(database, proto.TEST, size=1, crop_size=20, allow_upscale=True, **sizes)
    np.testing.assert_array_equal(images[0], IMAGE.repeat(2, 1).repeat(2, 2)[:, 11:31, 23:43])
    images, _ = batch(database, proto.TEST, size=1, crop_size=20, **sizes)
    np.testing.assert_array_equal(images[0], IMAGE[:, 0:20, 6:26])


def test_parts_of_random_area_and_aspect(database):
    options = proto.RandomAspectRatioParameter(min_area_ratio=0.125, max_area_ratio=0.25, aspect_ratio_change=0.8)
    images, stream = batch(database, proto.TEST, crop_size=8, random_aspect_ratio_param=options)
    for image, record in zip(images, records(12), strict=True):
        own = Stream(stream.draw())
        area = (own.draw() % 126 / 1000 + 0.125) * 21 * 33
        least = float(np.float32(0.8))
        change = own.draw() % int((1 / least - least) * 1000 + 1) / 1000 + least
        height, width = int(area**0.5 * change), int(area**0.5 / change)
        if own.draw() % 1001 < 500:
            height, width = width, height
        assert height <= 21 and width <= 33
        top, left = own.draw() % (21 - height + 1), own.draw() % (33 - width + 1)
        expected = resize(record[:, top : top + height, left : left + width], 8, 8)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multi_scale": True, "scale_ratios": [2], "crop_size": 4}, "scale_ratios"),
        ({"random_resize_param": {"min_size": 5}}, "needs transform_param.crop_size"),
        ({"random_resize_param": {"min_size": 5, "max_size": 4}, "crop_size": 4}, "max_size"),
        ({"random_resize_param": {}, "is_flow": True, "crop_size": 4}, "keep one"),
        (
            {"img_rand_resize_lower": 5, "crop_size": 4},
            "img_rand_resize_lower, img_rand_resize_upper: must be positive",
        ),
        ({"img_rand_resize_lower": 5, "img_rand_resize_upper": 9}, "needs transform_param.crop_size"),
        ({"random_aspect_ratio_param": {"min_area_ratio": 0}, "crop_size": 4}, "min_area_ratio"),
        ({"random_aspect_ratio_param": {"aspect_ratio_change": 2}, "crop_size": 4}, "aspect_ratio_change"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(DataError, match=message):
        varied_crops.transformer(proto.TransformationParameter(**options), proto.TRAIN, Stream(1))


def test_records_of_floats_cannot_be_resized(tmp_path):
    with open_db(tmp_path / "db", "lmdb", "new") as db:
        db.put(b"0", from_array(np.zeros((1, 6, 6), np.float32), 0).SerializeToString())
    with pytest.raises(DataError, match="resizes images of bytes"):
        batch(tmp_path / "db", crop_size=4, multi_scale=True)
