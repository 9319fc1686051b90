"""Datums and images: arrays in, the same arrays out, and what is no image is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from golden_data import first_layer
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minicaffe import proto
from minicaffe.data.datum import from_array, parse, raw_batch, to_array
from minicaffe.data.image import decode_image, read_image, resize
from minicaffe.errors import DataError
from minicaffe.kernels.cpu import datum as wire

FORMATS = Path(__file__).parent / "golden" / "formats"
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_round_trip(dtype):
    datum = parse(from_array(PIXELS.astype(dtype), label=7).SerializeToString())
    assert to_array(datum).dtype == dtype
    np.testing.assert_array_equal(to_array(datum), PIXELS)
    assert datum.label == 7


def test_data_wins_over_float_data():
    datum = from_array(PIXELS)
    datum.float_data.extend([0.5] * PIXELS.size)
    np.testing.assert_array_equal(to_array(datum), PIXELS)


@pytest.mark.parametrize("payload", [b"", b"12345"])
def test_a_datum_of_another_size_than_it_says(payload):
    with pytest.raises(DataError, match=f"{len(payload)} values that says it is 1 x 2 x 3"):
        to_array(proto.Datum(channels=1, height=2, width=3, data=payload))


def test_bytes_that_are_no_datum():
    with pytest.raises(DataError, match="not a Datum"):
        parse(b"\xff\xff\xff")


def serialized(*datums):
    return [datum.SerializeToString() for datum in datums]


def test_raw_batch_is_all_or_nothing():
    same = [from_array(PIXELS, 3), from_array(PIXELS[:, ::-1], -70_000)]
    pixels, labels = raw_batch(serialized(*same))
    np.testing.assert_array_equal(pixels, [PIXELS, PIXELS[:, ::-1]])
    assert labels.tolist() == [3, -70_000]
    for other in (from_array(PIXELS.reshape(2, 4, 3)), from_array(PIXELS.astype(np.float32)), proto.Datum()):
        assert raw_batch(serialized(*same, other)) is None
        assert raw_batch(serialized(other, *same)) is None
    assert raw_batch(serialized(proto.Datum(), proto.Datum())) is None
    assert (
        raw_batch(serialized(*same, proto.Datum(encoded=True, channels=2, height=3, width=4, data=bytes(24)))) is None
    )


wire_types = st.sampled_from([0, 1, 2, 5])


@st.composite
def fields(draw):
    """A field of any number and type, as a stranger may write it, over long numbers included."""
    number, wire = draw(st.integers(1, 9)), draw(wire_types)
    value = draw(st.integers(0, 2**64 - 1) | st.integers(0, 200))
    longer = b"".join(bytes([value >> shift & 0x7F | 0x80]) for shift in range(0, 63, 7)) + bytes([value >> 63])
    content = draw(st.binary(max_size=30))
    payload = {0: longer, 1: bytes(8), 2: bytes([len(content)]) + content, 5: bytes(4)}[wire]
    return bytes([number << 3 | wire]) + payload


@given(st.lists(fields(), max_size=8), st.integers(0, 200) | st.none())
@settings(deadline=None, max_examples=400)
def test_what_is_scanned_is_what_protobuf_parses(parts, cut):
    record = b"".join(parts)[:cut]
    found = np.zeros((2, 7), np.int64)
    content = np.frombuffer(bytearray(b"\x08\x01" + record), np.uint8)
    wire.scan(content, np.array([2, len(content)]), found)
    assert found[0].tolist() == [1, 0, 0, 0, 0, 0, 1]
    try:
        datum = proto.Datum.FromString(record)
    except DecodeError:
        assert not found[1, wire.PLAIN]
        return
    if not found[1, wire.PLAIN]:
        assert any(part[0] >> 3 in (6, 7) for part in parts)  # floats, or encoded
        return
    assert found[1, : wire.WIDTH + 1].tolist() == [datum.channels, datum.height, datum.width]
    start, size = found[1, wire.START], found[1, wire.SIZE]
    assert content[start : start + size].tobytes() == datum.data
    assert found[1, wire.LABEL] == datum.label
    assert not datum.encoded
    assert not len(datum.float_data)


def test_colours_are_decoded_to_blue_green_red():
    content = encoded(Image.new("RGB", (2, 1), (10, 20, 30)))
    datum = proto.Datum(encoded=True, data=content)
    np.testing.assert_array_equal(to_array(datum), np.array([30, 20, 10]).reshape(3, 1, 1).repeat(2, axis=2))
    assert to_array(datum, force_gray=True).shape == (1, 1, 2)


def test_gray_is_decoded_as_stored_or_to_three_equal_channels():
    datum = proto.Datum(encoded=True, data=encoded(Image.new("L", (2, 3), 9)))
    np.testing.assert_array_equal(to_array(datum), np.full((1, 3, 2), 9))
    np.testing.assert_array_equal(to_array(datum, force_color=True), np.full((3, 3, 2), 9))


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 4), ("LA", 4), ("CMYK", 3)]
)
def test_channels_as_stored(mode, channels):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(Image.new(mode, (5, 4)), kind)).shape == (channels, 4, 5)


@pytest.mark.parametrize("how", ["exported", "copied", "in pieces"])
def test_colours_come_the_same_whether_pillow_exports_them_or_not(how, monkeypatch):
    """Old Pillows export no pixels, and none exports an image that lies in several pieces of memory."""
    if how == "copied":
        monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)
    shape = (2100, 2000, 3) if how == "in pieces" else (5, 7, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), "PPM")
    np.testing.assert_array_equal(decode_image(content), pixels.transpose(2, 0, 1)[::-1])


def test_the_gray_of_a_jpeg_is_its_luma():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    content = encoded(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as stored:
        stored.draft("YCbCr", stored.size)
        luma = np.asarray(stored)[..., 0]
    np.testing.assert_array_equal(decode_image(content, color=False), [luma])


def test_the_orientation_of_the_camera():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert decode_image(content).shape == (3, 4, 6)
    assert decode_image(content, color=True).shape == (3, 6, 4)


SIXTEEN = np.array([[0, 255, 256], [511, 40_000, 65_535]], np.uint16)
PNM = b"P5 3 2 65535\n" + SIXTEEN.astype(">u2").tobytes()


@pytest.mark.parametrize("content", [encoded(Image.fromarray(SIXTEEN), kind) for kind in ("PNG", "TIFF")] + [PNM])
def test_gray_images_of_16_bits_give_their_high_bytes(content):
    """OpenCV's, where Caffe asks for a colour or a gray image; as they are, Caffe takes none but bytes."""
    high = np.array([[[0, 0, 1], [1, 156, 255]]], np.uint8)
    np.testing.assert_array_equal(decode_image(content, color=False), high)
    np.testing.assert_array_equal(decode_image(content, color=True), high.repeat(3, axis=0))
    with pytest.raises(DataError, match="more than 8 bits .*set force_color or force_gray"):
        decode_image(content)


