"""Memory of the host: arrays begin at cache lines, since a register that is read across two takes twice as long; large
ones go back to the system as soon as the last array in them goes.

What NumPy takes of the C library mostly stays with the process, as free pieces between others: nearly all that a
ResNet-50 took.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE = 64  # bytes
_LARGE, _HUGE = 1 << 20, 1 << 22  # bytes from which an array has pages of its own; huge ones, as NumPy's have
_HUGE_PAGE = 1 << 21  # bytes; on other processors it may be more, and some pages then stay small


def zeros(shape: Sequence[int], dtype: DTypeLike) -> NDArray:
    """A new zero-filled, C-contiguous array; MemoryError if there is no room."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        memory = np.zeros(size + _LINE, np.uint8)
        first = -memory.ctypes.data % _LINE
        return memory[first : first + size].view(dtype).reshape(shape)
    huge = size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    try:
        pages = mmap.mmap(-1, size + huge * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        return np.zeros(shape, dtype)  # raises a MemoryError that says how much was asked for
    first = 0
    if huge:  # huge pages begin at multiples of their size; what lies before and behind them is never touched
        first = -np.frombuffer(pages, np.uint8).ctypes.data % _HUGE_PAGE
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE, first, size // _HUGE_PAGE * _HUGE_PAGE)
    return np.frombuffer(pages, dtype, math.prod(shape), first).reshape(shape)
