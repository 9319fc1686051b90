"""BlobProto and NumPy arrays.

Protobuf's Python lists cost about a second for ten million floats, so values travel as packed bytes: an array is put
into a message, and taken out of one, by its wire form, and a file's values go from the file to their array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from minicaffe import proto
from minicaffe.errors import WeightsError
from minicaffe.proto import wire
from minicaffe.proto.wire import Piece, Pieces

MAX_AXES = 32
_LEGACY_DIMS = ("num", "channels", "height", "width")
_C3D_WIDTH = 5
"""C3D puts the length before height and width, so that the numbers of all fields from there on are one higher."""
_RAW_TYPES = {"DOUBLE": "<f8", "FLOAT": "<f4", "FLOAT16": "<f2", "INT": "<i4", "UINT": "<u4", "BOOL": "?"}
_CONVERTED_AT_ONCE = 1 << 20  # values
_LARGEST_PAYLOAD = 2**31 - 1 - 1024  # bytes; a message's limit, less room for the shape


def array_to_blob(array: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto of the array's shape: float64 values go into ``double_data``, others as float32 into ``data``.

    ``diff``, converted alike, goes into ``double_diff`` or ``diff``.

    Raises:
        WeightsError: ``diff`` has another shape, or the values exceed the 2 GiB of a message.
    """
    return proto.BlobProto.FromString(b"".join(blob_pieces(array, diff)))


def blob_pieces(array: np.ndarray, diff: np.ndarray | None = None) -> Pieces:
    """What `array_to_blob` makes, on the wire: the arrays' own memory where it can be written as it is.

    Raises:
        WeightsError: as `array_to_blob`.
    """
    array = np.asarray(array)
    if diff is not None and np.shape(diff) != array.shape:
        raise WeightsError(f"the diff has shape {np.shape(diff)}, its blob {array.shape}; they must be equal")
    double, contents = array.dtype == np.float64, {}
    for name, values in (("data", array), ("diff", diff)):
        if values is not None and array.size:
            contents[f"double_{name}" if double else name] = [_packed(values, "<f8" if double else "<f4")]
    if array.ndim:
        contents["shape"] = [proto.BlobShape(dim=array.shape).SerializeToString()]
    numbered = sorted((_number(field), content) for field, content in contents.items())
    return [piece for number, content in numbered for piece in wire.delimited(number, content)]


def _packed(values: np.ndarray, dtype: str) -> Piece:
    size = np.size(values) * np.dtype(dtype).itemsize
    if size > _LARGEST_PAYLOAD:
        raise WeightsError(
            f"a blob of {size} bytes does not fit a binary message, which ends at 2 GiB: use the HDF5 format"
        )
    return np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data


