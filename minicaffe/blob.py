"""Blob: a tensor with a value and a gradient, on the host, on the device, or both."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import arguments, backend, limits, proto
from minicaffe.backend import generation
from minicaffe.errors import MinicaffeError, ShapeError, WeightsError
from minicaffe.kernels.halves import Halves
from minicaffe.proto.blobs import MAX_AXES
from minicaffe.proto.files import array_to_blob, blob_to_array, has_diff

_FILLED_AT_ONCE = 2**20
"""Elements that a device fills in the time of a launch or two."""

_FEW = 2
"""What has been written on the host more often is taken for an input, which will be again."""

_MOST_ELEMENTS = 2**60
"""Bytes of what has more are not counted in 64 bits."""


def shape_string(shape: Sequence[int]) -> str:
    """A shape as Caffe's logs print it, e.g. ``64 1 28 28 (50176)``."""
    return "".join(f"{size} " for size in shape) + f"({math.prod(shape)})"


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


def _hold_alike(one: Storage, other: Storage) -> None:
    """Before one blob takes the ``other`` memory: whoever does not read 16 bits must not find them there."""
    if one.halves is not other.halves:
        other.keep_in(None)


class _Part:
    """One side of a blob, its value or its gradient: a range of a storage, seen in the blob's shape."""

    __slots__ = ("storage", "offset", "room", "_base", "_view", "_shape")

    def __init__(self, storage: Storage, offset: int = 0, room: float = math.inf) -> None:
        self.storage = storage
        storage.users += 1
        self.offset = offset
        self.room = room
        self._base: Any = None
        self._view: Any = None
        self._shape: tuple[int, ...] | None = None

    def __del__(self) -> None:
        self.storage.users -= 1

    def view(self, base: Any, shape: tuple[int, ...], count: int) -> Any:
        if base is not self._base or shape is not self._shape:
            self._view = base[self.offset : self.offset + count].reshape(shape)
            self._base, self._shape = base, shape
        return self._view


