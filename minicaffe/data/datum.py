"""Datum messages to arrays and back: raw bytes, floats, or an encoded image file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from minicaffe import proto
from minicaffe.data.image import decode_image
from minicaffe.errors import DataError


def parse(value: bytes) -> Any:
    """The Datum in a record's value; DataError if the bytes are not one."""
    try:
        return proto.Datum.FromString(value)
    except DecodeError as error:
        raise DataError(f"not a Datum ({len(value)} bytes that do not parse)") from error


def to_array(datum: Any, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """The pixels of a Datum, (channels, height, width): uint8, or float32 where it holds ``float_data``.

    An encoded Datum is decoded: to BGR with ``force_color``, to gray with ``force_gray``, else as the file stores it;
    for the others both flags are without effect. As in Caffe, non-empty ``data`` wins over ``float_data``.

    Raises DataError: bytes that are no image, pixels deeper than 8 bits, or a size that is not channels x height x
    width.
    """
    if datum.encoded:
        return decode_image(datum.data, color=True if force_color else False if force_gray else None)
    shape = datum.channels, datum.height, datum.width
    if min(shape) < 0:
        raise DataError(f"a Datum that says it is {_by(shape)}; sizes must not be negative")
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if values.size != shape[0] * shape[1] * shape[2] or values.size == 0:
        raise DataError(f"a Datum of {values.size} values that says it is {_by(shape)}")
    return values.reshape(shape)


def _by(shape: tuple[int, int, int]) -> str:
    return f"{' x '.join(map(str, shape))} (channels, height, width)"


def from_array(array: np.ndarray, label: int | None = None) -> Any:
    """A raw Datum of an array (channels, height, width): uint8 goes to ``data``, any other type to ``float_data``."""
    channels, height, width = array.shape
    datum = proto.Datum(channels=channels, height=height, width=width)
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def raw_batch(datums: Sequence[Any]) -> np.ndarray | None:
    """The pixels of raw uint8 Datums of one shape as one array (N, C, H, W); None if any of them differs."""
    shape = datums[0].channels, datums[0].height, datums[0].width
    if min(shape) < 0:
        return None
    size = shape[0] * shape[1] * shape[2]
    payloads = [datum.data for datum in datums]
    for datum, payload in zip(datums, payloads, strict=True):
        if datum.encoded or len(payload) != size or (datum.channels, datum.height, datum.width) != shape:
            return None
    return np.frombuffer(b"".join(payloads), np.uint8).reshape(len(datums), *shape) if size else None
