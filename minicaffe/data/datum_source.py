"""Batches from a database of Datums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data import varied_crops
from minicaffe.data.datum import labels, parse, raw_batch, rehearse_raw_batch, to_packed
from minicaffe.data.db import open_db
from minicaffe.data.packed import PackedImage
from minicaffe.data.prefetch import Finish, done
from minicaffe.data.record_walk import Record, walk
from minicaffe.data.source import Batch, BatchSource, ImageReader, check_sizes, state_of_text, text_of_state
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop


class DatumSource(BatchSource):
    """What Caffe's Data layer reads: the records of a database in key order, or shuffled, again and again, in batches.

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
        transformer = varied_crops.transformer(transform_param, phase, stream)
        transformer.seed(stream)  # Caffe seeds it twice; the second seed is the one in use
        stream.draw()  # Caffe's prefetch thread takes its own seed
        if not 0 <= rank < solver_count:
            raise DataError(f"solver rank {rank} must lie below the solver count {solver_count}; see set_solver_count")
        reader = _DatumReader(data_param, transformer, rank, solver_count, stream)
        super().__init__(reader, data_param.batch_size, data_param.prefetch)


class RecordReader(ImageReader):
    """Reads the records of a database, again and again: of ``shares`` readers together, the one of number ``rank``."""

    remedy = "make all records one size, or set transform_param.crop_size or data_param.batch_size: 1"

    def __init__(self, data_param: Any, transformer: Transformer, rank: int, shares: int, stream: Stream) -> None:
        backend = proto.DataParameter.DB.Name(data_param.backend)
        super().__init__(transformer)
        self._records = open_db(data_param.source, backend)
        self._batch_size = data_param.batch_size
        if not self._records.seek_to_first():
            raise DataError(
                f"{self._records.backend} database {self._records.path}: empty, not one record; build it again"
            )
        self._walk = walk(self._records, data_param, rank, shares, stream)

    def next_records(self) -> list[Record]:
        """Key and value of the records of a batch."""
        return self._walk.next_records(self._batch_size)

    def position(self) -> tuple[Any, bytes | None]:
        """Where the walk stands, the state of the transformer's random stream."""
        return self._walk.position(), self._transformer.get_state()

    def encode(self, position: tuple[Any, bytes | None]) -> dict[str, Any]:
        place, random = position
        return {**self._walk.encode(place), "random": text_of_state(random)}

    def go_to(self, state: dict[str, Any]) -> None:
        self._walk.go_to(state)
        self._transformer.set_state(state_of_text(state["random"]))

    def draw_anew(self, stream: Stream) -> None:
        super().draw_anew(stream)
        self._walk.draw_anew(stream)

    def close(self) -> None:
        super().close()
        self._records.close()

    def at(self, item: Record, error: DataError) -> DataError:
        return DataError(f"{self._walk.where}, record {item[0].decode(errors='replace')!r}: {error}")


class _DatumReader(RecordReader):
    """Fills batches with the Datums of a database."""

    def __init__(self, data_param: Any, transformer: Transformer, *where: Any) -> None:
        super().__init__(data_param, transformer, *where)
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
        if raw is None or self.labels or self._transformer.varies:
            finish = self.begin_with(batch, records)
        else:
            self._fill_at_once(batch, records[0], *raw)
        batch.position = self.position()
        return finish

    def rehearse(self) -> None:
        rehearse_raw_batch()
        if self._transformer.crop or self._transformer.mirror:
            batch = Batch(1, (1, 1, 1))
            crop(batch.pixels, batch.offsets, batch.mirror, batch.pixels)

    def _fill_at_once(self, batch: Batch, first: Record, pixels: np.ndarray, label: np.ndarray) -> None:
        """The way of raw Datums of one size."""
        transformer, shape = self._transformer, pixels.shape[1:]
        try:
            batch.resize(transformer.output_shape(shape), np.uint8)
            batch.mean, batch.scale = transformer.mean_of(shape), transformer.scale
        except DataError as error:
            raise self.at(first, error) from error
        batch.offsets, batch.mirror = transformer.place(transformer.draw(len(pixels)), shape)
        if transformer.crop or transformer.mirror:
            crop(pixels, batch.offsets, batch.mirror, batch.pixels)
        else:
            batch.pixels = pixels
        batch.label[:] = label

    def read(self, item: Record) -> tuple[np.ndarray | PackedImage, np.ndarray]:
        datum = parse(item[1])
        label = labels(datum)
        if label.shape != self.labels:
            raise DataError(
                f"it has {label.size} label(s), the first record {math.prod(self.labels)}; give all as many"
            )
        return self._pixels(datum), label

    def _pixels(self, datum: Any) -> np.ndarray | PackedImage:
        return to_packed(datum, self._transformer.force_color, self._transformer.force_gray)
