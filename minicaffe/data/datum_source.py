"""Batches from a database of Datums."""

from __future__ import annotations

import base64
import logging
import math
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.datum import labels, parse, raw_batch, to_packed
from minicaffe.data.db import open_db
from minicaffe.data.packed import PackedImage
from minicaffe.data.prefetch import Finish, done
from minicaffe.data.source import Batch, BatchSource, ImageReader, check_sizes, state_of_text, text_of_state
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop

_log = logging.getLogger(__name__)


class DatumSource(BatchSource):
    """What Caffe's Data layer reads: the records of a database in key order, again and again, in batches.

    ``data_param`` (source, backend, batch_size, prefetch) and ``transform_param`` are the layer's; ``stream`` is the
    stream Caffe would seed the layer from: two draws for the transformer, if it needs random numbers, and one for the
    prefetch thread. Of ``solver_count`` solvers, each reads the records whose number modulo ``solver_count`` is its
    ``rank``, the numbers going on from one round to the next. A position is the same for every rank.

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
        reader = _DatumReader(data_param, transformer, rank, solver_count)
        super().__init__(reader, data_param.batch_size, data_param.prefetch)


class RecordReader(ImageReader):
    """Walks over the records of a database, again and again: every ``shares``-th one from number ``rank`` on."""

    remedy = "make all records one size, or set transform_param.crop_size or data_param.batch_size: 1"

    def __init__(self, data_param: Any, transformer: Transformer, rank: int, shares: int) -> None:
        backend = proto.DataParameter.DB.Name(data_param.backend)
        super().__init__(transformer)
        self._records = open_db(data_param.source, backend)
        self._batch_size = data_param.batch_size
        self._before, self._after = rank, shares - rank  # records to pass before and after each that is read
        self._offset = 0  # records passed since the start, over all rounds
        if not self._records.seek_to_first():
            raise DataError(f"{self._where()}: empty, not one record; build it again")

    def next_records(self) -> list[tuple[bytes, bytes]]:
        """Key and value of the records of a batch."""
        records: list[tuple[bytes, bytes]] = []
        alone = self._before + self._after == 1
        while len(records) < self._batch_size:
            self._advance(self._before)
            taken = self._records.take(self._batch_size - len(records) if alone else 1)
            records += taken
            self._offset += len(taken) - 1
            self._advance(self._after)
        return records

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
        super().close()
        self._records.close()

    def _advance(self, records: int) -> None:
        for _ in range(records):
            if not self._records.next():
                _log.info("Restarting data prefetching from start.")
                self._records.seek_to_first()
        self._offset += records

    def _where(self) -> str:
        return f"{self._records.backend} database {self._records.path}"

    def at(self, item: tuple[bytes, bytes], error: DataError) -> DataError:
        return DataError(f"{self._where()}, record {item[0].decode(errors='replace')!r}: {error}")


class _DatumReader(RecordReader):
    """Fills batches with the Datums of a database."""

    def __init__(self, data_param: Any, transformer: Transformer, rank: int, shares: int) -> None:
        super().__init__(data_param, transformer, rank, shares)
        first = self._records.item()
        try:
            datum = parse(first[1])
            self.shape = transformer.output_shape(self._pixels(datum).shape)
            self.labels = labels(datum).shape
        except DataError as error:
            raise self.at(first, error) from error

    def begin(self, batch: Batch) -> Finish:
        records = self.next_records()
        raw = raw_batch([value for _, value in records])
        finish = done
        if raw is None or self.labels:
            finish = self.begin_with(batch, records)
        else:
            self._fill_at_once(batch, records[0], *raw)
        batch.position = self.position()
        return finish

    def _fill_at_once(self, batch: Batch, first: tuple[bytes, bytes], pixels: np.ndarray, label: np.ndarray) -> None:
        """The way of raw Datums of one size."""
        transformer, shape = self._transformer, pixels.shape[1:]
        try:
            batch.resize(transformer.output_shape(shape), np.uint8)
            batch.mean, batch.scale = transformer.mean_of(shape), transformer.scale
        except DataError as error:
            raise self.at(first, error) from error
        batch.offsets, batch.mirror = transformer.place(transformer.draw(len(pixels)), shape)
        if transformer.crop_size or transformer.mirror:
            crop(pixels, batch.offsets, batch.mirror, batch.pixels)
        else:
            batch.pixels = pixels
        batch.label[:] = label

    def read(self, item: tuple[bytes, bytes]) -> tuple[np.ndarray | PackedImage, np.ndarray]:
        datum = parse(item[1])
        label = labels(datum)
        if label.shape != self.labels:
            raise DataError(
                f"it has {label.size} label(s), the first record {math.prod(self.labels)}; give all as many"
            )
        return self._pixels(datum), label

    def _pixels(self, datum: Any) -> np.ndarray | PackedImage:
        return to_packed(datum, self._transformer.force_color, self._transformer.force_gray)
