"""Batches from a database, read, decoded and transformed ahead of their use."""

from __future__ import annotations

import base64
import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from minicaffe import limits, proto
from minicaffe.backend.random import Stream
from minicaffe.data.datum import parse, raw_batch, to_array
from minicaffe.data.db import open_db
from minicaffe.data.prefetch import Prefetcher
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)


_BYTES_A_RECORD, _BYTES_A_BATCH = 512, 1024  # beside its pixels


class Batch:
    """``data`` (N, C, h, w) and ``label`` (N,) or rows of another shape, float32, and where the source stands after
    them."""

    def __init__(self, num: int, shape: tuple[int, int, int]) -> None:
        self.data = np.empty((num, *shape), np.float32)
        self.label = np.empty(num, np.float32)
        self.position: Any = None

    def resize(self, shape: tuple[int, int, int]) -> None:
        """Make room for images of ``shape``; memory of that shape is kept."""
        if self.data.shape[1:] != shape:
            size = 4 * len(self.data) * math.prod(shape)
            limits.require_memory(size, f"a batch of shape {(len(self.data), *shape)}", "use a smaller batch_size")
            self.data = np.empty((len(self.data), *shape), np.float32)


class BatchReader(ABC):
    """Fills batches one after the other: all that a prefetch thread works on.

    ``shape`` is that of the first item, transformed, (C, h, w).  A position, as ``fill`` leaves it in each batch, is
    what ``encode`` takes.
    """

    shape: tuple[int, int, int]

    @abstractmethod
    def fill(self, batch: Batch) -> None:
        """Read, decode and transform the next items into ``batch``."""

    @abstractmethod
    def position(self) -> Any:
        """Where the reader stands."""

    @abstractmethod
    def encode(self, position: Any) -> dict[str, Any]:
        """A position as values that JSON can hold."""

    @abstractmethod
    def go_to(self, state: dict[str, Any]) -> None:
        """Continue from an encoded position; DataError if there is nothing to read there."""

    def close(self) -> None:  # noqa: B027  (most readers hold nothing open)
        """Give up what is open; may be called twice."""


class BatchSource:
    """Batches of ``batch_size`` items that ``reader`` fills in a thread, ``depth`` of them ahead of their use."""

    def __init__(self, reader: BatchReader, batch_size: int, depth: int) -> None:
        self.batch_size = batch_size
        self.shape = reader.shape
        self.label_shape: tuple[int, ...] = (batch_size,)
        each = batch_size * (4 * math.prod(reader.shape) + _BYTES_A_RECORD) + _BYTES_A_BATCH
        limits.require_memory(
            (depth + 1) * each, f"reading {depth} batches of {batch_size} ahead", "use a smaller batch_size or prefetch"
        )
        self._reader = reader
        self._depth = depth
        self._position = reader.position()
        self._prefetcher: Prefetcher[Batch] | None = None

    def next_batch(self) -> Batch:
        """The next batch; its arrays are valid until the next call. Raises what went wrong in the reading thread."""
        if self._prefetcher is None:
            buffers = [Batch(self.batch_size, self.shape) for _ in range(self._depth + 1)]
            self._prefetcher = Prefetcher(self._reader.fill, buffers)
        batch = self._prefetcher.get()
        self._position = batch.position
        return batch

    def state(self) -> dict[str, Any]:
        """Where the source stands after the last batch that ``next_batch`` gave, as values that JSON can hold."""
        return self._reader.encode(self._position)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which ``state`` was taken, bit for bit.

        Raises DataError if there is nothing to read where the state stands.
        """
        self._stop()
        self._reader.go_to(state)
        self._position = self._reader.position()

    def close(self) -> None:
        """Stop the thread and close what it reads from."""
        self._stop()
        self._reader.close()

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None


def check_sizes(batch_size: int, prefetch: int, param: str) -> None:
    """DataError unless a batch holds an item and a batch is read ahead."""
    if batch_size < 1:
        raise DataError(f"{param}.batch_size: must be at least 1")
    if prefetch < 1:
        raise DataError("data_param.prefetch: must be at least 1 batch")


def text_of_state(content: bytes | None) -> str | None:
    """Bytes, such as the state of a random stream, as text."""
    return None if content is None else base64.b64encode(content).decode()


def state_of_text(text: str | None) -> bytes | None:
    """What ``text_of_state`` was given."""
    return None if text is None else base64.b64decode(text)


class DatumSource(BatchSource):
    """What Caffe's Data layer reads: the records of a database in key order, again and again, in batches.

    ``data_param`` (source, backend, batch_size, prefetch) and ``transform_param`` are the layer's; ``stream`` is the
    stream Caffe would seed the layer from: two draws for the transformer, if it needs random numbers, and one for the
    prefetch thread. Of ``solver_count`` solvers, each reads the records whose number modulo ``solver_count`` is its
    ``rank``, the numbers going on from one round to the next; in the TEST phase every one reads all. A position is the
    same for every rank.

    ``shape`` (C, h, w) is that of the first record, transformed; reading it consumes nothing. A batch takes the shape
    of its first record.

    Raises DataError: no such database, an empty or a damaged one (naming the record), records of different sizes in one
    batch, a ``transform_param`` that does not fit them, a rank that is none of ``solver_count``.
    """

    def __init__(
        self, data_param: Any, transform_param: Any, phase: int, stream: Stream, rank: int = 0, solver_count: int = 1
    ) -> None:
        check_sizes(data_param.batch_size, data_param.prefetch, "data_param")
        transformer = Transformer(transform_param, phase, stream)
        transformer.seed(stream)  # Caffe seeds it twice; the second seed is the one in use
        stream.draw()  # Caffe's prefetch thread takes its own seed
        if not 0 <= rank < solver_count:
            raise DataError(f"solver rank {rank} must lie below the solver count {solver_count}; see set_solver_count")
        shares = (rank, solver_count) if phase == proto.TRAIN else (0, 1)
        reader = _DatumReader(data_param, transformer, *shares)
        super().__init__(reader, data_param.batch_size, data_param.prefetch)


class RecordReader(BatchReader):
    """Walks over the records of a database, again and again: every ``shares``-th one from number ``rank`` on."""

    def __init__(self, data_param: Any, transformer: Transformer, rank: int, shares: int) -> None:
        backend = proto.DataParameter.DB.Name(data_param.backend)
        self._records = open_db(data_param.source, backend)
        self._transformer = transformer
        self._batch_size = data_param.batch_size
        self._before, self._after = rank, shares - rank  # records to pass before and after each that is read
        self._offset = 0  # records passed since the start, over all rounds
        if not self._records.seek_to_first():
            raise DataError(f"{self._where()}: empty, not one record; build it again")

    def next_record(self) -> tuple[bytes, bytes]:
        """The key and the value of the next record."""
        self._advance(self._before)
        item = self._records.item()
        self._advance(self._after)
        return item

    def position(self) -> tuple[bytes, int, bytes | None]:
        """The key of the next record, its number, the state of the transformer's random stream."""
        return self._records.item()[0], self._offset, self._transformer.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        key, offset, random = position
        return {"key": text_of_state(key), "offset": offset, "random": text_of_state(random)}

    def go_to(self, state: dict[str, Any]) -> None:
        key, self._offset = base64.b64decode(state["key"]), state["offset"]
        if not self._records.seek(key):
            raise DataError(
                f"{self._where()}: no record {key.decode(errors='replace')!r}, where the snapshot stopped reading; "
                "resume with the database that it was trained on"
            )
        self._transformer.set_state(state_of_text(state["random"]))

    def close(self) -> None:
        self._records.close()

    def _advance(self, records: int) -> None:
        for _ in range(records):
            if not self._records.next():
                _log.info("Restarting data prefetching from start.")
                self._records.seek_to_first()
        self._offset += records

    def _where(self) -> str:
        return f"{self._records.backend} database {self._records.path}"

    def _at(self, key: bytes, error: DataError) -> DataError:
        """``error``, naming the database and the record."""
        return DataError(f"{self._where()}, record {key.decode(errors='replace')!r}: {error}")


