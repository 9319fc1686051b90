"""Image files to arrays (channels, height, width) of bytes, colours in the order blue, green, red, as OpenCV gives them
to Caffe.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minicaffe import limits
from minicaffe.data import jpeg
from minicaffe.data.packed import PackedImage, planes
from minicaffe.errors import DataError, MinicaffeError

Pixels = TypeVar("Pixels")

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "SUN")
"""Pillow's names of the formats that are read: those of OpenCV, and GIF.  Others start programs, or are rarely tested.
"""

MOST_PIXELS = 1 << 26
"""Pixels of an image: a small file may claim any number of them."""

_ROWS = 64  # that become gray at once, to save memory
_BYTES_A_PIXEL = 24  # while an image is decoded
_WEIGHT = 1 << 11  # OpenCV's fixed point for 8-bit images


def extensions() -> set[str]:
    """How the names of files in the ``FORMATS`` end: ``.png``, …"""
    from PIL import Image

    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}


def read_image(path: str | os.PathLike[str], color: bool | None = True) -> np.ndarray:
    """The image in a file, uint8 (channels, height, width); ``color`` and errors as in ``decode_image``."""
    return read_with(decode_image, path, color)


def read_with(
    decode: Callable[[bytes, bool | None], Pixels], path: str | os.PathLike[str], color: bool | None = True
) -> Pixels:
    """The image in a file, as ``decode`` gives it; DataError names the file."""
    try:
        content = limits.read_file(path)
        return decode(content, color)
    except OSError as error:
        raise DataError(f"image {os.path.abspath(path)}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise DataError(f"image {os.path.abspath(path)}: {error}") from error


def read_label_map(path: str | os.PathLike[str]) -> np.ndarray:
    """The labels in an image file, uint8 (1, height, width): gray values, or where its pixels are numbers of colours in
    a palette (PASCAL VOC), these numbers.  Errors as in ``decode_image``.
    """
    return planes(read_with(_decode_numbers, path, color=False))


def _decode_numbers(content: bytes, color: bool | None) -> np.ndarray | PackedImage:
    return decode_packed(content, color, numbers=True)


def decode_image(content: bytes, color: bool | None = None) -> np.ndarray:
    """Decode an image file, uint8 (channels, height, width).

    ``color``: true for 3 channels, false for 1, None for what the file has (1, 3, or 4 with transparency). As OpenCV
    does for Caffe, the camera's orientation is applied unless ``color`` is None.

    Raises DataError if the bytes are no image of the ``FORMATS``, or its pixels are deeper than 8 bits or more than
    ``MOST_PIXELS``.
    """
    return planes(decode_packed(content, color))


def decode_packed(content: bytes, color: bool | None = None, numbers: bool = False) -> np.ndarray | PackedImage:
    """``decode_image`` for whoever needs a part of the image only: one of three channels comes packed.

    ``numbers``: of an image with a palette of colours take the number of each pixel's colour.
    """
    if color is not False and (plain := _plain_jpeg(content, upright=bool(color))):
        return plain
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"an image of {image.width} x {image.height} pixels; up to {MOST_PIXELS} are decoded: make it "
                    "smaller"
                )
            _require_memory(image.size)
            kind = image.format
            if color is False:
                image.draft("L", image.size)  # a JPEG holds its gray image ready
            if color is not None:
                ImageOps.exif_transpose(image, in_place=True)
            if numbers and _has_colored_palette(image):
                return np.array(image)[np.newaxis]
            bytewise = _high_bytes(image, kind, color) if image.mode.startswith(("I", "F")) else image
            mode = _mode(bytewise, color)
            pixels = _pixels(bytewise if bytewise.mode == mode else bytewise.convert(mode))
    except UnidentifiedImageError as error:
        raise DataError(f"not an image of a known format ({len(content)} bytes)") from error
    except MinicaffeError:
        raise
    except Exception as error:  # decoders of damaged files raise errors of any kind
        raise DataError(f"an image that cannot be decoded ({str(error) or type(error).__name__})") from error
    return _gray(pixels, kind == "PNG")[np.newaxis] if color is False else pixels


def _plain_jpeg(content: bytes, upright: bool) -> PackedImage | None:
    """The image of a JPEG file, if it asks for nothing else than to be decoded, and is whole."""
    size = jpeg.size_of_plain(content, upright)
    if size is None or not 0 < size[0] * size[1] <= MOST_PIXELS:
        return None
    _require_memory(size)
    return jpeg.decoded(content, size)


def _require_memory(size: tuple[int, int]) -> None:
    limits.require_memory(_BYTES_A_PIXEL * size[0] * size[1], "an image", "make it smaller")


def _has_colored_palette(image: Any) -> bool:
    colors = np.reshape(image.getpalette("RGB") or [], (-1, 3)) if image.mode == "P" else np.empty((0, 3))
    return bool((colors != colors[:, :1]).any())


def _high_bytes(image: Any, kind: str | None, color: bool | None) -> Any:
    """The upper 8 bits of a gray image of 16, as OpenCV gives Caffe where it asks for bytes."""
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM"))
    if color is None or not sixteen:
        raise DataError(
            f"an image of more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits"
            + ("; or set force_color or force_gray, which take the upper 8" if sixteen else "")
        )
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _pixels(image: Any) -> np.ndarray | PackedImage:
    """The pixels (channels, height, width) of a Pillow image: gray, or blue, green, red and perhaps transparency."""
    if image.mode == "RGB":
        image.load()  # before its file is closed
        return PackedImage(image)
    bands = {"L": "L", "RGBA": "BGRA"}[image.mode]
    content = bytearray().join(image.tobytes("raw", band) for band in bands)
    return np.frombuffer(content, np.uint8).reshape(len(bands), image.height, image.width)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (channels, h, w) of bytes by bilinear interpolation; OpenCV's INTER_LINEAR, bit for bit."""
    limits.require_memory(
        4 * len(image) * width * max(image.shape[1], 3 * height),
        f"an image of {height} x {width}",
        "take a smaller size",
    )
    if image.shape[1:] == (2 * height, 2 * width):  # OpenCV takes the mean of 4 pixels here
        quads = image.reshape(len(image), height, 2, width, 2).sum((2, 4), dtype=np.int32)
        return ((quads + 2) >> 2).astype(np.uint8)
    y0, y1, wy0, wy1 = _taps(image.shape[1], height)
    x0, x1, wx0, wx1 = _taps(image.shape[2], width)
    outside = x0 == x1  # past the border OpenCV takes one pixel in a row, but the same row twice: that rounds otherwise
    wx0, wx1 = np.where(outside, _WEIGHT, wx0), np.where(outside, 0, wx1)
    rows = (image[:, :, x0].astype(np.int32) * wx0 + image[:, :, x1] * wx1) >> 4
    above, below = rows[:, y0] * wy0[:, np.newaxis] >> 16, rows[:, y1] * wy1[:, np.newaxis] >> 16
    return ((above + below + 2) >> 2).astype(np.uint8)


