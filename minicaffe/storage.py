"""Storage: memory that blobs lie in, on the host, on the device, or both, or nowhere while it can be read again."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import backend, limits
from minicaffe.backend import generation
from minicaffe.errors import WeightsError
from minicaffe.kernels.halves import Halves

_FILLED_AT_ONCE = 2**20
"""Elements that a device fills in the time of a launch or two."""

_FEW = 2
"""What has been written on the host more often is taken for an input, which will be again."""


class _InUse(threading.local):
    """What ``storages_in_use`` has found in this thread so far; None outside of it."""

    found: dict[int, Storage] | None = None


_in_use = _InUse()


@contextlib.contextmanager
def storages_in_use() -> Iterator[dict[int, Storage]]:
    """Gives the storages, by their ids, whose memory this thread asks for inside, on the backend that is current."""
    before, _in_use.found = _in_use.found, {}
    try:
        yield _in_use.found
    finally:
        _in_use.found = before


class Source(Protocol):
    """Where values were read, and can be read again."""

    def read(self, array: NDArray) -> None:
        """Write them to an array of as many elements; WeightsError if they can no longer be read."""

    def __str__(self) -> str:
        """What is read, and where, for messages."""


def digest_of(array: NDArray) -> bytes:
    """Stands for what an array in one piece holds."""
    return hashlib.blake2b(array.data, digest_size=16).digest()


_unloading = threading.RLock()
"""Held while memory is taken from, or brought back to, a storage whose values have a ``Source``."""


def _after_fork() -> None:
    global _unloading
    _unloading = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class Storage:
    """Flat zero-initialised memory that several blobs may share, kept where it was last used.

    ``host`` and ``array`` both hand out writable memory, so each makes its side the head: the other is stale from then
    on. Memory is allocated at the first use, and only grows.

    ``clear`` may leave ranges of elements as they are, which only count as zero from then on.  Whoever asks for memory
    says which elements are of interest to him, ``start`` to ``stop`` (default: all), and finds the zeros written there.

    A device may hold float32 in 16 bits (``keep_in``); the host has float32 always.

    Values that nobody was given since they were read from a ``Source`` need no memory: ``unload`` gives it back.
    """

    __slots__ = (
        "size",
        "dtype",
        "halves",
        "shared",
        "_least",
        "_refused",
        "_host",
        "_device",
        "_home",
        "_head_on_device",
        "_uploads",
        "_zeros",
        "_source",
        "_digest",
        "handed_out",
        "users",
    )

    def __init__(self, size: int, dtype: DTypeLike) -> None:
        self.size = self._least = size
        self.dtype = np.dtype(dtype)
        self.halves: Halves | None = None
        """The format of 16 bits in which devices hold it; None: as the host."""
        self.shared = self._refused = False
        self._host: NDArray | None = None
        self._device: Any = None
        self._home: backend.Backend | None = None
        self._head_on_device = False
        self._uploads = 0
        self._zeros: dict[int, int] = {}
        self._source: Source | None = None
        self._digest: bytes | None = None
        self.handed_out = 0
        """How often somebody was given the memory, to write to it perhaps."""
        self.users = 0
        """How many values and gradients of blobs lie here."""

    def grow(self, size: int) -> None:
        """Hold at least ``size`` elements; contents are lost (zero again) when that takes new memory.

        While nothing is allocated, a larger size that was asked for before is forgotten, unless it may be that of
        another blob; it is in any case if there was no memory for it.
        """
        forgets = not self.touched and (self._refused or not self.shared)
        if size > self.size or (forgets and size < self.size):
            self.size = max(size, self._least)
            self._refused = False
            self.release()

    def move_to(self, memory: NDArray) -> None:
        """Keep the host's side in ``memory``, flat, of this size and zero, from now on."""
        if self.touched:
            memory[:] = self.peek()
        self._host, self._source = memory, None
        generation.advance()

    def release(self) -> None:
        """Give the memory back: zeros from now on.  Nothing that was captured may compute with it."""
        self._host = self._device = self._home = self._source = None
        self._head_on_device = False
        self._zeros = {}

    def take_from(self, source: Source) -> None:
        """What it holds was read from ``source``, unless somebody has an array of it, and so may write there."""
        if not self.is_held:
            self._source, self._digest = source, None

    def forget_source(self) -> None:
        """Before all of it is overwritten: what it holds need not be read again."""
        with _unloading:
            self._source = None

    def unload(self) -> None:
        """Give the memory back if the values can be read again: whoever asks for it next has them read."""
        with _unloading:
            if self._source is None or self._host is None or self._device is not None or self.is_held:
                return
            self._digest = self._digest or digest_of(self._host)
            self._host = None

    def _load(self) -> NDArray:
        """The host's memory: zeros at the first use, or what the source had; WeightsError if it has something else."""
        with _unloading:
            if self._host is not None:
                return self._host
            what = f"a blob of {self.size} elements"
            host = self._allocated(lambda: limits.zeros(self.size, self.dtype, what))
            if self._source is not None:
                self._source.read(host)
                if digest_of(host) != self._digest:
                    raise WeightsError(
                        f"{self._source} has changed since it was loaded. It left memory when the deploy form had "
                        "made of it what it computes with, and is needed again. Load weights anew (copy_from); and to "
                        "replace a file that a net runs from, rename a new one to its name, as Net.save does"
                    )
            self._host = host
            return host

    def _hold(self) -> None:
        """Before somebody is given the memory: what was read may be no longer what it holds."""
        with _unloading:
            if self._source is not None:
                self._load()
                self._source = None

    @property
    def nbytes(self) -> int:
        """Bytes on one side, host or device, once it is used there."""
        return self.size * self.dtype.itemsize

    def bytes_on(self, where: backend.Backend) -> int:
        """Bytes of memory that there are on the device ``where``."""
        return self.size * self.dtype_on(where).itemsize if self._home is where else 0

    def dtype_on(self, where: backend.Backend) -> np.dtype:
        """The dtype of the array that a backend has."""
        return self.dtype if where.is_host or self.halves is None else self.halves.dtype

    def keep_in(self, halves: Halves | None) -> bool:
        """Have devices hold it in this format from now on, what it holds included; whether that is another one.

        Whoever asks for ``array`` must then know of it.
        """
        if halves is self.halves:
            return False
        if self._device is not None:
            self.peek()
            self._device = self._home = None
            self._head_on_device = False
            generation.advance()
        self.halves = halves
        return True

    @property
    def touched(self) -> bool:
        """Whether anything was ever read or written here; untouched storage is all zeros."""
        return self._host is not None or self._device is not None or self._source is not None

    def clear(self, later: Sequence[tuple[int, int]] = ()) -> None:
        """Set all elements to zero; those of the ranges ``later``, in order of their starts, only count as zero for
        now.
        """
        self._zeros = {}
        values, end = self.array(), 0
        for start, stop in (*later, (self.size, self.size)):
            if end < start:
                values[end:start].fill(0)
            end = stop
        self._zeros = dict(later)

    def write_zeros(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Write the zeros of those of ``ranges``, in order, that only count as zero so far."""
        left = [(start, stop) for start, stop in ranges if self._zeros.get(start) == stop]
        if not left:
            return
        values, first, last = self.array(0, 0), left[0][0], left[-1][1]
        between = sum(stop - start for start, stop in self._zeros.items() if first <= start and stop <= last)
        for start, _ in left:
            del self._zeros[start]
        if between == last - first <= _FILLED_AT_ONCE:
            left = [(first, last)]  # what lies between counts as zero, too, and takes less time than another launch
        for start, stop in left:
            values[start:stop].fill(0)

    @property
    def zeros(self) -> tuple[tuple[int, int], ...]:
        """The ranges that only count as zero; set it to those that are left after other work than ``claim`` wrote to
        some.
        """
        return tuple(self._zeros.items())

    @zeros.setter
    def zeros(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self._zeros = dict(ranges)

    def claim(self, start: int, stop: int) -> tuple[Any, bool]:
        """``array``, and whether elements ``start`` to ``stop`` hold numbers: if not, they count as zero, and must be
        overwritten.
        """
        begun = self._zeros.get(start) != stop
        if not begun:
            del self._zeros[start]
        return self.array(start, stop), begun

    def _write_zeros(self, start: int, stop: float) -> None:
        """Write what only counts as zero so far, where it has any of elements ``start`` to ``stop``."""
        head: Any = self._device if self._head_on_device else self._host
        for first, last in [*self._zeros.items()]:
            if first < stop and start < last:
                del self._zeros[first]
                head[first:last].fill(0)

    def _allocated(self, allocate: Callable[[], Any]) -> Any:
        try:
            return allocate()
        except MemoryError:
            self._refused = True
            raise

    def peek(self, start: int = 0, stop: float = math.inf) -> NDArray:
        """The freshest values as a NumPy array that must not be written; the head stays where it is."""
        if self._zeros:
            self._write_zeros(start, stop)
        host = self._host
        if host is None:
            host = self._load()
        if self._head_on_device and self._home is not None:
            self._download(self._home, host)
        return host

    def _download(self, where: backend.Backend, host: NDArray) -> None:
        if self.halves is None:
            where.download(self._device, host)
        else:
            kept = np.empty(self.size, self.halves.dtype)
            where.download(self._device, kept)
            host[:] = self.halves.decode(kept)

    def _upload(self, where: backend.Backend, host: NDArray, again: bool = False) -> None:
        where.upload(host if self.halves is None else self.halves.encode(host), self._device, again)

    def host(self, start: int = 0, stop: float = math.inf) -> NDArray:
        """The values as a writable NumPy array, now the head."""
        if self._source is not None:
            self._hold()
        self.handed_out += 1
        if self._zeros:
            self._write_zeros(start, stop)
        if self._host is None or self._head_on_device:
            self.peek(start, stop)
            if self._head_on_device:
                self._head_on_device = False
                generation.note_move()
        return self._host  # type: ignore[return-value]

    def array(self, start: int = 0, stop: float = math.inf) -> Any:
        """The values as a writable array of the current backend, now the head."""
        if self._source is not None:
            self._hold()
        self.handed_out += 1
        if self._zeros:
            self._write_zeros(start, stop)
        if _in_use.found is not None:
            _in_use.found[id(self)] = self
        where = backend.current()
        if where.is_host:
            return self._host if self._host is not None and not self._head_on_device else self.host(start, stop)
        if self._home is not where or not self._head_on_device:
            self._bring(where, start, stop)
        return self._device

    def make_head(self) -> None:
        """Bring the newest values to where the current backend computes; what only counts as zero stays so."""
        self.array(0, 0)

    @property
    def is_held(self) -> bool:
        """Whether anybody beside the storage itself has an array in this memory, and so may write to it later."""
        host = self._host is not None and _references(self._host) > _OWN_REFERENCES
        return host or (self._device is not None and _references(self._device) > _OWN_REFERENCES)

    def _bring(self, where: backend.Backend, start: int, stop: float) -> None:
        """Make memory on the device ``where``, or what it has already, the head."""
        if self._home is not where:
            values = self.peek(start, stop) if self.touched else None
            self._device = self._allocated(lambda: where.zeros((self.size,), self.dtype_on(where)))
            self._home = where
            if values is not None:
                self._upload(where, values)
            generation.advance()
        elif self._host is not None:
            self._uploads += 1
            self._upload(where, self._host, again=self._uploads > _FEW)
        self._head_on_device = True
        generation.note_move()


def _references(array: Any) -> int:
    """References to the array that owns the memory of this one: views of views refer to it, too."""
    base = array.base
    return sys.getrefcount(array if base is None or not hasattr(base, "dtype") else base)


def _own_references() -> int:
    """What ``_references`` finds for the memory of a storage that nobody else has an array of."""
    storage = Storage(1, np.float32)
    storage.peek()
    return _references(storage._host)


_OWN_REFERENCES = _own_references()