class Values:
    """A blob's values, or its diff, still in the message, or in the file that it was lifted from (`wire.lift`).

    ``shape`` is the stored one; ``dtype`` float64 if they are stored as double, else float32.

    Raises:
        WeightsError: the number of stored values is not the product of the shape, as when an absent diff is asked for.
    """

    def __init__(self, blob: Any, diff: bool = False, file: wire.File | None = None) -> None:
        name = "diff" if diff else "data"
        self.shape = blob_shape(blob)
        self._blob, self._file = blob, file
        self._places = wire.places(blob, file.size) if file else {}
        candidates = (f"raw_{name}", f"double_{name}")
        default = "diff" if _c3d_width(blob) is not None else name
        self._field = next((field for field in candidates if self._stored(field)), default)
        self._item = np.dtype("<f8" if self._field.startswith("double") else "<f4")
        if self._field.startswith("raw"):
            kind = proto.BlobProto.RawType.Name(getattr(blob, f"{self._field}_type"))
            self._item = np.dtype(_RAW_TYPES[kind])
            if self._stored(self._field) % self._item.itemsize:
                raise WeightsError(
                    f"the blob's {self._field} has {self._stored(self._field)} bytes, not a multiple of "
                    f"{self._item.itemsize} ({kind})"
                )
        self.dtype = np.dtype(np.float64 if self._item == np.float64 else np.float32)
        stored, wanted = self._stored(self._field) // self._item.itemsize, math.prod(self.shape)
        if stored != wanted or min(self.shape, default=0) < 0:
            raise WeightsError(
                f"the blob's shape is {self.shape}, which takes {wanted} values, but {stored} are stored as its {name}"
            )

    @property
    def in_file(self) -> bool:
        """Whether they are in the file, and not in the message."""
        return bool(self._places.get(self._field))

    def _stored(self, field: str) -> int:
        """Bytes of the values in a field."""
        value, here = getattr(self._blob, field), sum(place.size for place in self._places.get(field, ()))
        if isinstance(value, bytes):
            return here or len(value)
        return here + len(value) * (8 if field.startswith("double") else 4)

    def array(self) -> np.ndarray:
        """The values as a new array of the stored shape."""
        result = np.empty(self.shape, self.dtype)
        self.copy_to(result)
        return result

    def copy_to(self, target: np.ndarray) -> None:
        """Put the values, in order, into an array of as many elements.

        Raises:
            WeightsError: the file was cut short, or can no longer be read.
        """
        if not target.flags.c_contiguous:
            target[...] = self.array().reshape(target.shape)
            return
        rest = target.reshape(-1)
        for chunk in self._places.get(self._field) or self._contents():
            size = chunk.size if isinstance(chunk, wire.Place) else len(chunk)
            part, rest = np.split(rest, [size // self._item.itemsize])
            if isinstance(chunk, wire.Place):
                self._read(chunk.offset, part)
            else:
                part[...] = np.frombuffer(chunk, self._item)

    def _contents(self) -> Iterator[memoryview]:
        """The bytes of the values in the message."""
        number = _number(self._field)
        return (content for other, content in wire.payloads(self._blob.SerializeToString()) if other == number)

    def _read(self, offset: int, target: np.ndarray) -> None:
        assert self._file is not None
        direct = target.dtype == self._item
        buffer = target if direct else np.empty(min(target.size, _CONVERTED_AT_ONCE), self._item)
        for start in range(0, target.size, max(buffer.size, 1)):
            part = buffer[: target.size - start]
            try:
                self._file.read_into(part.view(np.uint8).data, offset + start * self._item.itemsize)
            except (OSError, EOFError) as error:
                raise WeightsError(f"{self._file.name} can no longer be read: {error}") from None
            if not direct:
                target[start : start + part.size] = part


def blob_to_array(blob: Any, diff: bool = False) -> np.ndarray:
    """The blob's values, or its diff, as a new array of the stored shape: float64 if stored as double, else float32.

    Raises:
        WeightsError: as `Values`.
    """
    return Values(blob, diff).array()


def has_diff(blob: Any) -> bool:
    """Whether the blob carries a gradient; those of C3D's blobs are not read."""
    if _c3d_width(blob) is not None:
        return False
    fields = ("diff", "double_diff", "raw_diff")
    return any(getattr(blob, field) for field in fields) or not wire.places(blob).keys().isdisjoint(fields)


def blob_shape(blob: Any) -> tuple[int, ...]:
    """The stored shape; (num, channels, height, width) if any of these older fields is set, and (num, channels, length,
    height, width) in a blob of C3D; () if there is none.

    Raises WeightsError for more than 32 axes.
    """
    if (width := _c3d_width(blob)) is not None:
        return *(getattr(blob, name) for name in _LEGACY_DIMS), width
    if _is_legacy(blob):
        return tuple(getattr(blob, name) for name in _LEGACY_DIMS)
    if len(blob.shape.dim) > MAX_AXES:
        raise WeightsError(f"a blob has at most {MAX_AXES} axes; found {len(blob.shape.dim)}")
    return tuple(blob.shape.dim)


def shape_equals(shape: Sequence[int], blob: Any) -> bool:
    """Whether the blob's values fit a param of ``shape``, by Caffe's rule.

    The older 4-D shapes, and C3D's of five axes, are aligned at the end: a bias (N) fits 1×1×1×N, a weight (M, K) fits
    1×1×M×K.
    """
    shape, stored = tuple(shape), blob_shape(blob)
    if _is_legacy(blob):
        return len(shape) <= len(stored) and (1,) * (len(stored) - len(shape)) + shape == stored
    return shape == stored


def _is_legacy(blob: Any) -> bool:
    return any(blob.HasField(name) for name in _LEGACY_DIMS)


def _c3d_width(blob: Any) -> int | None:
    """The width of a blob of C3D; None of any other."""
    if not blob.HasField("width"):
        return None
    unknown = cast(Any, UnknownFieldSet(blob))
    widths = [field.data for field in unknown if field.field_number == _C3D_WIDTH and field.wire_type == wire.VARINT]
    return widths[-1] if widths else None


def _number(field: str) -> int:
    return proto.BlobProto.DESCRIPTOR.fields_by_name[field].number