class Blob:
    """An n-dimensional tensor pair, value (``data``) and gradient (``diff``), as in Caffe.

    ``data`` and ``diff`` are always writable NumPy arrays, in sync with whatever a device computed; touching them makes
    the host the head.  ``xdata`` and ``xdiff`` are arrays of the current backend, for built-in layers and solvers; on
    the CPU they are the same memory, on a GPU they may hold 16 bits (``minicaffe.engine.narrow``).  Growing in
    ``reshape`` loses the contents; shrinking keeps the memory.
    """

    def __init__(self, shape: Sequence[int] = (), dtype: DTypeLike = np.float32) -> None:
        self.dtype = arguments.floating(dtype)
        self.shape: tuple[int, ...] = ()
        self.count = 1
        self._data = _Part(Storage(0, dtype))
        self._diff = _Part(Storage(0, dtype))
        if not isinstance(shape, Iterable):
            raise ShapeError(f"a blob's shape is a list of sizes; found {shape!r:.80}")
        self.reshape(*shape)

    def __repr__(self) -> str:
        return f"Blob({self.shape_string})"

    # --- shape ---------------------------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> None:
        """Take the shape given as one integer an axis (none: a scalar); ShapeError for a negative size, or one that is
        no integer, over 32 axes, or more elements than an address space holds."""
        if shape == self.shape and self._data.storage.size:
            return
        sizes = tuple([arguments.whole(size, "a size in a blob's shape", ShapeError) for size in shape])
        if len(sizes) > MAX_AXES:
            raise ShapeError(f"a blob has at most {MAX_AXES} axes; found {len(sizes)}")
        if any(size < 0 for size in sizes):
            raise ShapeError(f"a blob has at most {MAX_AXES} axes, none of negative size; found shape {sizes}")
        count = math.prod(sizes)
        if count > _MOST_ELEMENTS:
            raise ShapeError(f"a blob of shape {sizes} has {count} elements, which no memory holds")
        if self._data.storage.touched or self._diff.storage.touched:
            generation.advance()
        self.shape, self.count = sizes, count
        if count > self._data.room:
            self._data = _Part(Storage(0, self.dtype))
        for part in (self._data, self._diff):
            part.storage.grow(part.offset + max(count, 1))

    def reshape_like(self, other: Blob) -> None:
        """Take the shape of ``other``."""
        self.reshape(*other.shape)

    @property
    def shape_string(self) -> str:
        """The shape as Caffe's logs print it, e.g. ``64 1 28 28 (50176)``."""
        return shape_string(self.shape)

    def axis(self, axis: int) -> int:
        """``axis`` counted from the front; ShapeError unless it lies in -ndim .. ndim - 1."""
        axes = len(self.shape)
        if not -axes <= axis < axes:
            raise ShapeError(f"axis {axis} out of range for {axes}-D Blob with shape {self.shape_string}")
        return axis % axes

    def span(self, start: int, end: int | None = None) -> int:
        """Product of the sizes of axes ``start`` to ``end`` (excluded; default: all the rest)."""
        return math.prod(self.shape[start:end])

    def _legacy(self, index: int) -> int:
        if len(self.shape) > 4:
            raise ShapeError(f"Cannot use legacy accessors on Blobs with > 4 axes; found shape {self.shape_string}")
        return self.shape[index] if index < len(self.shape) else 1

    @property
    def num(self) -> int:
        """Size of axis 0, 1 if there is none (blobs of at most 4 axes; so for the next three)."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3."""
        return self._legacy(3)

    # --- memory --------------------------------------------------------------------------------------------------

    @property
    def data(self) -> NDArray:
        """The value: a writable NumPy array of ``shape``."""
        backend.current().not_capturable()
        part = self._data
        return part.view(part.storage.host(), self.shape, self.count)

    @data.setter
    def data(self, values: Any) -> None:
        self.data[...] = values

    @property
    def diff(self) -> NDArray:
        """The gradient: a writable NumPy array of ``shape``."""
        backend.current().not_capturable()
        part = self._diff
        return part.view(part.storage.host(part.offset, part.offset + self.count), self.shape, self.count)

    @diff.setter
    def diff(self, values: Any) -> None:
        self.diff[...] = values

    @property
    def xdata(self) -> Any:
        """The value as an array of the current backend."""
        part = self._data
        return part.view(part.storage.array(), self.shape, self.count)

    @property
    def xdiff(self) -> Any:
        """The gradient as an array of the current backend."""
        part = self._diff
        return part.view(part.storage.array(part.offset, part.offset + self.count), self.shape, self.count)

    def claim_xdiff(self) -> tuple[Any, bool]:
        """``xdiff`` for a gradient to be added to, and whether it holds one.

        If not, it counts as zero but may hold old numbers: the caller must overwrite all of it.
        """
        part = self._diff
        base, begun = part.storage.claim(part.offset, part.offset + self.count)
        return part.view(base, self.shape, self.count), begun

    def peek_data(self) -> NDArray:
        """The value for logs and snapshots: a NumPy array not to be written; a device stays the head."""
        part = self._data
        return part.storage.peek()[part.offset : part.offset + self.count].reshape(self.shape)

    def peek_diff(self) -> NDArray:
        """The gradient for logs and snapshots, as ``peek_data``."""
        start, stop = self._diff.offset, self._diff.offset + self.count
        return self._diff.storage.peek(start, stop)[start:stop].reshape(self.shape)

    def share_data(self, other: Blob) -> None:
        """Use the memory of ``other``'s value from now on; counts must be equal, shapes may differ."""
        self._require_count(other)
        _hold_alike(self._data.storage, other._data.storage)
        self._data = self._replaced(self._data, _Part(other._data.storage, other._data.offset, other._data.room))

    def share_diff(self, other: Blob) -> None:
        """Use the memory of ``other``'s gradient from now on; counts must be equal, shapes may differ."""
        self._require_count(other)
        _hold_alike(self._diff.storage, other._diff.storage)
        self._diff = self._replaced(self._diff, _Part(other._diff.storage, other._diff.offset))

    def unshare_diff(self) -> None:
        """Have memory of its own for the gradient from now on, with the values that it has."""
        part = _Part(Storage(max(self.count, 1), self.dtype))
        part.storage.keep_in(self._diff.storage.halves)
        if self._diff.storage.touched:
            part.storage.host()[: self.count] = self.peek_diff().reshape(-1)
        self._diff = self._replaced(self._diff, part)

    def shares_data_with(self, other: Blob) -> bool:
        """Whether both values are the same memory."""
        return self._data.storage is other._data.storage and self._data.offset == other._data.offset

    def shares_diff_with(self, other: Blob) -> bool:
        """Whether both gradients are the same memory."""
        return self._diff.storage is other._diff.storage and self._diff.offset == other._diff.offset

    @property
    def memory(self) -> tuple[object, object]:
        """Stands for the memory of value and gradient: another one as soon as one of them is shared, moved or
        unshared.
        """
        return self._data, self._diff

    def overlaps(self, other: Blob) -> bool:
        """Whether both values have an element of memory in common."""
        one, two = self._data, other._data
        apart = one.offset + self.count <= two.offset or two.offset + other.count <= one.offset
        return one.storage is two.storage and not apart

    @property
    def data_storage(self) -> Storage:
        """The memory that holds the value, perhaps other blobs' too."""
        return self._data.storage

    @property
    def data_offset(self) -> int:
        """The element of ``data_storage`` at which the value begins."""
        return self._data.offset

    @property
    def data_room(self) -> float:
        """Elements that the value may take there; infinite if the memory would grow."""
        return self._data.room

    def forget_views(self) -> None:
        """Keep no array of the value, so that ``Storage.is_held`` tells of others' alone."""
        self._data._base = self._data._view = None

    def unshare_data(self, contents: bool = True) -> None:
        """Have memory of its own for the value from now on, with its ``contents`` if these matter."""
        part = _Part(Storage(max(self.count, 1), self.dtype))
        part.storage.keep_in(self._data.storage.halves)
        if contents and self._data.storage.touched:
            part.storage.host()[: self.count] = self.peek_data().reshape(-1)
        self._data = self._replaced(self._data, part)

    def release_data(self) -> None:
        """Hold no value until it is written again; see ``Storage.release``."""
        self.forget_views()
        self._data.storage.release()

    def load_data(self, source: Source) -> None:
        """Take the value from ``source``, so that ``unload_data`` may give its memory back."""
        part = self._data
        if part.offset or part.storage.size != self.count:  # other values may be there, which nobody could read again
            source.read(self.data)
            return
        part.storage.forget_source()
        source.read(self.data)
        self.forget_views()
        part.storage.take_from(source)

    def unload_data(self) -> None:
        """Hold the value no longer in memory if it can be read again; see ``Storage.unload``."""
        self.forget_views()
        self._data.storage.unload()

    @property
    def diff_storage(self) -> Storage:
        """The memory that holds the gradient, perhaps other blobs' too."""
        return self._diff.storage

    def place_data(self, storage: Storage, offset: int, room: float) -> None:
        """Keep the value in elements ``offset`` .. of ``storage``, which other blobs may use at other times.

        There is room for so many elements; when the blob grows beyond them it takes memory of its own.
        """
        self._data = self._replaced(self._data, _Part(storage, offset, room))

    def move_to(self, data: Storage, diff: Storage, offset: int) -> None:
        """Move value and gradient, contents included, to elements ``offset`` .. of two larger storages."""
        for name, storage in (("_data", data), ("_diff", diff)):
            old = getattr(self, name).storage
            part = _Part(storage, offset)
            if old.touched:
                storage.host()[offset : offset + self.count] = getattr(self, "peek" + name)().reshape(-1)
            setattr(self, name, self._replaced(getattr(self, name), part))

    @staticmethod
    def _replaced(old: _Part, new: _Part) -> _Part:
        """The new one."""
        if old.storage.touched:
            generation.advance()
        return new

    def _require_count(self, other: Blob) -> None:
        if not isinstance(other, Blob):
            raise MinicaffeError(f"a blob shares memory with another Blob; found {other!r:.80}")
        if self.count != other.count:
            raise ShapeError(
                f"cannot share memory between blobs of shapes {other.shape_string} and {self.shape_string}"
            )
        other._data.storage.shared = other._diff.storage.shared = True

    # --- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_proto(cls, message: Any, dtype: DTypeLike = np.float32) -> Blob:
        """A blob with the shape, value and (if stored) gradient of a BlobProto."""
        values = blob_to_array(message)
        blob = cls(values.shape, dtype)
        blob.data[...] = values
        if has_diff(message):
            blob.diff[...] = blob_to_array(message, diff=True)
        return blob

    def to_proto(self, write_diff: bool = False) -> proto.BlobProto:
        """This blob as a BlobProto with today's ``shape`` field."""
        return array_to_blob(self.peek_data(), self.peek_diff() if write_diff else None)
