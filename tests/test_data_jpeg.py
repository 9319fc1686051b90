"""JPEG files that need no more than Pillow's decoder give the pixels that ``Image.open`` gives; the others go through it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from minicaffe.data import image as images
from minicaffe.data import jpeg
from minicaffe.data.image import decode_image, decode_packed
from minicaffe.errors import DataError

RNG = np.random.default_rng(16)
NOISE = Image.fromarray(RNG.integers(0, 256, (13, 21, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6

PLAIN = {
    "as it is": {},
    "progressive": {"progressive": True},
    "no subsampling, own tables": {"subsampling": 0, "optimize": True, "quality": 95},
    "restarts": {"restart_marker_rows": 1},
    "comment and density": {"comment": b"\xff\xe1 is no marker here", "dpi": (72, 72)},
    "a profile of colours": {"icc_profile": bytes(70_000)},
    "no luma but colours": {"keep_rgb": True},
}


def encoded(image: Image.Image = NOISE, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def opened(content: bytes) -> np.ndarray:
    """What ``Image.open`` gives, blue, green and red."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)[::-1]


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("color", [None, True])
def test_plain_files_need_not_be_opened(options, color, monkeypatch):
    content = encoded(**options)
    expected = opened(content)
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(decode_image(content, color), expected)


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (encoded(NOISE.convert("L")), (1, 13, 21)),
        (encoded(NOISE.convert("CMYK")), (3, 13, 21)),
        (encoded()[:20] + b"\0" + encoded()[20:], (3, 13, 21)),
    ],
    ids=["gray", "CMYK", "something between segments"],
)
def test_others_are_opened(content, shape):
    assert jpeg.size_of_plain(content) is None
    assert decode_image(content, color=None if shape[0] == 1 else True).shape == shape


def test_what_tells_the_orientation_is_read_only_where_it_counts(monkeypatch):
    content = encoded(exif=TURNED)
    turned = decode_image(content, color=True)
    monkeypatch.setattr(Image, "open", None)
    as_stored = decode_image(content)
    np.testing.assert_array_equal(turned, np.rot90(as_stored, -1, (1, 2)))


@pytest.mark.parametrize(
    "inserted",
    [b"\0", b"\xff", b"\xff\xe3\0\0", b"\xff\xe3\0\1", b"\xff\xd8", encoded()[158:177], b"\xff\xdc\0\4\0\1"],
    ids=["a byte", "a fill byte", "length 0", "length 1", "a second start", "a second frame", "another height"],
)
def test_files_that_could_be_read_in_two_ways_are_opened(inserted):
    content = encoded()
    assert content[158:160] == b"\xff\xc0" and content[177:179] == b"\xff\xc4"
    assert jpeg.size_of_plain(content) == NOISE.size
    assert jpeg.size_of_plain(content[:158] + inserted + content[158:]) is None
    assert jpeg.size_of_plain(content[:177] + inserted + content[177:]) is None


def test_files_cut_short_anywhere_are_refused():
    content = encoded()
    for end in [*range(0, 40, 3), *range(40, len(content) - 2, 61)]:
        with pytest.raises(DataError, match="decoded|known format"):
            decode_image(content[:end])


def test_damaged_files_are_what_image_open_makes_of_them(monkeypatch):
    """Bytes of the header changed, removed and put in: the same pixels, or the same error."""

    def outcome(content):
        try:
            return decode_image(content).tolist()
        except DataError as error:
            return str(error)

    contents = [encoded(), encoded(progressive=True)]
    damaged, plain = [], 0
    for n in range(300):
        content = bytearray(contents[n % 2])
        place = int(RNG.integers(2, 640))
        content[place : place + (n % 3 > 0)] = RNG.bytes(n % 3 < 2)
        size = jpeg.size_of_plain(bytes(content))
        if size is None or size[0] * size[1] < 1 << 20:
            damaged.append(bytes(content))
            plain += size is not None
    found = [outcome(content) for content in damaged]
    monkeypatch.setattr(images, "_plain_jpeg", lambda content, upright: None)
    assert found == [outcome(content) for content in damaged]
    assert plain > 50


def test_an_image_keeps_its_memory_while_it_is_held_and_then_leaves_it_to_the_next():
    contents = [encoded(Image.new("RGB", (8, 8), color)) for color in ("red", "lime", "blue")]
    first, second = map(decode_packed, contents[:2])
    np.testing.assert_array_equal(first.planes()[2], opened(contents[0])[2])
    np.testing.assert_array_equal(second.planes()[1], opened(contents[1])[1])
    memory = first.canvas
    del first
    third = decode_packed(contents[2])
    assert third.canvas is memory
    np.testing.assert_array_equal(third.planes(), opened(contents[2]))
    np.testing.assert_array_equal(second.planes(), opened(contents[1]))


def test_large_images_leave_no_memory_behind(monkeypatch):
    monkeypatch.setattr(jpeg, "_KEPT", 21 * 13 - 1)
    image = decode_packed(encoded())
    memory = image.canvas
    del image
    assert decode_packed(encoded()).canvas is not memory


def test_a_file_that_claims_too_many_pixels_is_not_decoded():
    content = bytearray(encoded())
    place = content.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", content, place, 9000, 9000)
    assert jpeg.size_of_plain(bytes(content)) == (9000, 9000)
    with pytest.raises(DataError, match="9000 x 9000 pixels; up to"):
        decode_image(bytes(content))
