"""Blob: a tensor with a value and a gradient, on the host, on the device, or both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import arguments, backend, proto
from minicaffe.backend import generation
from minicaffe.errors import MinicaffeError, ShapeError
from minicaffe.proto.blobs import MAX_AXES
from minicaffe.proto.files import array_to_blob, blob_to_array, has_diff
from minicaffe.storage import Source, Storage

_MOST_ELEMENTS = 2**60
"""Bytes of what has more are not counted in 64 bits."""


def shape_string(shape: Sequence[int]) -> str:
    """A shape as Caffe's logs print it, e.g. ``64 1 28 28 (50176)``."""
    return "".join(f"{size} " for size in shape) + f"({math.prod(shape)})"


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
