"""BlobProto and NumPy arrays.

Protobuf's Python lists cost about a second for ten million floats, so values travel as packed bytes: an array is put
into a message, and taken out of one, by its wire form (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.errors import WeightsError

MAX_AXES = 32
_LEGACY_DIMS = ("num", "channels", "height", "width")
_RAW_TYPES = {"DOUBLE": "<f8", "FLOAT": "<f4", "FLOAT16": "<f2", "INT": "<i4", "UINT": "<u4", "BOOL": "?"}
_LENGTH_DELIMITED = 2  # wire type
_LARGEST_PAYLOAD = 2**31 - 1 - 1024  # bytes; a message's limit, less room for the shape


def array_to_blob(array: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto of the array's shape: float64 values go into ``double_data``, others as float32 into ``data``.

    ``diff``, converted alike, goes into ``double_diff`` or ``diff``.

    Raises:
        WeightsError: ``diff`` has another shape, or the values exceed the 2 GiB of a message.
    """
    array = np.asarray(array)
    double = array.dtype == np.float64
    blob = proto.BlobProto()
    if array.ndim:
        blob.shape.dim.extend(array.shape)
    _append_packed(blob, "double_data" if double else "data", array)
    if diff is not None:
        diff = np.asarray(diff)
        if diff.shape != array.shape:
            raise WeightsError(f"the diff has shape {diff.shape}, its blob {array.shape}; they must be equal")
        _append_packed(blob, "double_diff" if double else "diff", diff)
    return blob


def blob_to_array(blob: Any, diff: bool = False) -> np.ndarray:
    """The blob's values, or its diff, as a new array of the stored shape: float64 if stored as double, else float32.

    Raises:
        WeightsError: the number of stored values is not the product of the shape, as when an absent diff is asked for.
    """
    shape = blob_shape(blob)
    values = blob_values(blob, diff)
    if values.size != math.prod(shape) or min(shape, default=0) < 0:
        raise WeightsError(
            f"the blob's shape is {shape}, which takes {math.prod(shape)} values, "
            f"but {values.size} are stored as its {'diff' if diff else 'data'}"
        )
    return values.reshape(shape)


def blob_values(blob: Any, diff: bool = False) -> np.ndarray:
    """The blob's values, or its diff, one after the other: float64 if stored as double, else float32.

    Raises WeightsError for raw values whose bytes are no multiple of their type's.
    """
    name = "diff" if diff else "data"
    raw = getattr(blob, f"raw_{name}")
    if raw:
        kind = proto.BlobProto.RawType.Name(getattr(blob, f"raw_{name}_type"))
        item = np.dtype(_RAW_TYPES[kind])
        if len(raw) % item.itemsize:
            raise WeightsError(
                f"the blob's raw_{name} has {len(raw)} bytes, not a multiple of {item.itemsize} ({kind})"
            )
        return np.frombuffer(raw, item).astype(np.float64 if kind == "DOUBLE" else np.float32)
    double = getattr(blob, f"double_{name}")
    return _packed_values(blob, f"double_{name}" if double else name)


def has_diff(blob: Any) -> bool:
    """Whether the blob carries a gradient."""
    return bool(blob.diff or blob.double_diff or blob.raw_diff)


def blob_shape(blob: Any) -> tuple[int, ...]:
    """The stored shape; (num, channels, height, width) if any of these older fields is set; () if there is none.

    Raises WeightsError for more than 32 axes.
    """
    if _is_legacy(blob):
        return tuple(getattr(blob, name) for name in _LEGACY_DIMS)
    if len(blob.shape.dim) > MAX_AXES:
        raise WeightsError(f"a blob has at most {MAX_AXES} axes; found {len(blob.shape.dim)}")
    return tuple(blob.shape.dim)


def shape_equals(shape: Sequence[int], blob: Any) -> bool:
    """Whether the blob's values fit a param of ``shape``, by Caffe's rule.

    The older 4-D shapes are aligned at the end: a bias (N) fits 1×1×1×N, a weight (M, K) fits 1×1×M×K.
    """
    shape = tuple(shape)
    if _is_legacy(blob):
        return len(shape) <= 4 and (1,) * (4 - len(shape)) + shape == blob_shape(blob)
    return shape == blob_shape(blob)


def _is_legacy(blob: Any) -> bool:
    return any(blob.HasField(name) for name in _LEGACY_DIMS)


def _dtype(field: str) -> np.dtype:
    return np.dtype("<f8" if field.startswith("double") else "<f4")


def _number(field: str) -> int:
    return proto.BlobProto.DESCRIPTOR.fields_by_name[field].number


def _append_packed(blob: Any, field: str, values: np.ndarray) -> None:
    size = values.size * _dtype(field).itemsize
    if size > _LARGEST_PAYLOAD:
        raise WeightsError(
            f"a blob of {size} bytes does not fit a binary message, which ends at 2 GiB: use the HDF5 format"
        )
    if size:
        head = _encode_varint(_number(field) << 3 | _LENGTH_DELIMITED) + _encode_varint(size)
        blob.MergeFromString(b"".join((head, np.ascontiguousarray(values, _dtype(field)).data)))


def _packed_values(blob: Any, field: str) -> np.ndarray:
    chunks = [payload for number, payload in _fields(blob.SerializeToString()) if number == _number(field)]
    return np.concatenate([np.empty(0, _dtype(field)), *(np.frombuffer(chunk, _dtype(field)) for chunk in chunks)])


def _fields(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each length-delimited field of a serialized BlobProto, which else holds varints only."""
    position = 0
    while position < len(data):
        tag, position = _decode_varint(data, position)
        value, position = _decode_varint(data, position)
        if tag & 7 == _LENGTH_DELIMITED:
            yield tag >> 3, memoryview(data)[position : position + value]
            position += value


def _encode_varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """The varint at ``position`` and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
