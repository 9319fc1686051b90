"""The orders in which the records of a database are read: as their keys stand, or at random."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from minicaffe.backend import ranks
from minicaffe.backend.random import Stream
from minicaffe.data.source import state_of_text, text_of_state
from minicaffe.data.store import Reader
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

Record = tuple[bytes, bytes]
"""A key and its value."""


class Walk(ABC):
    """Reads the records of a database, again and again: of ``shares`` walks together, the one of number ``rank``.

    A position, as ``position`` gives it, is what ``encode`` takes.
    """

    encoded: frozenset[str]
    """The names of what ``encode`` gives."""

    def __init__(self, records: Reader, rank: int, shares: int) -> None:
        self._records = records
        self._rank, self._shares = rank, shares

    @abstractmethod
    def next_records(self, count: int) -> list[Record]:
        """The next so many records."""

    @abstractmethod
    def position(self) -> Any:
        """Where the walk stands."""

    @abstractmethod
    def encode(self, position: Any) -> dict[str, Any]:
        """A position as values that JSON can hold."""

    @abstractmethod
    def go_to(self, state: dict[str, Any]) -> None:
        """Continue from an encoded position; DataError if it names no record, or is of another kind of walk."""

    def draw_anew(self, stream: Stream) -> None:  # noqa: B027  (walks that draw alike go on so)
        """Seed from ``stream`` what each of the walks draws for itself."""

    def find(self, key: bytes) -> None:
        """Go to the record of this key; DataError if there is none."""
        if not self._records.seek(key):
            raise DataError(
                f"{self.where}: no record {key.decode(errors='replace')!r}, where the snapshot stopped reading; "
                "resume with the database that it was trained on"
            )

    def require_own(self, state: dict[str, Any]) -> None:
        """DataError unless a state is of this kind of walk; others have their own names in it, too."""
        if not self.encoded <= set(state) or "shuffler" in set(state) - self.encoded:
            raise DataError(
                f"{self.where}: data_param.shuffle or shuffle_pool_size is not what it was when the snapshot was "
                "taken; restore the net's definition or start anew"
            )

    @property
    def where(self) -> str:
        """The database, for errors."""
        return f"{self._records.backend} database {self._records.path}"


class InOrder(Walk):
    """Every ``shares``-th record in the order of keys, the numbers going on from one round to the next."""

    encoded = frozenset({"key", "offset"})

    def __init__(self, records: Reader, rank: int, shares: int) -> None:
        super().__init__(records, rank, shares)
        self._offset = 0  # records passed since the start, over all rounds

    def next_records(self, count: int) -> list[Record]:
        records: list[Record] = []
        while len(records) < count:
            self._advance(self._rank)
            taken = self._records.take(count - len(records) if self._shares == 1 else 1)
            records += taken
            self._offset += len(taken) - 1
            self._advance(self._shares - self._rank)
        return records

    def position(self) -> tuple[bytes, int]:
        """The key of the next record, its number."""
        return self._records.item()[0], self._offset

    def encode(self, position: tuple[bytes, int]) -> dict[str, Any]:
        key, offset = position
        return {"key": text_of_state(key), "offset": offset}

    def go_to(self, state: dict[str, Any]) -> None:
        self.require_own(state)
        self.find(state_of_text(state["key"]) or b"")
        self._offset = state["offset"]

    def _advance(self, records: int) -> None:
        for _ in range(records):
            if not self._records.next():
                _log.info("Restarting data prefetching from start.")
                self._records.seek_to_first()
        self._offset += records


class Shuffled(Walk):
    """All records in an order that is drawn anew for each round, the same for all walks that read together
    (``data_param.shuffle`` of NVCaffe, Intel, yjxiong)."""

    encoded = frozenset({"place", "records", "shuffler"})

    def __init__(self, records: Reader, rank: int, shares: int, stream: Stream) -> None:
        super().__init__(records, rank, shares)
        self._keys = _keys(records)
        self._stream = stream
        self._begin()

    def _begin(self) -> None:
        """Begin a round."""
        self._before, self._place = self._stream.get_state(), 0
        self._order = np.arange(len(self._keys))
        self._stream.shuffle(self._order)

    def next_records(self, count: int) -> list[Record]:
        records: list[Record] = []
        while len(records) < count:
            self._advance(self._rank)
            self.find(self._keys[self._order[self._place]])
            records.append(self._records.item())
            self._advance(self._shares - self._rank)
        return records

    def _advance(self, records: int) -> None:
        for _ in range(records):
            self._place += 1
            if self._place == len(self._order):
                _log.info("Restarting data prefetching from start.")
                self._begin()

    def position(self) -> tuple[int, bytes]:
        """The place in the round, and the state of the stream before its order was drawn."""
        return self._place, self._before

    def encode(self, position: tuple[int, bytes]) -> dict[str, Any]:
        place, before = position
        return {"place": place, "records": len(self._keys), "shuffler": text_of_state(before)}

    def go_to(self, state: dict[str, Any]) -> None:
        self.require_own(state)
        if state["records"] != len(self._keys) or not 0 <= state["place"] < len(self._keys):
            raise DataError(
                f"{self.where}: {len(self._keys)} records, where the snapshot was taken with {state['records']}; "
                "resume with the database that it was trained on"
            )
        self._stream.set_state(state_of_text(state["shuffler"]) or b"")
        self._begin()
        self._place = state["place"]


class Pooled(InOrder):
    """Records from a pool of ``size``, which the next ones in order replace (``shuffle_pool_size`` of Tong Xiao's
    Caffe): the first to come fill it, and pass as they are."""

    encoded = frozenset({"key", "offset", "pool", "shuffler"})

    def __init__(self, records: Reader, rank: int, shares: int, stream: Stream, size: int) -> None:
        super().__init__(records, rank, shares)
        self._stream, self._size = stream, size
        self._pool: list[bytes] = []

    def next_records(self, count: int) -> list[Record]:
        records = super().next_records(count)
        if len(self._pool) < self._size:
            self._pool += [key for key, _ in records]
            return records
        for n, draw in enumerate(self._stream.draws(count).tolist()):
            other = n + draw % (len(self._pool) - n)
            self._pool[n], self._pool[other] = self._pool[other], self._pool[n]
        drawn, self._pool[:count] = self._pool[:count], [key for key, _ in records]
        here = self._records.item()[0]
        records = [self._fetched(key) for key in drawn]
        self.find(here)
        return records

    def draw_anew(self, stream: Stream) -> None:
        self._stream = Stream(stream.draw())

    def _fetched(self, key: bytes) -> Record:
        self.find(key)
        return self._records.item()

    def position(self) -> Any:
        """Where ``InOrder`` stands, the keys in the pool, the state of the stream."""
        return super().position(), list(self._pool), self._stream.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        following, pool, stream = position
        return {
            **super().encode(following),
            "pool": [text_of_state(key) for key in pool],
            "shuffler": text_of_state(stream),
        }

    def go_to(self, state: dict[str, Any]) -> None:
        super().go_to(state)
        self._pool = [state_of_text(key) or b"" for key in state["pool"]]
        self._stream.set_state(state_of_text(state["shuffler"]) or b"")


def walk(records: Reader, data_param: Any, rank: int, shares: int, stream: Stream) -> Walk:
    """The walk that a ``data_param`` asks for; one at random draws its seed from ``stream``."""
    if data_param.shuffle:
        return Shuffled(records, rank, shares, Stream(ranks.agreed(stream.draw(), shares)))
    if data_param.shuffle_pool_size > 1:
        size = data_param.shuffle_pool_size * data_param.batch_size
        return Pooled(records, rank, shares, Stream(stream.draw()), size)
    return InOrder(records, rank, shares)


def _keys(records: Reader) -> list[bytes]:
    """The keys of all records; the cursor then stands on the first."""
    keys: list[bytes] = []
    more = records.seek_to_first()
    while more:
        keys.append(records.item()[0])
        more = records.next()
    records.seek_to_first()
    return keys
