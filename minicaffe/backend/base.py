"""What a backend offers to blobs, layers and solvers: arrays, ops, random numbers, scratch memory."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe.backend import generation


class Capture(ABC):
    """What ran inside ``Backend.capture``, to be replayed on the same arrays without Python in between.

    It owns all memory that it reads and writes: as long as it lives, nothing that it was given can be freed.
    """

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether a replay does everything that was done while it was made."""

    @abstractmethod
    def replay(self) -> None:
        """Do all of it again, ``Backend.check_later`` included, where it was done."""


class RandomSource(ABC):
    """Random numbers made where the arrays of a backend live, with a state that snapshots can keep."""

    @abstractmethod
    def uniform(self, out: Any) -> None:
        """Fill ``out`` with numbers in (0, 1]."""

    @abstractmethod
    def bernoulli(self, out: Any, keep: float) -> None:
        """Fill ``out`` with 1 (probability ``keep``) and 0."""

    @abstractmethod
    def get_state(self) -> bytes:
        """Where the numbers stand, for a snapshot."""

    @abstractmethod
    def set_state(self, state: bytes) -> None:
        """Continue where ``get_state`` was called; SnapshotError if ``state`` is not of this kind of source."""


class Backend(ABC):
    """One kind of array memory with the primitives that run on it.

    ``xp`` is the array module (NumPy or CuPy), ``ops`` holds every function of ``kernels/reference`` under its name,
    ``random`` makes random numbers in place.  ``is_host`` says that arrays are NumPy arrays, so nothing needs copying.
    """

    name: str
    xp: Any
    ops: Any
    random: RandomSource
    is_host: bool

    def __init__(self) -> None:
        self._workspaces: dict[np.dtype, Any] = {}
        self._growing = threading.Lock()
        self._checks: list[tuple[Any, Callable[[int], Exception]]] = []

    @abstractmethod
    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        """A new zero-filled, C-contiguous array of this backend."""

    @abstractmethod
    def upload(self, host: NDArray, out: Any) -> None:
        """Copy a NumPy array into an array of this backend of the same shape and dtype."""

    @abstractmethod
    def download(self, array: Any, out: NDArray) -> None:
        """Copy an array of this backend into a NumPy array, waiting until it is there."""

    @abstractmethod
    def running(self, user_layers: bool = False) -> contextlib.AbstractContextManager[None]:
        """Held around a pass over a net: one pass at a time, threads and streams set up for the kernels.

        ``user_layers``: layers that users wrote run in it, so NumPy's BLAS must leave the cores to the kernels.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything issued so far."""

    def settings(self) -> tuple:
        """What the choice of kernels depends on beside their arguments."""
        return ()

    def capture(self) -> contextlib.AbstractContextManager[Capture | None]:
        """Held around ops, which run as ever, to have them captured; gives None if this backend cannot capture."""
        return contextlib.nullcontext()

    def not_capturable(self) -> None:
        """Note that something is done that a replay of the capture being made would leave out; nothing if none is."""
        return None

    def reserve(self, count: int, dtype: DTypeLike) -> None:
        """Make the scratch memory that all layers share hold at least ``count`` elements of ``dtype``."""
        dtype = np.dtype(dtype)
        with self._growing:  # a net that another thread makes at once must not put a smaller one in its place
            if dtype not in self._workspaces or self._workspaces[dtype].size < count:
                self._workspaces[dtype] = self.zeros((count,), dtype)
                generation.advance()

    def workspace(self, dtype: DTypeLike) -> Any:
        """The shared scratch memory, a flat array; its contents last only as long as one call of an op."""
        return self._workspaces[np.dtype(dtype)]

    def check_later(self, flag: Any, error: Callable[[int], Exception]) -> None:
        """Raise ``error(flag)`` if the int32 scalar ``flag`` is not negative: now on the host, at ``run_checks`` on a
        device.

        A kernel can so report bad input without making every iteration wait for the device.  A replay of a capture checks
        anew, at the same place.
        """
        self._checks.append((flag, error))
        if self.is_host:
            self.run_checks()

    def run_checks(self) -> None:
        """Look at the flags handed to ``check_later`` since the last call."""
        checks, self._checks = self._checks, []
        for flag, error in checks:
            value = int(flag)
            if value >= 0:
                raise error(value)