def _taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both source indices of each destination pixel along an axis, and their weights in fixed point."""
    position = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).astype(np.float32)
    left = np.floor(position).astype(np.int32)
    fraction = position - left.astype(np.float32)
    last = size - 1
    return left.clip(0, last), (left + 1).clip(0, last), _fixed(1 - fraction), _fixed(fraction)


def _fixed(weight: np.ndarray) -> np.ndarray:
    return np.rint(weight * np.float32(_WEIGHT)).astype(np.int32)


def _mode(image: Any, color: bool | None) -> str:
    """The Pillow mode to decode ``image`` into."""
    if image.mode == "1" or image.mode == "L":
        return "RGB" if color else "L"
    return "RGBA" if color is None and image.has_transparency_data else "RGB"


def _gray(pixels: np.ndarray | PackedImage, png: bool) -> np.ndarray:
    """The gray image of a coloured one, or of a gray one; libpng and OpenCV round differently."""
    coloured = planes(pixels)
    if len(coloured) == 1:
        return coloured[0]
    gray = np.empty(coloured.shape[1:], np.uint8)
    for start in range(0, len(gray), _ROWS):
        rows = slice(start, start + _ROWS)
        blue, green, red = coloured[:3, rows].astype(np.int32)
        if png:
            gray[rows] = (9797 * red + 19234 * green + 3737 * blue) >> 15
        else:
            gray[rows] = (4899 * red + 9617 * green + 1868 * blue + (1 << 13)) >> 14
    return gray
