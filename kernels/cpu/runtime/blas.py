"""Limits NumPy's BLAS, which layers written by users may call, to one thread, since Numba's threads use the cores."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
from contextlib import AbstractContextManager


class _SingleThread(AbstractContextManager):
    """Limits every BLAS that is loaded at its first use to one thread while at least one ``with`` block is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._earlier: list[int] = []

    @functools.cached_property
    def _libraries(self) -> list:
        with contextlib.suppress(ImportError):
            importlib.import_module("scipy.linalg.cython_blas")  # as Numba does for its first kernel, if SciPy is there
        from threadpoolctl import ThreadpoolController  # here: layers of users alone need it

        return ThreadpoolController().select(user_api="blas").lib_controllers

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._earlier = [library.get_num_threads() for library in self._libraries]
                for library in self._libraries:
                    library.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for library, threads in zip(self._libraries, self._earlier, strict=True):
                    library.set_num_threads(threads)

    def _after_fork(self) -> None:
        """In the forked process: the lock may have been another thread's."""
        self._lock = threading.Lock()


_single_thread = _SingleThread()
os.register_at_fork(after_in_child=_single_thread._after_fork)


def single_threaded_blas() -> AbstractContextManager[None]:
    """Limit BLAS to one thread for a ``with`` block, so that the cores are free for Numba's threads; may be nested."""
    return _single_thread
