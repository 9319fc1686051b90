"""Datum messages to arrays and back: raw bytes, floats, or an encoded image file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from minicaffe import proto
from minicaffe.data.image import decode_packed
from minicaffe.data.packed import PackedImage, planes
from minicaffe.errors import DataError
from minicaffe.kernels.cpu import datum as wire


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
    return planes(to_packed(datum, force_color, force_gray))


def to_packed(datum: Any, force_color: bool = False, force_gray: bool = False) -> np.ndarray | PackedImage:
    """``to_array`` for whoever needs a part of the image only: one that is decoded may come packed."""
    if datum.encoded:
        return decode_packed(datum.data, color=True if force_color else False if force_gray else None)
    shape = datum.channels, datum.height, datum.width
    if min(shape) < 0:
        raise DataError(f"a Datum that says it is {_by(shape)}; sizes must not be negative")
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if values.size != shape[0] * shape[1] * shape[2] or values.size == 0:
        raise DataError(f"a Datum of {values.size} values that says it is {_by(shape)}")
    return values.reshape(shape)


def labels(datum: Any) -> np.ndarray:
    """The label of a Datum, (), or the several, (L,), that it holds as ``float_data`` beside the bytes of its image.

    Caffe: ``float_data`` beside ``data`` is ignored.
    """
    beside = len(datum.float_data) and datum.data  # which is a copy
    return np.array(datum.float_data if beside else datum.label, np.float32)


def _by(shape: tuple[int, int, int]) -> str:
    return f"{' x '.join(map(str, shape))} (channels, height, width)"


def from_array(array: np.ndarray, label: int | np.ndarray | None = None) -> Any:
    """A raw Datum of an array (channels, height, width): uint8 goes to ``data``, any other type to ``float_data``.

    Raises DataError: several labels for an image of floats.
    """
    channels, height, width = array.shape
    datum = proto.Datum(channels=channels, height=height, width=width)
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).ravel().tolist())
    if label is not None:
        set_label(datum, label)
    return datum


def set_label(datum: Any, label: int | np.ndarray) -> None:
    """Give an image its label, a whole number, or several numbers (L,), as `labels` takes them out.

    Raises DataError: several labels for an image of floats, which go where the image is.
    """
    if np.ndim(label) == 0:
        datum.label = int(label)
    elif not datum.data:
        raise DataError(
            "a Datum of floats has one label, a whole number; write several to a second database, or to HDF5"
        )
    else:
        datum.float_data.extend(np.asarray(label, np.float32).tolist())


def raw_batch(records: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels (N, C, H, W) and labels (N,) of raw uint8 Datums of one shape; None if any record is none of those."""
    if not _scan(records[:1])[1][0, wire.PLAIN]:  # nor will the others be; the rest would be in vain
        return None
    content, fields = _scan(records)
    shape, first = fields[:, wire.CHANNELS : wire.WIDTH + 1], fields[0]
    size = int(first[wire.SIZE])
    expected = math.prod(map(int, first[wire.CHANNELS : wire.WIDTH + 1]))
    alike = (shape == shape[0]).all() and (fields[:, wire.SIZE] == size).all() and fields[:, wire.PLAIN].all()
    if not alike or size != expected or not size or shape[0].min() < 0:
        return None
    pixels = np.empty((len(records), size), np.uint8)
    wire.gather(content, fields[:, wire.START], pixels)
    return pixels.reshape(len(records), *map(int, shape[0])), fields[:, wire.LABEL]


def rehearse_raw_batch() -> None:
    """Call the kernels of ``raw_batch``, where none runs."""
    content, fields = _scan([bytes(1), bytes(1)])
    wire.gather(content, fields[:, wire.START], np.empty((2, 1), np.uint8))


def _scan(records: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The records, one behind the other, and what ``wire.scan`` finds in them."""
    ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
    content, fields = np.frombuffer(bytearray().join(records), np.uint8), np.zeros((len(records), 7), np.int64)
    wire.scan(content, ends, fields)
    return content, fields
