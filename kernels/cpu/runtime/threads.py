"""How many threads work on an array."""

from __future__ import annotations

import contextlib
import functools
import threading

import numba

from minicaffe.kernels.cpu.runtime.compile import kernel, outside

_LEAST = 1 << 13  # elements: a simple pass over so many takes about as long as waking a thread
_LEAST_PRODUCTS = 1 << 18  # multiplications: fewer take less time than waking a thread
_held = threading.local()


@functools.cache
def _start() -> None:
    """Start Numba's threads, which parallel kernels need."""
    numba.get_num_threads()


_number = outside("get_num_threads", 4)


@kernel()
def _numbas():
    return _number()


def get_num_threads() -> int:
    """How many threads Numba has for this Python thread.

    Numba's own function of this name makes a dozen calls.  They take as long as a small layer when kernels have just
    evicted them from the caches, and a kernel that calls it could not be cached on disk.
    """
    _start()
    return _numbas()


def set_num_threads(count: int) -> None:
    """Set how many threads Numba has for this Python thread."""
    if get_num_threads() != count:
        numba.set_num_threads(count)


class held(contextlib.AbstractContextManager):
    """Let ``thread_count`` return ``count``, which must be Numba's, for a ``with`` block in this Python thread: asking
    Numba takes as long as a small kernel.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._earlier = getattr(_held, "count", None)
        _held.count = self._count

    def __exit__(self, *_: object) -> None:
        _held.count = self._earlier


def thread_count() -> int:
    """How many threads Numba has for this Python thread's kernels."""
    return getattr(_held, "count", None) or get_num_threads()


def parts(size: int) -> int:
    """Into how many parts to divide ``size`` elements: one a thread, but none so small that it is not worth a thread."""
    threads = thread_count()  # even for few elements: asking starts Numba's threads
    return max(1, min(threads, size // _LEAST)) if size >= 2 * _LEAST else 1


def product_threads(products: int, threads: int) -> int:
    """How many of ``threads`` to use for so many multiplications of a matrix product."""
    return threads if products >= _LEAST_PRODUCTS else 1
