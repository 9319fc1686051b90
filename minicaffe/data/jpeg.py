"""The pixels of JPEG files as most are, without what else Pillow reads in them.

``Image.open`` takes a file apart in Python, segment by segment, which holds the interpreter's lock: a tenth of the time
that 256 x 256 pixels take.  Here only the size is looked for; then Pillow's decoder gets the file as it is, and gives
the same pixels.  Old ones believe the size that they are told, whatever the file says, and write past their memory: so
files that could be read in two ways are none of these.  Segments and markers: ISO/IEC 10918-1, annex B.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import numpy as np

from minicaffe.data.packed import PackedImage, exported

_START = b"\xff\xd8"
_SEGMENT = struct.Struct(">BBH")  # 255, the kind, the length from there on
_FRAME = struct.Struct(">BHHB")  # bits of a sample, height, width, components
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # of Huffman codes: baseline, extended, progressive
_SCAN = 0xDA
_PASSED_OVER = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Tables, comments and what applications add."""
_ORIENTATION = 0xE1  # where applications tell, perhaps, how the camera was held

_KEPT = 1 << 20  # pixels at most of an image whose memory is kept
_spare: deque[tuple[Any, np.ndarray | None]] = deque(maxlen=8)


def size_of_plain(content: bytes, upright: bool = False) -> tuple[int, int] | None:
    """Width and height of the image in a JPEG file of three components of 8 bits; None of any other file.

    ``upright``: None also of one that may have to be turned.
    """
    if not content.startswith(_START):
        return None
    size, position = None, len(_START)
    while position + _SEGMENT.size + _FRAME.size <= len(content):
        mark, kind, length = _SEGMENT.unpack_from(content, position)
        if mark != 0xFF:
            return None
        if kind == _SCAN:
            return size
        if kind in _FRAMES and size is None:
            bits, height, width, components = _FRAME.unpack_from(content, position + _SEGMENT.size)
            if bits != 8 or components != 3:
                return None
            size = width, height
        elif kind not in _PASSED_OVER or (upright and kind == _ORIENTATION):
            return None
        position += 2 + length
    return None


def decoded(content: bytes, size: tuple[int, int]) -> PackedImage | None:
    """The image in a file of which ``size_of_plain`` gave this size; None if the file is damaged."""
    image = _canvas(size)
    try:
        image.canvas.frombytes(content, "jpeg", "RGB", "")
    except ValueError:
        return None
    return image


def _canvas(size: tuple[int, int]) -> PackedImage:
    """An image to decode into, in memory of one that nobody holds any more, if it was as large."""
    from PIL import Image

    try:
        canvas, view = _spare.pop()
    except IndexError:
        pass
    else:
        if canvas.size == size:
            return _Passing(canvas, view)
    canvas = Image.new("RGB", size, None)
    return _Passing(canvas, exported(canvas)) if size[0] * size[1] <= _KEPT else PackedImage(canvas)


class _Passing(PackedImage):
    """An image whose memory, and the view on it, serve the next: to clear and to export it takes time, too."""

    def __del__(self) -> None:
        _spare.append((self.canvas, self.view))