class _DatumReader(RecordReader):
    """Fills batches with the Datums of a database."""

    def __init__(self, data_param: Any, transformer: Transformer, rank: int, shares: int) -> None:
        super().__init__(data_param, transformer, rank, shares)
        key, value = self._records.item()
        try:
            self.shape = transformer.output_shape(self._pixels(parse(value)).shape)
        except DataError as error:
            raise self._at(key, error) from error

    def fill(self, batch: Batch) -> None:
        """Read, decode and transform the next records into ``batch``."""
        keys, datums = [], []
        for _ in range(self._batch_size):
            key, value = self.next_record()
            try:
                datums.append(parse(value))
            except DataError as error:
                raise self._at(key, error) from error
            keys.append(key)
        pixels = raw_batch(datums)
        if pixels is None:
            self._fill_singly(batch, keys, datums)
        else:
            self._fill_at_once(batch, keys[0], pixels)
        batch.label[:] = [datum.label for datum in datums]
        batch.position = self.position()

    def _fill_at_once(self, batch: Batch, key: bytes, pixels: np.ndarray) -> None:
        try:
            batch.resize(self._transformer.output_shape(pixels.shape[1:]))
        except DataError as error:
            raise self._at(key, error) from error
        self._transformer(pixels, batch.data)

    def _fill_singly(self, batch: Batch, keys: list[bytes], datums: list[Any]) -> None:
        """The way of encoded and float Datums, and of sizes that differ where a crop makes them equal."""
        for n, (key, datum) in enumerate(zip(keys, datums, strict=True)):
            try:
                pixels = self._pixels(datum)
                shape = self._transformer.output_shape(pixels.shape)
                if n == 0:
                    batch.resize(shape)
                elif shape != batch.data.shape[1:]:
                    raise DataError(
                        f"its shape is {shape} (channels, height, width), that of the batch's first "
                        f"{batch.data.shape[1:]}; make all records one size, or set transform_param.crop_size or "
                        "data_param.batch_size: 1"
                    )
            except DataError as error:
                raise self._at(key, error) from error
            self._transformer(pixels[np.newaxis], batch.data[n : n + 1])

    def _pixels(self, datum: Any) -> np.ndarray:
        return to_array(datum, self._transformer.force_color, self._transformer.force_gray)
