"""Scratch memory: kernels work in it, and nobody reads it afterwards."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from minicaffe.kernels.reference import Array

_of_thread = threading.local()


def scratch_array(shape: Sequence[int]) -> Array:
    """Scratch memory as a float64 array."""
    count = math.prod(shape)
    return scratch(8 * count)[: 8 * count].view(np.float64).reshape(shape)


def scratch(size: int) -> Array:
    """At least ``size`` bytes, the same ones at each call from this thread as long as they suffice.

    The contents are undefined, though at first 0.
    """
    memory = getattr(_of_thread, "memory", None)
    if memory is None or memory.size < size:
        memory = _of_thread.memory = np.zeros(size, np.uint8)
    return memory


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """In a ``with`` block, have scratch memory of its own: what is launched there is replayed beside other work."""
    before = getattr(_of_thread, "memory", None)
    _of_thread.memory = None
    try:
        yield
    finally:
        _of_thread.memory = before
