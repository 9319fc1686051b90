"""Files of named arrays in the safetensors format: a header in JSON that says where each array's bytes are.

8 bytes give the header's length (little-endian); it maps names to ``{"dtype", "shape", "data_offsets"}``, the offsets
counting from its end, and ``__metadata__`` to a map of strings (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import limits
from minicaffe.errors import WeightsError
from minicaffe.proto.atomic import write_atomic

_LARGEST_HEADER = 100_000_000  # bytes, as its own library has it
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_BF16 = "BF16"  # the upper half of a float32, which NumPy does not have


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 9, may be one."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray], dict[str, str]]:
    """The arrays of a file by name, bfloat16 as float32, and its metadata.

    Raises WeightsError: a file that cannot be read, is truncated, or contradicts itself.
    """
    name = os.fspath(path)
    try:
        data = limits.read_file(path, times=2)
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {name}: {error.strerror}") from None
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start].decode())
        if not is_safetensors(data) or not isinstance(header, dict):
            raise ValueError("it has no header")
        metadata = {str(key): str(text) for key, text in dict(header.pop("__metadata__", None) or {}).items()}
        body = memoryview(data)[start:]
        return {key: _array(key, entry, body) for key, entry in header.items()}, metadata
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{name} is no whole safetensors file: {error}; copy or download it again") from None


def _array(name: str, entry: Mapping[str, Any], body: memoryview) -> NDArray:
    """The array that an entry of the header describes; ValueError if it cannot be."""
    kind, shape = entry["dtype"], [int(size) for size in entry["shape"]]
    begin, end = map(int, entry["data_offsets"])
    if kind != _BF16 and kind not in _DTYPES:
        raise ValueError(f"'{name}' is of type {kind}, which is not known")
    stored = np.dtype("<u2" if kind == _BF16 else _DTYPES[kind])
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(body):
        raise ValueError(f"'{name}' lies outside it")
    if end - begin != math.prod(shape) * stored.itemsize:
        raise ValueError(
            f"'{name}' has {end - begin} bytes, its shape {shape} takes {math.prod(shape)} x {stored.itemsize}"
        )
    values = np.frombuffer(body[begin:end], stored).reshape(shape)
    if kind == _BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.copy()


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, whole or not at all; SnapshotError if the file cannot be written."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    payloads, place = [], 0
    for name, array in arrays.items():
        stored = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {
            "dtype": _NAMES[stored.dtype], "shape": list(array.shape), "data_offsets": [place, place + stored.nbytes],
        }  # fmt: skip
        payloads.append(stored.tobytes())
        place += stored.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8 bytes
    write_atomic(path, b"".join([len(text).to_bytes(8, "little"), text, *payloads]))
