"""How many threads the work on an array is shared out over."""

from __future__ import annotations

import contextlib
import functools
import threading

import numba

from minicaffe.kernels.cpu.runtime.compile import kernel, outside

_LEAST = 1 << 13  # elements: waking a thread takes about as long as a simple pass over so many
_LEAST_PRODUCTS = 1 << 18  # multiplications: fewer are done before another thread wakes
_held = threading.local()


@functools.cache
def _start() -> None:
    """Start Numba's threads, without which no parallel kernel runs."""
    numba.get_num_threads()


_number = outside("get_num_threads", 4)


@kernel()
def _numbas():
    return _number()


def get_num_threads() -> int:
    """How many threads Numba has for this Python thread.

    Numba's own function of this name makes a dozen calls, which, behind kernels that filled the caches, take as long as
    a small layer; compiled, it cannot be kept on disk.
    """
    _start()
    return _numbas()


def set_num_threads(count: int) -> None:
    """Give Numba so many threads for this Python thread."""
    if get_num_threads() != count:
        numba.set_num_threads(count)


class held(contextlib.AbstractContextManager):
    """Let ``thread_count`` give Numba's ``count`` for a ``with`` block, in this Python thread; asking Numba takes as
    long as a small kernel.
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
    """Parts to divide ``size`` elements into: one a thread, but none too small to be worth waking one."""
    threads = thread_count()  # for any size: asking starts Numba's threads
    return max(1, min(threads, size // _LEAST)) if size >= 2 * _LEAST else 1


def product_threads(products: int, threads: int) -> int:
    """Of ``threads``, those to share so many multiplications of matrix products out over."""
    return threads if products >= _LEAST_PRODUCTS else 1
