"""The transformer: its arithmetic, its random numbers, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.transform import Transformer, read_mean
from minicaffe.errors import DataError
from minicaffe.kernels.cpu import transform as compiled
from minicaffe.kernels.reference import transform as plain

FORMATS = Path(__file__).parent / "golden" / "formats"
SQUARE = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)


def transformer(phase=proto.TEST, seed=1, **fields):
    return Transformer(proto.TransformationParameter(**fields), phase, Stream(seed))


def apply(transform, batch):
    out = np.empty((len(batch), *transform.output_shape(batch.shape[1:])), np.float32)
    transform(batch, out)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_centred_crop(dtype):
    out = apply(transformer(crop_size=2, scale=0.5, mean_value=[1]), SQUARE.astype(dtype))
    np.testing.assert_array_equal(out, [[[[2, 2.5], [4, 4.5]]]])


def test_a_mirrored_image_keeps_the_mean_of_its_source(tmp_path):
    mean = np.linspace(0, 3, 16, dtype=np.float32).reshape(4, 4)
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(proto.BlobProto(num=1, channels=1, height=4, width=4, data=mean.ravel()).SerializeToString())
    mirroring = transformer(crop_size=2, mirror=True, mean_file=str(path))
    batch = SQUARE.repeat(20, axis=0)
    plain = (SQUARE[0, 0] - mean)[1:3, 1:3]
    flips = [image[0, 0, 0] != plain[0, 0] for image in apply(mirroring, batch)]
    assert {True, False} == set(flips)
    for image, flip in zip(
        apply(transformer(crop_size=2, mirror=True, mean_file=str(path)), batch), flips, strict=True
    ):
        np.testing.assert_array_equal(image[0], plain[:, ::-1] if flip else plain)


def test_draws_are_mirror_then_row_then_column():
    draws = Stream(Stream(5).draw()).draws(30).reshape(10, 3)
    out = apply(transformer(proto.TRAIN, 5, crop_size=2, mirror=True), SQUARE.repeat(10, axis=0))
    for image, (mirror, row, column) in zip(out, draws, strict=True):
        window = SQUARE[0, 0, row % 3 : row % 3 + 2, column % 3 : column % 3 + 2]
        np.testing.assert_array_equal(image[0], window[:, ::-1] if mirror % 2 else window)


@pytest.mark.parametrize(
    ("phase", "fields", "draws"),
    [
        (proto.TRAIN, {}, 0),
        (proto.TEST, {"crop_size": 2}, 0),
        (proto.TRAIN, {"crop_size": 2}, 1),
        (proto.TEST, {"mirror": True}, 1),
    ],
)
def test_only_a_transformer_that_needs_random_numbers_draws_a_seed(phase, fields, draws):
    stream = Stream(3)
    Transformer(proto.TransformationParameter(**fields), phase, stream)
    expected = Stream(3)
    expected.draws(draws)
    assert stream.draw() == expected.draw()


def test_state_continues_the_random_numbers():
    batch = np.random.default_rng(1).integers(0, 256, (6, 3, 9, 8), dtype=np.uint8)
    one = transformer(proto.TRAIN, crop_size=5, mirror=True)
    apply(one, batch)
    other = transformer(proto.TRAIN, 99, crop_size=5, mirror=True)
    other.set_state(one.get_state())
    np.testing.assert_array_equal(apply(other, batch), apply(one, batch))


def test_a_state_of_another_transformer_is_refused():
    with pytest.raises(DataError, match="mirror or the crop is not what it was"):
        transformer().set_state(transformer(mirror=True).get_state())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mean_shape", [(3, 1, 1), (3, 9, 8)])
def test_the_compiled_kernels_are_the_reference(dtype, mean_shape):
    rng = np.random.default_rng(2)
    batch = rng.integers(0, 256, (7, 3, 9, 8)).astype(dtype)
    mean = rng.uniform(0, 255, mean_shape).astype(np.float32)
    offsets = rng.integers(0, 4, (7, 2))
    mirror = rng.integers(0, 2, 7).astype(np.bool_)
    pixels = [np.empty((7, 3, 6, 5), dtype) for _ in range(2)]
    results = [np.empty((7, 3, 6, 5), np.float32) for _ in range(2)]
    for module, cropped, out in zip((compiled, plain), pixels, results, strict=True):
        module.crop(batch, offsets, mirror, cropped)
        module.subtract_mean(cropped, mean, np.float32(0.017), offsets, mirror, out)
    np.testing.assert_array_equal(*pixels)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_packed_image_is_taken_apart_as_the_reference_does(mirrored):
    words = np.random.default_rng(3).integers(0, 1 << 32, (40, 37), dtype=np.uint32)
    words.setflags(write=False)  # as are those of images
    results = [np.empty((3, 21, 35), np.uint8) for _ in range(2)]
    for module, out in zip((compiled, plain), results, strict=True):
        module.crop_packed(words, 19, 2, np.bool_(mirrored), out)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("mean_shape", [(3, 1, 1), (3, 1030, 1010)])
def test_a_batch_that_goes_past_the_caches_is_the_reference(mean_shape):
    """None of its rows begins where a register would."""
    shape = (1, 3, 1001, 701)
    assert 4 * np.prod(shape) > compiled.STREAMED
    rng = np.random.default_rng(4)
    pixels, mean = rng.integers(0, 256, shape, dtype=np.uint8), rng.uniform(0, 255, mean_shape).astype(np.float32)
    results = []
    for module in (compiled, plain):
        memory = np.full(np.prod(shape) + 2, 7, np.float32)
        module.subtract_mean(
            pixels, mean, np.float32(0.017), np.array([[29, 301]]), np.ones(1, np.bool_), memory[1:-1].reshape(shape)
        )
        results.append(memory)
    np.testing.assert_array_equal(*results)


def test_read_mean_takes_every_style_of_shape(tmp_path):
    with np.load(FORMATS / "mean.npz") as golden:
        np.testing.assert_array_equal(read_mean(str(FORMATS / "mean.binaryproto")).ravel(), golden["data"])
    path = tmp_path / "mean"
    for dims in ([3, 2, 4], [1, 3, 2, 4]):
        blob = proto.BlobProto(double_data=range(24))
        blob.shape.dim.extend(dims)
        path.write_bytes(blob.SerializeToString())
        np.testing.assert_array_equal(read_mean(str(path)), np.arange(24).reshape(3, 2, 4))


def test_a_mean_of_several_images_is_refused(tmp_path):
    path = tmp_path / "mean"
    path.write_bytes(proto.BlobProto(num=2, channels=1, height=1, width=2, data=range(4)).SerializeToString())
    with pytest.raises(DataError, match="a blob of shape 2 x 1 x 1 x 2; expected one image"):
        read_mean(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"force_color": True, "force_gray": True}, "cannot set both force_color and force_gray"),
        ({"mean_file": "m", "mean_value": [1]}, "cannot specify mean_file and mean_value at the same time"),
        ({"mean_file": "nowhere"}, "mean_file: .*nowhere cannot be read"),
        ({"mean_file": __file__}, "is not a mean image"),
    ],
)
def test_bad_parameters(fields, message):
    with pytest.raises(DataError, match=message):
        transformer(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_size": 5}, r"a crop of 5 x 5 is larger than the image, 4 x 6"),
        ({"mean_value": [1, 2]}, r"mean_value: 2 values for images of 3 channels; .*: 3"),
        (
            {"mean_file": str(FORMATS / "mean.binaryproto")},
            r"mean_file: .* is a mean of 3 x 12 x 10, the images are 3 x 4 x 6",
        ),
    ],
)
def test_parameters_that_do_not_fit_the_record(fields, message):
    with pytest.raises(DataError, match=message):
        transformer(**fields).output_shape((3, 4, 6))
