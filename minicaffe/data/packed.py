"""Colour images as Pillow holds them in memory, seen there where it lets others look, so that they need no copy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from minicaffe.kernels.cpu.transform import crop_packed


class PackedImage:
    """An image (3, height, width) of bytes that is yet to be taken apart into its planes blue, green and red.

    ``shape`` and ``dtype`` are those of the planes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, canvas: Any, view: np.ndarray | None = None) -> None:
        """``canvas``: an image of Pillow's, of mode RGB; ``view``: what `exported` gave for it, if it was asked."""
        self.shape = (3, canvas.height, canvas.width)
        self.canvas, self.view = canvas, exported(canvas) if view is None else view

    def crop(self, offset: np.ndarray, mirrored: np.bool_, out: np.ndarray) -> None:
        """The planes of the part from row and column ``offset`` on, perhaps mirrored, into ``out`` (3, h, w)."""
        crop_packed(self._pixels(), offset[0], offset[1], mirrored, out)

    def _pixels(self) -> np.ndarray:
        """The pixels (height, width) uint32, as ``crop_packed`` takes them; not to be written to."""
        if self.view is not None:
            return self.view
        return np.frombuffer(self.canvas.tobytes("raw", "RGBX"), np.uint32).reshape(self.shape[1:])

    def planes(self) -> np.ndarray:
        """All of the image, uint8 (3, height, width)."""
        out = np.empty(self.shape, np.uint8)
        self.crop(np.zeros(2, np.int64), np.False_, out)
        return out


def planes(image: np.ndarray | PackedImage) -> np.ndarray:
    """An image (channels, height, width) as an array."""
    return image.planes() if isinstance(image, PackedImage) else image


def exported(image: Any) -> np.ndarray | None:
    """The memory of a Pillow image of mode RGB, (height, width) uint32, whatever is written there later; None if Pillow
    lets nobody look: before 11.2, or where an image lies in several pieces."""
    try:
        return np.asarray(_Exported(image))
    except (AttributeError, ValueError):
        return None


class _ArrowArray(ctypes.Structure):
    """An array of Arrow's C data interface (arrow.apache.org/docs/format/CDataInterface.html)."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Exported:
    """Memory that Pillow exports as an Arrow array and keeps as long as this lives: for each pixel a list of 4 bytes.

    Raises AttributeError or ValueError if it cannot be had, or is not that.
    """

    def __init__(self, image: Any) -> None:
        _, self._capsule = image.__arrow_c_array__()
        pixels = _ArrowArray.from_address(_pointer_of(self._capsule, b"arrow_array"))
        count = image.height * image.width
        values = pixels.children[0].contents if pixels.n_children == 1 else pixels
        if _alignment() > 1 or (pixels.length, values.length, values.n_buffers) != (count, 4 * count, 2):
            raise ValueError("not pixels of 4 bytes, one behind the other")
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(np.uint32).str,
            "shape": (image.height, image.width),
            "data": (values.buffers[1], True),
        }


def _alignment() -> int:
    """Bytes to whose multiples Pillow pads each row of an image: 1, unless PILLOW_ALIGNMENT says otherwise."""
    from PIL import Image

    return Image.core.get_alignment()
