"""How many of the CPU's cores nets and solvers compute on: one number for the process."""

from __future__ import annotations

import logging
import os
import platform

import numba
import numpy as np

from minicaffe import arguments
from minicaffe.errors import DeviceError
from minicaffe.kernels.cpu.runtime import threads

_log = logging.getLogger("minicaffe")


def _limit() -> tuple[int, str]:
    """The most threads this process may have, and what sets that limit."""
    launched = int(numba.config.NUMBA_NUM_THREADS)
    own = "NUMBA_NUM_THREADS" if "NUMBA_NUM_THREADS" in os.environ else f"the {launched} core(s) this process may use"
    openmp = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if openmp.isdigit() and 0 < int(openmp) < launched:
        return int(openmp), "OMP_NUM_THREADS"
    return launched, own


_most, _limited_by = _limit()
_chosen = _most if _limited_by == "OMP_NUM_THREADS" else None
_untold = False
"""Whether the user has yet to be told that a forked process computes on one thread."""


def _after_fork() -> None:
    """In a process forked from one whose threads had started: there is one thread (``kernels.cpu.runtime.threads``)."""
    global _most, _limited_by, _chosen, _untold
    if threads.alone():
        _untold = _most > 1
        _most, _limited_by, _chosen = 1, "the fork that this process began with (use the start method 'spawn')", 1


os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(n: int) -> None:
    """Compute on ``n`` threads of the CPU from the next pass on, whichever Python thread runs it.

    They are Numba's: NumPy's BLAS is held at one thread while layers of users run. A data layer reads ahead in a thread
    of its own, and decodes images on as many as this number was when the layer was made. DeviceError unless n is at
    least 1 and at most the cores this process may use, or ``NUMBA_NUM_THREADS`` or ``OMP_NUM_THREADS`` where these were
    set at the start.
    """
    global _chosen
    n = arguments.whole(n, "the number of threads", DeviceError)
    if not 1 <= n <= _most:
        raise DeviceError(f"{n} threads were asked for; expected 1 to {_most}, limited by {_limited_by}")
    _chosen = n


def most() -> int:
    """The threads this process may have."""
    return _most


def is_chosen() -> bool:
    """Whether somebody said how many threads to compute on: ``set_num_threads``, or the environment."""
    return _chosen is not None or "NUMBA_NUM_THREADS" in os.environ


def get_num_threads() -> int:
    """The threads a pass computes on; as many as this process may have unless ``set_num_threads`` was called."""
    return _chosen or _most


def apply() -> int:
    """Give the calling Python thread the chosen number, for Numba keeps one for each; returns how many it has now."""
    global _untold
    if _untold:
        _untold = False
        _log.warning(
            "Computing on one thread: this process was forked from one that had computed; processes started by 'spawn' "
            "have all threads (multiprocessing.get_context('spawn'))"
        )
    if _chosen is None:
        return threads.get_num_threads()
    threads.set_num_threads(_chosen)
    return _chosen


def describe() -> list[str]:
    """What the CPU's threads and numbers come from, a line each; starts the threads."""
    layer = threads.threading_layer()
    names = {"omp": "OpenMP", "tbb": "TBB", "workqueue": "Numba's own"}
    return [
        f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}",
        f"threads: {get_num_threads()} of {_most}, limited by {_limited_by}",
        f"threading layer: {layer} ({names.get(layer, layer)}); NUMBA_THREADING_LAYER chooses another",
    ]
