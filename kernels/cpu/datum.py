"""Records of images, taken apart many at once: the wire form of a Datum (protobuf.dev/programming-guides/encoding).

It runs in prefetch threads, as ``transform`` does: single-threaded and without the interpreter's lock.
"""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel

CHANNELS, HEIGHT, WIDTH, START, SIZE, LABEL, PLAIN = range(7)
"""Columns of what ``scan`` finds."""

_FIELD_OF_DATA, _FIELD_OF_LABEL, _FIELD_OF_FLOATS, _FIELD_OF_ENCODED = 4, 5, 6, 7
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


@kernel(internal=True)
def _varint(records: np.ndarray, position: int, end: int) -> tuple[np.uint64, int]:
    """The number at ``position`` and the position after it; -1 where it does not end."""
    value, shift = np.uint64(0), np.uint64(0)
    while position < end and shift < np.uint64(70):
        byte = np.uint64(records[position])
        position += 1
        if shift < np.uint64(64):
            value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return value, position
        shift += np.uint64(7)
    return value, -1


@kernel()
def scan(records: np.ndarray, ends: np.ndarray, fields: np.ndarray) -> None:
    """What each of n records says, and where its bytes are.

    records: uint8, one behind the other; ends (n,) int64, where each ends; fields (n, 7) int64, all 0 before. A record
    is PLAIN (1) if it holds bytes as they are, neither encoded nor floats, and nothing that is against the encoding.
    """
    begin = 0
    for n in range(len(ends)):
        position, end = begin, ends[n]
        found = fields[n]
        found[PLAIN] = 1
        while position < end:
            tag, position = _varint(records, position, end)
            number, wire = np.int64(tag >> np.uint64(3)), np.int64(tag & np.uint64(7))
            value, length = np.uint64(0), np.int64(0)
            if position >= 0 and wire in (_VARINT, _LENGTH_DELIMITED):
                value, position = _varint(records, position, end)
            if wire == _LENGTH_DELIMITED:
                length = np.int64(min(value, np.uint64(0x7FFFFFFF)))
            elif wire == _FIXED32:
                length = np.int64(4)
            elif wire == _FIXED64:
                length = np.int64(8)
            elif wire != _VARINT:
                position = -1
            if position < 0 or number < 1 or position + length > end:
                found[PLAIN] = 0
                break
            if wire == _VARINT and 1 <= number <= 3:
                found[CHANNELS + number - 1] = np.int32(np.uint32(value & np.uint64(0xFFFFFFFF)))
            elif wire == _VARINT and number == _FIELD_OF_LABEL:
                found[LABEL] = np.int32(np.uint32(value & np.uint64(0xFFFFFFFF)))
            elif wire == _LENGTH_DELIMITED and number == _FIELD_OF_DATA:
                found[START], found[SIZE] = position, length
            elif number == _FIELD_OF_FLOATS or (number == _FIELD_OF_ENCODED and value != np.uint64(0)):
                found[PLAIN] = 0
                break
            position = int(position + length)
        begin = end


@kernel()
def gather(records: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy the bytes from each of n ``starts`` on into the rows of ``out`` (n, size)."""
    size = np.uint64(out.shape[1])
    for n in range(len(starts)):
        row, first = out[n], np.uint64(starts[n])
        for i in range(size):  # to assign a slice compiles four times as long: it can fail, with a message
            row[i] = records[first + i]
