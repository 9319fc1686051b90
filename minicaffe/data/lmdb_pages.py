"""The pages of an LMDB file, each looked at before LMDB follows it.

LMDB maps its file into memory and trusts it: where a page was zeroed or overwritten, it ends the process with a failed
assertion or a segmentation fault.  The layout (LMDB 0.9, 64 bits): pages of one size, each with its own number and
kind; pages 0 and 1 are metas, used by turns, that tell the root of the tree; branch pages hold the numbers of pages,
leaf pages hold the records, and where a record is too large, the number of the first of the overflow pages that do.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from minicaffe.errors import DataError

_META = struct.Struct("=16xII16xI48xHH24xQQQQ")
_HEADER = struct.Struct("=QxxHHH")  # number, kind, end of the nodes' places, start of the nodes
_NODE = struct.Struct("=HHHH")  # length or page (low, high), flags or page (highest), length of the key
_NUMBER = struct.Struct("=Q")
_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF, _KINDS = 0x01, 0x02, 0x6F
_OVERFLOWS = 0x01
_EMPTY = 2**64 - 1


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


def check_file(path: str) -> None:
    """DataError unless the file has metas that agree, and all the pages that they claim."""
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


def _meta(content: bytes) -> Meta | None:
    """The meta page in ``content``, if there is one."""
    if len(content) < _META.size:
        return None
    meta = Meta(*_META.unpack(content))
    sane = meta.magic == _MAGIC and 512 <= meta.page_size <= 65536 and meta.page_size.bit_count() == 1
    return meta if sane else None


@dataclass
class _Step:
    """A page on the way from the root to a record, and the node that is taken there."""

    start: int
    offsets: tuple[int, ...]
    index: int = 0


class PageGuard:
    """Walks a tree of pages as an LMDB cursor will, and raises DamagedPage where the cursor must not go.

    ``transaction`` is that of the cursor: its low bit tells the meta.
    """

    def __init__(self, path: str, page_size: int, transaction: int) -> None:
        with open(path, "rb") as stream:
            self._file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._size = page_size
        meta = Meta(*_META.unpack_from(self._file, page_size * (transaction & 1)))
        if meta.flags or (meta.root == _EMPTY) != (meta.entries == 0):
            raise DamagedPage(f"page {transaction & 1} is no header of a database that Caffe reads")
        self._root, self._last = meta.root, min(meta.last, len(self._file) // page_size - 1)
        self._depth = 0 if meta.root == _EMPTY else meta.depth
        self._path: list[_Step] = []

    def first(self) -> None:
        """Look at the pages that lead to the first record."""
        self._path.clear()
        self._descend()

    def seek(self, key: bytes) -> None:
        """Look at the pages that lead to ``key``."""
        self._path.clear()
        self._descend(key)

    def next(self) -> None:
        """Look at the pages that lead from a record to the next."""
        while self._path:
            step = self._path[-1]
            step.index += 1
            if step.index < len(step.offsets):
                self._descend()
                return
            self._path.pop()

    def close(self) -> None:
        """Give the file back; may be called twice."""
        self._file.close()

    def _descend(self, key: bytes | None = None) -> None:
        """Go on from the last page of the path to a leaf: the leftmost, or that of ``key``."""
        while len(self._path) < self._depth:
            number = self._child(self._path[-1]) if self._path else self._root
            step = self._look_at(number, leaf=len(self._path) == self._depth - 1)
            if key is not None:
                step.index = bisect.bisect_right(range(1, len(step.offsets)), key, key=lambda i: self._key(step, i))
            self._path.append(step)

    def _child(self, step: _Step) -> int:
        low, high, highest, _ = _NODE.unpack_from(self._file, step.start + step.offsets[step.index])
        return low | high << 16 | highest << 32

    def _key(self, step: _Step, index: int) -> bytes:
        node = step.start + step.offsets[index]
        length = _NODE.unpack_from(self._file, node)[3]
        return self._file[node + _NODE.size : node + _NODE.size + length]

    def _look_at(self, number: int, leaf: bool) -> _Step:
        """Check that a page is of its kind, and that all it holds lies inside it, or inside the file."""
        if not 2 <= number <= self._last:
            raise DamagedPage(f"a page points to page {number} of {self._last + 1}")
        start = number * self._size
        stored, kind, lower, upper = _HEADER.unpack_from(self._file, start)
        count = (lower - _HEADER.size) // 2
        sane = stored == number and kind & _KINDS == (_LEAF if leaf else _BRANCH) and lower % 2 == 0
        if not sane or count < (1 if leaf else 2) or not lower <= upper <= self._size:
            raise DamagedPage(f"page {number} is not the {'leaf' if leaf else 'branch'} page that it should be")
        offsets = struct.unpack_from(f"={count}H", self._file, start + _HEADER.size)
        for offset in offsets:
            if not upper <= offset <= self._size - _NODE.size or not self._fits(start, offset, leaf):
                raise DamagedPage(f"page {number} holds a record that ends outside it")
        return _Step(start, offsets)

    def _fits(self, start: int, offset: int, leaf: bool) -> bool:
        low, high, flags, key_length = _NODE.unpack_from(self._file, start + offset)
        end = offset + _NODE.size + key_length
        if not leaf:
            return end <= self._size
        length = low | high << 16
        if key_length == 0:  # LMDB knows no empty key: zeros
            return False
        if flags == 0:
            return end + length <= self._size
        if flags != _OVERFLOWS or end + _NUMBER.size > self._size:
            return False
        (first,) = _NUMBER.unpack_from(self._file, start + end)
        pages = -(-(_HEADER.size + length) // self._size)
        return first >= 2 and first + pages - 1 <= self._last
