"""Waiting until a process' threads sleep.  It imports nothing large, so that any contestant's process can."""

from __future__ import annotations

import time

_LOOK = 0.002  # seconds for which nobody must run


def settle(most: float = 0.3) -> None:
    """Wait, ``most`` seconds at most, until no thread of the process runs.

    A library's idle threads look for work for a while before they sleep, OpenBLAS's for some 25 ms: in that time they
    take cores from whoever is measured next.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _LOOK / 4:
            return
