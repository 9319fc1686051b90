"""What a backend offers to blobs, layers and solvers: arrays, ops, random numbers, scratch memory."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe.backend import generation
from minicaffe.backend import precision as precisions
from minicaffe.backend.precision import FLOAT32


class Capture(ABC):
    """What was done inside ``Backend.capture``, to be replayed on the same arrays without Python in between.

    It owns all memory that it reads and writes: as long as it lives, nothing that it was given can be freed.
    """

    ran: ClassVar[bool]
    """Whether the ops ran while they were captured; if not, the first replay is what does their work."""
    idle = False
    """Whether a replay is known to do nothing."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether a replay does everything that was asked for while it was made."""

    @abstractmethod
    def replay(self) -> None:
        """Do all of it again, ``Backend.check_later`` included."""


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
        self._lock = threading.RLock()
        self._reserving = threading.RLock()
        self._workspaces: dict[np.dtype, Any] = {}
        self._needs: dict[np.dtype, weakref.WeakKeyDictionary[object, int]] = {}
        self._checks: dict[int, tuple[Any, Callable[[int], Exception]]] = {}
        _backends.add(self)

    def _after_fork(self) -> None:
        """In a forked process: no pass is under way, and nobody holds the lock, for other threads are not there."""
        self._lock, self._reserving = threading.RLock(), threading.RLock()

    def begin(self) -> None:  # noqa: B027  (most have nothing to make ready)
        """A net is being made: what each needs is made ready beside that."""

    def expecting(self, rehearsal: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Around work for which kernels may have to be compiled: ``rehearsal`` calls those that it will call, without
        harm where none of them runs.
        """
        return contextlib.nullcontext()

    @abstractmethod
    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        """A new zero-filled, C-contiguous array of this backend."""

    @abstractmethod
    def upload(self, host: NDArray, out: Any, again: bool = False) -> None:
        """Copy a NumPy array into an array of this backend of the same shape and dtype.

        ``again``: such copies come again and again, as those of inputs do.
        """

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

    def memory_use(self) -> str:
        """What takes the memory of a device, line by line, and what to change, to end an error message with."""
        return ""

    def settings(self) -> tuple:
        """What the choice of kernels depends on beside their arguments."""
        return ()

    def capture(self) -> contextlib.AbstractContextManager[Capture | None]:
        """Held around ops to have them captured; gives None, and runs them as ever, if this backend cannot capture.

        A backend whose captures have not ``ran`` them may end the block with an exception of its own, which goes no
        further: the capture is incomplete then.
        """
        return contextlib.nullcontext()

    def convolutions(self, library: str = "") -> Any:
        """What has the functions of ``kernels/reference/conv.py``: a ``library`` ("cuDNN") where this backend has it;
        else ``ops``.
        """
        return self.ops

    def rounding(self, precision: str) -> contextlib.AbstractContextManager[None]:
        """Held around ops: the factors of their float32 products are rounded to a ``precision`` of ``PRECISIONS``.

        Only GPUs do that; others say once that they do not.
        """
        if precision != FLOAT32:
            precisions.warn_that_not(precision)
        return contextlib.nullcontext()

    def not_capturable(self) -> None:
        """Note that something is done that a replay of the capture being made would leave out; nothing if none is."""
        return None

    def at_replay(self, call: Callable[[], None]) -> None:
        """Have each replay of the capture being made ``call`` this; nothing if none is.

        On the host that happens between the ops before and behind, on a device before any of them.
        """
        return None

    def numbers(self, owner: object, values: Sequence[float]) -> Any:
        """``values`` for an op that takes them from memory where they may change from replay to replay, such as rates.

        A float64 array; on a device it is the same one for one ``owner`` at each call.
        """
        return np.array(values, np.float64)

    def reserve(self, count: int, dtype: DTypeLike, owner: object | None = None) -> None:
        """Make the scratch memory that all layers share hold at least ``count`` elements of ``dtype``.

        It does as long as ``owner`` (default: the backend) is there; what one owner needs only grows.  Any thread may
        call it, also while another runs a net.
        """
        dtype, owner = np.dtype(dtype), self if owner is None else owner
        with self._reserving:
            needs = self._needs.setdefault(dtype, weakref.WeakKeyDictionary())
            if owner not in needs:
                weakref.finalize(owner, self._shrink, dtype).atexit = False
            needs[owner] = max(count, needs.get(owner, 0))
            if dtype not in self._workspaces or self._workspaces[dtype].size < count:
                self._workspaces[dtype] = self.zeros((self._needed(dtype),), dtype)
                generation.advance()

    def workspace(self, dtype: DTypeLike) -> Any:
        """The shared scratch memory, a flat array; its contents last only as long as one call of an op."""
        dtype = np.dtype(dtype)
        with self._reserving:
            if dtype not in self._workspaces:
                self._workspaces[dtype] = self.zeros((self._needed(dtype),), dtype)
            return self._workspaces[dtype]

    def workspace_bytes(self) -> int:
        """Bytes of the shared scratch memory, of all dtypes."""
        return sum(array.nbytes for array in self._workspaces.values())

    def _shrink(self, dtype: np.dtype) -> None:
        """Give up scratch memory that is larger than any owner that is left needs."""
        with self._reserving:
            needed, held = self._needed(dtype), self._workspaces.get(dtype)
            if held is not None and needed < held.size:
                del self._workspaces[dtype]
                generation.advance()

    def _needed(self, dtype: np.dtype) -> int:
        return max((count for _, count in self._needs.get(dtype, {}).items()), default=0)

    def check_later(self, flag: Any, error: Callable[[int], Exception]) -> None:
        """Raise ``error(flag)`` if the int32 scalar ``flag`` is not -1, which it then is again: now on the host, at
        ``run_checks`` on a device, where a flag stays raised until then.

        A kernel can so report bad input without making every iteration wait for the device.  A replay of a capture
        checks anew, at the same place.
        """
        self.at_replay(partial(self._note_check, flag, error))
        self._note_check(flag, error)

    def _note_check(self, flag: Any, error: Callable[[int], Exception]) -> None:
        self._checks[id(flag)] = flag, error
        if self.is_host:
            self.run_checks()

    def run_checks(self) -> None:
        """Look at the flags handed to ``check_later`` since the last call."""
        checks, self._checks = self._checks, {}
        for flag, error in checks.values():
            value = int(flag)
            if value >= 0:
                flag.fill(-1)
                raise error(value)


_backends: weakref.WeakSet[Backend] = weakref.WeakSet()


def _after_fork() -> None:
    for where in _backends:
        where._after_fork()


os.register_at_fork(after_in_child=_after_fork)
