"""The records of an LMDB file, read page by page, each looked at before it is followed.

LMDB maps its file into memory and trusts it: where a page was zeroed or overwritten, or the file is cut short while it
is read, it ends the process with a failed assertion, a segmentation fault or a bus error.  So nothing is mapped here.
The layout (LMDB 0.9, 64 bits): pages of one size, each with its own number and kind; pages 0 and 1 are metas, used by
turns, that tell the root of the tree; branch pages hold the numbers of pages, leaf pages hold the records, and where a
record is too large, the number of the first of the overflow pages that do.
"""

from __future__ import annotations

import bisect
import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from minicaffe import limits
from minicaffe.errors import DataError

_META = struct.Struct("=16xII16xI48xHH24xQQQQ")
_HEADER = struct.Struct("=QxxHHH")  # number, kind, end of the nodes' places, start of the nodes
_NODE = struct.Struct("=HHHH")  # length or page (low, high), flags or page (highest), length of the key
_NUMBER = struct.Struct("=Q")
_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF, _KINDS = 0x01, 0x02, 0x6F
_OVERFLOWS = 0x01
_EMPTY = 2**64 - 1
_DEEPEST = 32  # levels of a tree that LMDB's own cursor follows


class Meta(NamedTuple):
    """What a meta page says of the file and of its tree."""

    magic: int
    version: int
    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last: int
    transaction: int


class DamagedPage(Exception):
    """A page that LMDB must not follow."""


