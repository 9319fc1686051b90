"""caffe.io against numbers that Caffe gave, and what it says of values it has no use for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from minicaffe import io, proto
from minicaffe.errors import ArgumentError, DataError, MinicaffeError
from minicaffe.proto import caffe_pb2


@pytest.fixture
def recorded(golden):
    with np.load(golden / "pyapi" / "io.npz") as file:
        return dict(file)


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_of_arrays_are_those_of_caffe(golden, recorded):
    datum = io.array_to_datum(recorded["datum_u8_in"], label=7)
    assert datum.SerializeToString() == (golden / "pyapi" / "datum_u8.bin").read_bytes()
    np.testing.assert_array_equal(io.datum_to_array(datum), recorded["datum_u8_back"])
    datum = io.array_to_datum(recorded["datum_f_in"])
    assert datum == caffe_pb2.Datum.FromString((golden / "pyapi" / "datum_float.bin").read_bytes())
    blob = caffe_pb2.BlobProto.FromString((golden / "pyapi" / "blobproto.bin").read_bytes())
    back = io.blobproto_to_array(blob)
    np.testing.assert_array_equal(back, recorded["blobproto_back"])
    assert back.dtype == recorded["blobproto_back"].dtype


def test_the_label_is_stored_only_if_given():
    values = np.ones((2, 3, 4))
    assert not io.array_to_datum(values).HasField("label")
    assert io.array_to_datum(values, label=0).label == 0 and io.array_to_datum(values, 0).HasField("label")
    assert io.array_to_datum(values, np.int64(3)).label == 3


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4, 5, 6)])
def test_arrays_of_any_shape_survive_a_blobproto(shape):
    values, diff = np.random.RandomState(0).randn(2, *shape).astype(np.float32)
    blob = io.array_to_blobproto(values, diff)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), values)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)
    np.testing.assert_array_equal(
        io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str([values, diff]))[1], diff
    )


def test_shapes_of_blobprotos():
    legacy = proto.BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    assert io.blobproto_to_array(legacy).shape == (1, 1, 2, 3)
    assert io.blobproto_to_array(proto.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError, match=r"shape is \(\), which takes 1 values, but 6"):
        io.blobproto_to_array(proto.BlobProto(data=range(6)))
    with pytest.raises(MinicaffeError, match="but 0 are stored as its diff"):
        io.blobproto_to_array(legacy, return_diff=True)
    with pytest.raises(ArgumentError, match=r"channels, height, width\); found \(3, 4\)"):
        io.array_to_datum(np.zeros((3, 4)))
    with pytest.raises(ArgumentError, match="a label must be a whole number; found 'cat'"):
        io.array_to_datum(np.zeros((1, 3, 4)), "cat")
    with pytest.raises(DataError, match=r"not a BlobProtoVector \(2 bytes"):
        io.blobprotovector_str_to_arraylist(b"\xff\xff")


# --- images ----------------------------------------------------------------------------------------------------------


def test_resizing_gives_what_scikit_image_gave_caffe(recorded):
    for name, dims in (("resize_up", (15, 17)), ("resize_down", (5, 7))):
        np.testing.assert_allclose(io.resize_image(recorded["im"], dims), recorded[name], rtol=0, atol=3e-7)
    np.testing.assert_allclose(io.resize_image(recorded["im2ch"], (9, 8)), recorded["resize_2ch"], rtol=0, atol=1e-6)
    constant = io.resize_image(np.full((4, 4, 3), recorded["resize_const"][0, 0, 0]), (6, 7))
    np.testing.assert_array_equal(constant, recorded["resize_const"])
    assert constant.dtype == np.float32


@pytest.mark.parametrize("order", range(6))
def test_each_order_keeps_size_and_range(order):
    image = np.random.RandomState(0).rand(9, 8, 3).astype(np.float32)
    for dims in ((9, 8), (20, 15), (4, 5)):
        resized = io.resize_image(image, dims, interp_order=order)
        assert resized.shape == (*dims, 3) and resized.dtype == np.float32
        assert image.min() <= resized.min() and resized.max() <= image.max()
    np.testing.assert_allclose(io.resize_image(image, (9, 8), interp_order=order), image, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.bool_, np.float16, np.int64])
def test_images_of_any_type_are_resized_as_numbers(dtype):
    image = np.random.RandomState(0).randint(0, 2, (6, 5, 3)).astype(dtype)
    if dtype in (np.int8, np.int16):
        image[0, 0, 0], image[1, 1, 1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif dtype == np.float16:
        image[0, 0, 0], image[1, 1, 1] = -60000, 60000
    expected = io.resize_image(image.astype(np.float64), (4, 7))
    np.testing.assert_array_equal(io.resize_image(image, (4, 7)), expected)


def test_oversampling_takes_the_crops_of_caffe(recorded):
    images = recorded["over_in"]
    np.testing.assert_array_equal(io.oversample(images, (6, 7)), recorded["oversample_6x7"])
    np.testing.assert_array_equal(io.oversample(images, np.array((4, 5))), recorded["oversample_odd"])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("color", [True, False])
def test_images_of_any_kind_load(tmp_path, mode, color):
    pixels = np.random.RandomState(0).randint(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "image.png")
    loaded = io.load_image(tmp_path / "image.png", color)
    rgb = np.asarray(image.convert("RGB"), np.float32) / 255
    assert loaded.shape == (5, 6, 3 if color else 1) and loaded.dtype == np.float32
    if color:
        np.testing.assert_array_equal(loaded, rgb)
    else:
        np.testing.assert_allclose(loaded[..., 0], rgb @ [0.2125, 0.7154, 0.0721], atol=1e-6)


def test_wrong_images_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jpg: cannot be read \(No such file"):
        io.load_image(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text\.jpg: not an image"):
        io.load_image(tmp_path / "text.jpg")
    image = np.zeros((4, 5, 3))
    for call, message in (
        (lambda: io.resize_image(image[0], (2, 2)), r"\(height, width, channels\); found \(5, 3\)"),
        (lambda: io.resize_image(image[:0], (2, 2)), r"found \(0, 5, 3\)"),
        (lambda: io.resize_image(image, 2), r"\(height, width\); found 2"),
        (lambda: io.resize_image(image, (0, 2)), "at least 1 each"),
        (lambda: io.resize_image(image, (2, 2), interp_order=9), "0 to 5; found 9"),
        (lambda: io.oversample([image, image[:3]], (2, 2)), r"one size; found \[\(3, 5, 3\), \(4, 5, 3\)\]"),
        (lambda: io.oversample([image[0]], (2, 2)), r"one size; found \[\(5, 3\)\]"),
        (lambda: io.oversample([], (2, 2)), "found none"),
        (lambda: io.oversample([image], (5, 5)), "crop of 5 x 5 does not fit into images of 4 x 5"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()


# --- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.fixture
def transformer():
    return io.Transformer({"data": (1, 3, 8, 8)})


def configured(transformer):
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", np.array([104.0, 117.0, 123.0]))
    transformer.set_raw_scale("data", 255)
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_input_scale("data", 0.017)
    return transformer


def test_preprocessing_gives_what_caffe_gives(transformer, recorded):
    configured(transformer)
    full = transformer.preprocess("data", recorded["deprocess_meanimg"])  # the image that Caffe was given
    np.testing.assert_allclose(full, recorded["preprocess_full"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        transformer.deprocess("data", recorded["preprocess_full"]), recorded["deprocess_full"], atol=1e-7
    )


def test_a_mean_image_is_subtracted(recorded):
    transformer = io.Transformer({"data": (1, 3, 10, 12)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", recorded["mean_img"])
    made = transformer.preprocess("data", recorded["deprocess_meanimg"])
    np.testing.assert_allclose(made, recorded["preprocess_meanimg_noresize"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(transformer.deprocess("data", made), recorded["deprocess_meanimg"], rtol=0, atol=2e-7)


def test_means_of_other_sizes_are_resized(transformer):
    for mean in (np.random.rand(3, 16, 16), np.random.rand(16, 16), np.random.rand(1, 8, 8), np.random.rand(8, 8)):
        transformer.set_mean("data", mean)
        assert np.broadcast_shapes(transformer.mean["data"].shape, (3, 8, 8)) == (3, 8, 8)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_deprocessing_undoes_preprocessing(channels):
    transformer = io.Transformer({"data": (10, channels, 5, 4)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", list(range(channels))[::-1])
    transformer.set_mean("data", np.arange(channels) + 1.0)
    transformer.set_raw_scale("data", 255)
    transformer.set_input_scale("data", 0.25)
    image = np.random.rand(5, 4, channels).astype(np.float32)
    data = transformer.preprocess("data", image)
    for made in (data, data[np.newaxis]):
        np.testing.assert_allclose(transformer.deprocess("data", made), image, atol=1e-5)


def test_none_takes_a_scale_back(transformer):
    image = np.random.rand(8, 8, 3).astype(np.float32)
    for setter in (transformer.set_raw_scale, transformer.set_input_scale):
        setter("data", 2.0)
        setter("data", None)
    np.testing.assert_array_equal(transformer.preprocess("data", image), image)


def test_the_callers_array_stays_as_it_is(transformer):
    transformer.set_raw_scale("data", 255)
    image = np.random.rand(8, 8, 3).astype(np.float32)
    before = image.copy()
    transformer.preprocess("data", image)
    np.testing.assert_array_equal(image, before)


def test_settings_that_do_not_fit_are_refused(transformer):
    for call, message in (
        (lambda: transformer.preprocess("nope", np.zeros((8, 8, 3))), "nope is not one of the net inputs: data"),
        (lambda: transformer.set_raw_scale("nope", 1), "nope is not one of the net inputs"),
        (lambda: transformer.set_raw_scale("data", "x"), "a scale is a number; found 'x'"),
        (lambda: transformer.set_input_scale("data", [1, 2]), r"a scale is a number; found \[1, 2\]"),
        (lambda: transformer.set_channel_swap("data", 3), r"each once; found \(3,\)"),
        (lambda: transformer.set_transpose("data", (1, 0)), r"same number of dimensions.*found \(1, 0\)"),
        (lambda: transformer.set_transpose("data", (1, 1, 0)), r"0 to 2, each once; found \(1, 1, 0\)"),
        (lambda: transformer.set_channel_swap("data", (0, 1)), "same number of dimensions as the input's channels"),
        (lambda: transformer.set_mean("data", np.zeros(4)), "Mean channels incompatible.*3 values; found 4"),
        (lambda: transformer.set_mean("data", np.zeros((1, 1, 8, 8))), r"Mean shape invalid.*found \(1, 1, 8, 8\)"),
        (lambda: transformer.set_mean("data", np.zeros((5, 8, 8))), "expected 3; found 5"),
        (lambda: transformer.preprocess("data", np.zeros((8, 8))), r"images of 3 axes, channels last; found \(8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert isinstance(caught.value, MinicaffeError)
    configured(transformer)
    with pytest.raises(ArgumentError, match="images of 3 channels; found 1"):
        transformer.preprocess("data", np.zeros((8, 8, 1)))
