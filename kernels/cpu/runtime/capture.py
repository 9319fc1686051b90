"""Ops that were run once, to be run again on the same arrays in one call: without Python, and without ending the
threads in between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from minicaffe.kernels.cpu.runtime import launch
from minicaffe.kernels.cpu.runtime.threads import thread_count

REPEATABLE = frozenset(
    {
        "average_pool",
        "average_pool_grad",
        "bias_add",
        "bias_grad",
        "channelwise",
        "check_labels",
        "contrastive_loss",
        "contrastive_loss_grad",
        "convolve",
        "convolve_data_grad",
        "convolve_weight_grad",
        "dot",
        "elementwise",
        "gemm",
        "loss_normalizer",
        "lrn",
        "lrn_grad",
        "lrn_within",
        "lrn_within_grad",
        "max_pool",
        "max_pool_grad",
        "scale",
        "scale_grad",
        "softmax",
        "softmax_grad",
        "softmax_loss",
        "softmax_loss_grad",
        "standardize",
        "standardize_grad",
    }
)
"""Ops that do all they do in parallel kernels, unless they say otherwise (``spoil``)."""

Thing = TypeVar("Thing")


class Recording:
    """Launches of kernels in a row, with the arguments they had.

    ``room`` bytes are what it may take.  It holds on to the memory that it was told of (``keep``); that of the arrays
    which the ops got is up to the caller.
    """

    current: Recording | None = None
    """The one that is being made, by whichever thread."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.complete = False
        """Whether all that was done is in it."""
        self.checks: list[Any] = []
        """What whoever made it wants to look at after each run."""
        self._threads = 0
        self._kept: list[Any] = []
        self._memory = np.zeros(room + launch.LINE, np.uint8)
        self._start = -(-self._memory.ctypes.data // launch.LINE) * launch.LINE
        self._end = self._start

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Record what this Python thread runs in a ``with`` block; one at a time in the process.

        Afterwards ``room`` is the number of bytes that it takes, ``complete`` false where these are more than there
        were.
        """
        self._threads, self.complete = thread_count(), True
        launch.record[1:] = self._start, self.room, 0
        Recording.current = self
        launch.record[0] = threading.get_ident()
        try:
            yield
        finally:
            launch.record[0] = 0
            Recording.current = None
            used = int(launch.record[3])
            self.complete &= used <= self.room
            self.room, self._end = used, self._start + used

    def run(self) -> None:
        """Run all of it again, on as many threads as when it was made."""
        if self._end > self._start:
            launch.run_record(self._start, self._end, self._threads)


def mine() -> Recording | None:
    """The recording that this thread is making."""
    return Recording.current if launch.record[0] == threading.get_ident() else None


def keep(thing: Thing) -> Thing:
    """Have a recording hold on to something whose memory kernels were given; returns it."""
    if Recording.current is not None:  # asked at each call of an op; the rest only while some thread records
        made = mine()
        if made is not None:
            made._kept.append(thing)
    return thing


def spoil() -> None:
    """Note that something is done that a recording does not hold."""
    made = mine()
    if made is not None:
        made.complete = False


class RecordedOps:
    """The ops of a module; those that are not ``REPEATABLE`` spoil the recording."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        if name not in REPEATABLE:
            spoil()
        return getattr(self._ops, name)