def check_file(path: str) -> int:
    """The size of the file's pages; DataError unless it has metas that agree, and all the pages that they claim."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        first = _meta(stream.read(_META.size))
        if first is None:
            raise DataError(f"lmdb database {path}: not an LMDB file ({size} bytes); build the database again")
        stream.seek(first.page_size)
        second = _meta(stream.read(_META.size))
    newest = first if second is None else max(first, second, key=lambda meta: meta.transaction)
    expected = max(newest.last + 1, 2) * newest.page_size
    if size < expected:
        raise DataError(
            f"lmdb database {path}: truncated, {size} bytes where its header claims {expected}; "
            "copy it again from its source or rebuild it"
        )
    if second is None or second.page_size != first.page_size:
        raise DataError(
            f"lmdb database {path}: damaged, its second page is no header; copy it again from its source or rebuild it"
        )
    return first.page_size


def _meta(content: bytes) -> Meta | None:
    """The meta page in ``content``, if there is one."""
    if len(content) < _META.size:
        return None
    meta = Meta(*_META.unpack(content))
    sane = meta.magic == _MAGIC and 512 <= meta.page_size <= 65536 and meta.page_size.bit_count() == 1
    return meta if sane else None


@dataclass
class _Step:
    """A page on the way from the root to a record, and the node that is taken there.

    Of each node: where its key begins and ends, the length of its value (in a branch: its page), its flags.
    """

    page: bytes
    nodes: list[tuple[int, int, int, int]]
    index: int = 0

    def key(self, index: int) -> bytes:
        """The key of a node."""
        begin, end, _, _ = self.nodes[index]
        return self.page[begin:end]


class PageCursor:
    """Stands on a record of a file, as LMDB's own cursor does, and raises DamagedPage where a page is not as it should
    be.

    ``transaction`` is the one that it sees: its low bit tells the meta.
    """

    def __init__(self, path: str, page_size: int, transaction: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (``close`` closes it)
        self._size = page_size
        meta = Meta(*_META.unpack_from(self._read(transaction & 1)))
        empty = meta.root == _EMPTY
        if meta.flags or empty != (meta.entries == 0) or not (empty or 0 < meta.depth <= _DEEPEST):
            raise DamagedPage(f"page {transaction & 1} is no header of a database that Caffe reads")
        self._root, self._last = meta.root, min(meta.last, os.fstat(self._file.fileno()).st_size // page_size - 1)
        self._depth, self._entries = 0 if empty else meta.depth, meta.entries
        self._path: list[_Step] = []

    def first(self) -> bool:
        """Go to the first record; false if there is none."""
        self._path.clear()
        self._descend()
        return bool(self._path)

    def seek(self, key: bytes) -> bool:
        """Go to the record of this key; false if there is none."""
        self._path.clear()
        self._descend(key)
        if not self._path:
            return False
        leaf = self._path[-1]
        leaf.index = bisect.bisect_left(range(len(leaf.nodes)), key, key=leaf.key)
        return leaf.index < len(leaf.nodes) and leaf.key(leaf.index) == key

    def next(self) -> bool:
        """Go to the following record; false at the end."""
        before = self._path[-1].key(self._path[-1].index) if self._path else b""
        while self._path:
            step = self._path[-1]
            step.index += 1
            if step.index < len(step.nodes):
                self._descend()
                leaf = self._path[-1]
                _check_order(before, leaf.key(leaf.index))
                return True
            self._path.pop()
        return False

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        """Key and value of the record and of those that follow on its page, so many at most; goes to the last."""
        leaf, before, records = self._path[-1], b"", []
        page, last = leaf.page, min(leaf.index + most, len(leaf.nodes)) - 1
        for begin, end, length, flags in leaf.nodes[leaf.index : last + 1]:
            key = page[begin:end]
            _check_order(before, key)
            records.append((key, page[end : end + length] if flags != _OVERFLOWS else self._overflow(key, end, length)))
            before = key
        leaf.index = last
        return records

    def _overflow(self, key: bytes, place: int, length: int) -> bytes:
        """The value of a record that is too large for its page, which has the number of another at ``place``."""
        (first,) = _NUMBER.unpack_from(self._path[-1].page, place)
        limits.require_memory(length, f"record {key!r} of a database", "copy the database again from its source")
        return self._read(first, _HEADER.size, length)

    def count(self) -> int:
        """The number of records."""
        return self._entries

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def _read(self, number: int, skip: int = 0, length: int | None = None) -> bytes:
        """Page ``number``, or so many bytes from ``skip`` on, which may go on into the pages that follow."""
        wanted = self._size if length is None else length
        parts, at = [], number * self._size + skip
        while wanted:
            part = os.pread(self._file.fileno(), min(wanted, 1 << 30), at)
            if not part:
                raise DamagedPage(f"the file ends inside page {at // self._size}; it was cut short")
            parts.append(part)
            wanted, at = wanted - len(part), at + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _descend(self, key: bytes | None = None) -> None:
        """Go on from the last page of the path to a leaf: the leftmost, or that of ``key``."""
        while len(self._path) < self._depth:
            number = self._path[-1].nodes[self._path[-1].index][2] if self._path else self._root
            step = self._look_at(number, leaf=len(self._path) == self._depth - 1)
            if key is not None and len(self._path) < self._depth - 1:
                step.index = bisect.bisect_right(range(1, len(step.nodes)), key, key=step.key)
            self._path.append(step)

    def _look_at(self, number: int, leaf: bool) -> _Step:
        """Read a page and check that it is of its kind, and that all it holds lies inside it, or inside the file."""
        if not 2 <= number <= self._last:
            raise DamagedPage(f"a page points to page {number} of {self._last + 1}")
        page = self._read(number)
        stored, kind, lower, upper = _HEADER.unpack_from(page)
        count = (lower - _HEADER.size) // 2
        sane = stored == number and kind & _KINDS == (_LEAF if leaf else _BRANCH) and lower % 2 == 0
        if not sane or count < (1 if leaf else 2) or not lower <= upper <= self._size:
            raise DamagedPage(f"page {number} is not the {'leaf' if leaf else 'branch'} page that it should be")
        nodes = []
        for offset in struct.unpack_from(f"={count}H", page, _HEADER.size):
            if not upper <= offset <= self._size - _NODE.size:
                raise DamagedPage(f"page {number} holds a record that ends outside it")
            low, high, flags, key_length = _NODE.unpack_from(page, offset)
            begin = offset + _NODE.size
            end, length = begin + key_length, low | high << 16 if leaf else low | high << 16 | flags << 32
            if not (self._fits(page, begin, end, length, flags) if leaf else end <= self._size):
                raise DamagedPage(f"page {number} holds a record that ends outside it")
            nodes.append((begin, end, length, flags))
        return _Step(page, nodes)

    def _fits(self, page: bytes, begin: int, end: int, length: int, flags: int) -> bool:
        """Whether the value of a record, behind its key from ``begin`` to ``end``, lies inside its page or the file."""
        if begin == end:  # LMDB knows no empty key: zeros
            return False
        if flags == 0:
            return end + length <= self._size
        if flags != _OVERFLOWS or end + _NUMBER.size > self._size:
            return False
        (first,) = _NUMBER.unpack_from(page, end)
        pages = -(-(_HEADER.size + length) // self._size)
        return first >= 2 and first + pages - 1 <= self._last


def _check_order(before: bytes, key: bytes) -> None:
    if key <= before:  # a tree whose branches meet might never end
        raise DamagedPage(f"the record after {before!r} has a key that comes before it")