def test_gray_images_of_16_bits_with_an_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.fromarray(SIXTEEN), exif=exif), color=False).tolist() == [
        [[1, 0], [156, 0], [255, 1]]
    ]


def test_images_deeper_than_16_bits():
    for color in (None, True, False):
        with pytest.raises(DataError, match="more than 8 bits"):
            decode_image(encoded(Image.new("F", (2, 2)), "TIFF"), color)


@pytest.mark.parametrize("content", [b"", b"plain text", encoded(Image.new("RGB", (64, 64)))[:60]])
def test_bytes_that_are_no_image(content):
    with pytest.raises(DataError, match="not an image|cannot be decoded"):
        to_array(proto.Datum(encoded=True, data=content))


def test_an_image_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"image {tmp_path / 'a.png'}: cannot be read"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"plain text")
    with pytest.raises(DataError, match=f"image {tmp_path / 'a.png'}: not an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("case", ["resize", "up_meanvalue"])
def test_resize_is_opencvs(case):
    layer = first_layer(FORMATS / f"imagedata__{case}.prototxt")
    param = layer.image_data_param
    mean = np.array(layer.transform_param.mean_value or [0], np.float32).reshape(-1, 1, 1)
    paths = [line.rsplit(" ", 1)[0] for line in (FORMATS / param.source).read_text().splitlines()]
    with np.load(FORMATS / f"imagedata__{case}.npz") as golden:
        for image, path in zip(golden["data_0"], paths, strict=False):
            pixels = read_image(FORMATS / param.root_folder / path)
            np.testing.assert_array_equal(resize(pixels, param.new_height, param.new_width) - mean, image)


def test_halving_takes_the_mean_of_four():
    image = np.array([[[1, 2, 10, 20], [3, 4, 30, 41]]], np.uint8)
    np.testing.assert_array_equal(resize(image, 1, 2), [[[3, 25]]])


def test_resizing_to_the_same_size_changes_nothing():
    np.testing.assert_array_equal(resize(PIXELS, 3, 4), PIXELS)


def test_a_datum_of_negative_size():
    datum = proto.Datum(channels=-1, height=-2, width=3, data=b"123456")
    with pytest.raises(DataError, match="sizes must not be negative"):
        to_array(datum)
    assert raw_batch(serialized(datum)) is None
