"""The wire form of messages (protobuf.dev/programming-guides/encoding), where protobuf's own way would cost too much.

Protobuf copies a message several times while it parses or writes it, and nearly all of a file of weights are the values
of blobs.  So `lift` leaves them in the file: what protobuf parses are the other fields, with the places of the values
in their stead.  And a message that is written is a list of pieces, among them the memory of the arrays.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from minicaffe import limits

Piece = bytes | memoryview
Pieces = list[Piece]

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

_SIZES = {"data": 4, "diff": 4, "double_data": 8, "double_diff": 8, "raw_data": 1, "raw_diff": 1}
"""The fields of a BlobProto that hold its values, and the bytes of an element."""

_SMALL = 4096  # bytes of a blob that is parsed with the rest
_DEEPEST = 8  # messages inside each other in which blobs are looked for
_WINDOW = 1 << 16  # bytes of a file that are read at once
_MOST_AT_ONCE = 1 << 30  # bytes that the system reads in one call
_LONGEST_VARINT = 10  # bytes
_PLACE_FIELD = 2**29 - 1  # in a blob: where values are; a number that no schema uses
_PLACE = struct.Struct("<BQQ")  # number of the field, offset, size


class Place(NamedTuple):
    """Bytes of a file."""

    offset: int
    size: int


class File:
    """A file that stays open while it is referred to: what was read of it and what is read later belong together."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._descriptor = limits.open_file(path)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.name = os.fspath(path)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from ``offset`` on, fewer at the end of the file; OutOfMemoryError for more than fits."""
        limits.require_memory(3 * size, f"reading {self.name}", "is it the right file?")
        parts = []
        while size and (part := os.pread(self._descriptor, min(size, _MOST_AT_ONCE), offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill ``target``, a view of bytes; EOFError where the file ends before."""
        while len(target):
            count = os.preadv(self._descriptor, [target], offset)
            if not count:
                raise EOFError(f"{self.name} was cut short while it was read")
            target, offset = target[count:], offset + count


def lift(file: File, descriptor: Descriptor) -> bytes:
    """The message in a file without the values of its large blobs, in place of which `places` finds where they are.

    Whatever is not as the encoding demands stays as it is, for protobuf to refuse.
    """
    try:
        pieces = _Lifter(file).message(0, file.size, descriptor, 0)
    except _MalformedError:
        pieces = None
    return file.read(0, file.size) if pieces is None else b"".join(pieces)


def places(blob: Message, size: float = math.inf) -> dict[str, list[Place]]:
    """Where the values of a blob are in its file of so many bytes, by field, in order; nothing of what the message
    itself holds.
    """
    found: dict[str, list[Place]] = {}
    for field in cast(Any, UnknownFieldSet(blob)):
        if field.field_number == _PLACE_FIELD and isinstance(field.data, bytes) and len(field.data) == _PLACE.size:
            number, *place = _PLACE.unpack(field.data)
            known = blob.DESCRIPTOR.fields_by_number.get(number)
            if known is not None and known.name in _SIZES and sum(place) <= size:
                found.setdefault(known.name, []).append(Place(*place))
    return found


class _Memory:
    """Bytes, read as a File is."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class _Field(NamedTuple):
    """A field on the wire: its number and type, and where it begins, its value begins, and it ends."""

    number: int
    wire: int
    begin: int
    value: int
    end: int


class _MalformedError(Exception):
    """Bytes that are no message, or one that is encoded as none of Caffe's is."""


class _Scanner:
    """Walks through a message in a file, or in memory, and looks at tags and lengths only."""

    def __init__(self, source: File | _Memory) -> None:
        self._source = source
        self._window, self._start = b"", 0

    def fields(self, start: int, stop: int) -> Iterator[_Field]:
        """The fields of the message between two offsets; _MalformedError where it is none."""
        position = start
        while position < stop:
            begin = position
            tag, position = self._varint(position)
            number, wire, value = tag >> 3, tag & 7, position
            if wire == LENGTH_DELIMITED:
                length, value = self._varint(position)
                position = value + length
            elif wire == VARINT:
                _, position = self._varint(position)
            elif wire in (FIXED32, FIXED64):
                position += 4 if wire == FIXED32 else 8
            else:  # groups, which Caffe has none of
                raise _MalformedError
            if position > stop or number == 0:
                raise _MalformedError
            yield _Field(number, wire, begin, value, position)

    def _varint(self, position: int) -> tuple[int, int]:
        """The number in groups of 7 bits at ``position``, and the position after it."""
        at = position - self._start
        if not 0 <= at <= len(self._window) - _LONGEST_VARINT:
            self._window, self._start, at = self._source.read(position, _WINDOW), position, 0
        value = 0
        for shift, byte in enumerate(self._window[at : at + _LONGEST_VARINT]):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                return value, position + shift + 1
        raise _MalformedError


class _Lifter:
    """Takes a message in a file apart into what stays and the places of values."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._fields = _Scanner(file).fields

    def message(self, start: int, stop: int, descriptor: Descriptor, depth: int) -> Pieces | None:
        """What is left of the message between two offsets; None if nothing is to be lifted."""
        if descriptor.name == "BlobProto":
            return self._blob(start, stop, descriptor)
        blobs_below, pieces, kept = _fields_with_blobs(descriptor), Pieces(), start
        for number, wire, begin, value, end in self._fields(start, stop):
            if wire == LENGTH_DELIMITED and number in blobs_below and end - value > _SMALL and depth < _DEEPEST:
                inner = self.message(value, end, blobs_below[number], depth + 1)
                if inner is not None:
                    pieces += [self._file.read(kept, begin - kept), *delimited(number, inner)]
                    kept = end
        return [*pieces, self._file.read(kept, stop - kept)] if pieces else None

    def _blob(self, start: int, stop: int, descriptor: Descriptor) -> Pieces | None:
        """A blob's other fields and the places of its values; None if any value is encoded by itself (unpacked)."""
        sizes = {descriptor.fields_by_name[name].number: size for name, size in _SIZES.items()}
        pieces, raw = Pieces(), set()
        for number, wire, begin, value, end in self._fields(start, stop):
            if number not in sizes:
                pieces.append(self._file.read(begin, end - begin))
                continue
            if wire != LENGTH_DELIMITED or number in raw:
                return None
            if (end - value) % sizes[number]:
                raise _MalformedError
            if sizes[number] == 1:
                raw.add(number)  # the last one counts: leave that to protobuf
            pieces += delimited(_PLACE_FIELD, [_PLACE.pack(number, value, end - value)])
        return pieces


@functools.cache
def _fields_with_blobs(descriptor: Descriptor) -> dict[int, Descriptor]:
    """The fields of a message, by number, whose messages are blobs or hold some further down."""

    def reaches(kind: Descriptor, seen: frozenset[str]) -> bool:
        return kind.name == "BlobProto" or any(
            field.message_type.name not in seen and reaches(field.message_type, seen | {field.message_type.name})
            for field in kind.fields
            if field.message_type
        )

    kinds = ((field.number, field.message_type) for field in descriptor.fields if field.message_type)
    return {number: kind for number, kind in kinds if reaches(kind, frozenset((kind.name,)))}


# ------------------------------------------------------------------------------------------------------------- pieces


def size_of(pieces: Iterable[Piece]) -> int:
    """Bytes of the whole."""
    return sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in pieces)


def delimited(number: int, content: Pieces) -> Pieces:
    """A length-delimited field: a message, or packed values."""
    return [encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(size_of(content)), *content]


def with_messages(message: Message, field: str, contents: Sequence[Pieces]) -> Pieces:
    """``message`` with ``contents`` as the messages of its repeated ``field``, which is empty in it.

    The bytes are those that protobuf gives: fields in the order of their numbers.
    """
    number = message.DESCRIPTOR.fields_by_name[field].number
    data = message.SerializeToString()
    cut = next((other.begin for other in _fields_of(data) if other.number > number), len(data))
    added = [piece for content in contents for piece in delimited(number, content)]
    return [data[:cut], *added, data[cut:]]


def payloads(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each length-delimited field of a message that protobuf serialized."""
    for field in _fields_of(data):
        if field.wire == LENGTH_DELIMITED:
            yield field.number, memoryview(data)[field.value : field.end]


def _fields_of(data: bytes) -> Iterator[_Field]:
    return _Scanner(_Memory(data)).fields(0, len(data))


def encode_varint(value: int) -> bytes:
    """The number in groups of 7 bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
