"""Which threads kernels run on, and how many of them the work on an array is shared out over.

Numba has them from one of three libraries, its threading layers.  Kernels are tuned for OpenMP's, and use them wherever
that library is there, unless the user has chosen another (NUMBA_THREADING_LAYER).

A fork copies none of these threads.  A process that is forked once they have started computes on one thread, and enters
no parallel loop: OpenMP would end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator

import llvmlite.binding as llvm
import numba
from numba.core.compiler_lock import global_compiler_lock

_LEAST = 1 << 13  # elements: a simple pass over so many takes about as long as waking a thread
_LEAST_PRODUCTS = 1 << 18  # multiplications: fewer take less time than waking a thread
_alone = False
_pretended: int | None = None  # threads, while it is only to be found out what would run on so many


class _Held(threading.local):
    """What ``hold`` was given in this Python thread."""

    count: int | None = None


_held = _Held()


def _choose_layer() -> None:
    """Have Numba take OpenMP, or its own threads where that is missing, if nobody has chosen."""
    if numba.config.THREADING_LAYER == "default":
        try:
            importlib.import_module("numba.np.ufunc.omppool")
        except ImportError:
            numba.config.THREADING_LAYER = "workqueue"
        else:
            numba.config.THREADING_LAYER = "omp"


_choose_layer()


@functools.cache
def _start() -> None:
    """Start Numba's threads, which parallel kernels need."""
    numba.get_num_threads()


def threading_layer() -> str:
    """The library that Numba's threads are from, "omp", "workqueue" or "tbb"; starts them."""
    _start()
    return numba.threading_layer()


def alone() -> bool:
    """Whether this process was forked from one whose threads had started, so that it has only the one it began with."""
    return _alone


def _after_fork() -> None:
    """In the forked process: nothing is left of a pass that was under way, nor of the threads."""
    global _alone, _held
    _held = _Held()
    if _pretended is not None:
        return
    try:
        numba.threading_layer()
    except ValueError:
        return  # they have not started: this process starts its own
    _alone = True


# Kernels that another thread compiles are waited for, or this process could never compile any.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)
os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """In a ``with`` block, and in processes that are forked there, have there be as many threads as now.

    In those nothing can run on them, and in a rehearsal of kernels Numba cannot be asked.
    """
    global _pretended
    earlier, _pretended = _pretended, get_num_threads()
    try:
        yield
    finally:
        _pretended = earlier


@functools.cache
def _numbas() -> Callable[[], int]:
    """Numba's own C function, called with the interpreter's lock held: it only looks."""
    _start()
    return ctypes.PYFUNCTYPE(ctypes.c_int)(llvm.address_of_symbol("get_num_threads"))


def get_num_threads() -> int:
    """How many threads Numba has for this Python thread.

    Numba's own function of this name makes a dozen calls.  They take as long as a small layer when kernels have just
    evicted them from the caches.
    """
    if _pretended is not None:
        return _pretended
    if _alone:
        return 1
    return _numbas()()


def set_num_threads(count: int) -> None:
    """Set how many threads Numba has for this Python thread."""
    global _pretended
    if _pretended is not None:
        _pretended = count
    elif not _alone and get_num_threads() != count:
        numba.set_num_threads(count)


def hold(count: int | None) -> int | None:
    """Let ``thread_count`` return ``count``, which must be Numba's, in this Python thread from now on; None: ask Numba,
    which takes as long as a small kernel.  Returns what it was before, to be held again in the end.
    """
    earlier, _held.count = _held.count, count
    return earlier


@contextlib.contextmanager
def held(count: int) -> Iterator[None]:
    """Hold ``count`` for a ``with`` block."""
    earlier = hold(count)
    try:
        yield
    finally:
        hold(earlier)


def thread_count() -> int:
    """How many threads Numba has for this Python thread's kernels."""
    return 1 if _alone else _held.count or get_num_threads()


def parts(size: int, least: int | None = None) -> int:
    """Into how many parts to divide ``size`` elements: one a thread, but none so small, of less than ``least``, that it
    is not worth a thread.
    """
    threads = thread_count()  # even for few elements: asking starts Numba's threads
    return max(1, min(threads, size // (least or _LEAST)))


def product_threads(products: int, threads: int) -> int:
    """How many of ``threads`` to use for so many multiplications of a matrix product."""
    return threads if products >= _LEAST_PRODUCTS else 1
