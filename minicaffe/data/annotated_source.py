"""Batches of images with boxes from a database of AnnotatedDatums, for detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.annotated_image import AnnotatedImage
from minicaffe.data.annotated_transformer import AnnotatedTransformer
from minicaffe.data.datum_source import RecordReader
from minicaffe.data.prefetch import Finish
from minicaffe.data.source import Batch, BatchSource, check_sizes
from minicaffe.data.yolo_rows import ROWS, yolo_rows
from minicaffe.errors import DataError


class AnnotatedSource(BatchSource):
    """What SSD's AnnotatedData layer reads: a database of AnnotatedDatums in key order, again and again, in batches.

    The labels of a batch are rows (1, 1, G, 8): item, label, instance, xmin, ymin, xmax, ymax, difficult; without any
    box one row of -1.  With ``yolo_data_type: 1`` they are those of MobileNet-YOLO, see ``data.yolo_rows``.  Records
    without an annotation type give their image's labels, (N, 1, 1, 1), instead.
    Parameters and errors as for ``DatumSource``.
    """

    def __init__(
        self,
        data_param: Any,
        transform_param: Any,
        annotated_param: Any,
        phase: int,
        stream: Stream,
        rank: int = 0,
        solver_count: int = 1,
    ) -> None:
        check_sizes(data_param.batch_size, data_param.prefetch, "data_param")
        if not 0 <= rank < solver_count:
            raise DataError(f"solver rank {rank} must lie below the solver count {solver_count}; see set_solver_count")
        jitter = annotated_param.yolo_data_jitter if annotated_param.yolo_data_type == 1 else None
        transformer = AnnotatedTransformer(transform_param, annotated_param.batch_sampler, phase, stream, jitter)
        if transformer.keeps_proportions and data_param.batch_size != 1:
            raise DataError(
                f"data_param.batch_size: must be 1 for resize_mode: FIT_SMALL_SIZE, whose images differ in size; "
                f"found {data_param.batch_size}"
            )
        reader = _AnnotatedReader(data_param, transformer, annotated_param, rank, solver_count, stream)
        super().__init__(reader, data_param.batch_size, data_param.prefetch)
        self.label_shape = reader.label_shape


class _AnnotatedReader(RecordReader):
    """Fills batches with the AnnotatedDatums of a database."""

    remedy = "set transform_param.resize_param or crop_size"
    _transformer: AnnotatedTransformer

    def __init__(self, data_param: Any, transformer: AnnotatedTransformer, annotated: Any, *where: Any) -> None:
        super().__init__(data_param, transformer, *where)
        first = self._records.item()
        try:
            message = parse(first[1])
            image = self._image(message)
            self.shape = transformer.first_shape(image)
        except DataError as error:
            raise self.at(first, error) from error
        self._annotated = annotated
        self._said = annotated.HasField("anno_type")
        self._typed = self._said or message.HasField("type")
        boxes = (1, 1, max(len(image.boxes), 1), 8)
        if annotated.yolo_data_type == 1:
            boxes = (data_param.batch_size, 1, *ROWS)
        self.label_shape: tuple[int, ...] = boxes if self._typed else (data_param.batch_size, 1, 1, 1)

    def _image(self, message: Any) -> AnnotatedImage:
        return AnnotatedImage.of(message, self._transformer.force_color, self._transformer.force_gray)

    def begin(self, batch: Batch) -> Finish:
        records, transformer = self.next_records(), self._transformer
        resize = transformer.next_resize()
        streams = [Stream(int(seed[0])) if len(seed) else None for seed in transformer.draw(len(records))]
        images: dict[int, AnnotatedImage] = {}

        def read(n: int) -> AnnotatedImage:
            message = parse(records[n][1])
            if self._typed and not (self._said or message.HasField("type")):
                raise DataError("it has no annotation type, unlike the first; set annotated_data_param.anno_type")
            return transformer.prepare(self._image(message), streams[n], resize)

        def place(n: int, image: AnnotatedImage) -> None:
            images[n] = self._place(batch, n, image, streams[n])

        finish = self.share(records, read, place)
        batch.position = self.position()

        def finish_with_labels() -> None:
            finish()
            batch.label = self._labels([images[n] for n in sorted(images)])

        return finish_with_labels

    def _labels(self, images: Sequence[AnnotatedImage]) -> np.ndarray:
        if not self._typed:
            return np.array([[[[image.label]]] for image in images], np.float32)
        return yolo_rows(images, self._annotated) if self._annotated.yolo_data_type == 1 else _rows(images)

    def _place(self, batch: Batch, n: int, image: AnnotatedImage, stream: Stream | None) -> AnnotatedImage:
        """Put the pixels of one image into the batch; what else there is to it."""
        transformer = self._transformer
        shape = transformer.output_shape(image.pixels.shape)
        if n == 0:
            wanted = shape if transformer.changes_size else self.shape
            batch.resize(wanted, image.pixels.dtype)
            batch.mean, batch.scale = transformer.mean_of(image.pixels.shape), transformer.scale
        if shape != batch.pixels.shape[1:]:
            raise DataError(
                f"its shape is {shape} (channels, height, width), the batch's {batch.pixels.shape[1:]}; {self.remedy}"
            )
        return transformer.finish(image, stream, batch, n)

    def read(self, item: tuple[bytes, bytes]) -> tuple[np.ndarray, Any]:
        image = self._image(parse(item[1]))
        return image.pixels, image.label


def parse(value: bytes) -> Any:
    """The AnnotatedDatum in a record's value; DataError if the bytes are not one."""
    try:
        message = proto.AnnotatedDatum.FromString(value)
    except DecodeError:
        message = proto.AnnotatedDatum()
    if not message.HasField("datum"):
        raise DataError(
            f"not an AnnotatedDatum ({len(value)} bytes); make such a database with 'minicaffe convert_annoset', or "
            "read this one with a Data layer"
        )
    return message


def _rows(images: Sequence[AnnotatedImage]) -> np.ndarray:
    """The boxes of all items, (1, 1, G, 8), or one row of -1."""
    rows = [
        np.column_stack([np.full(len(image.boxes), n), image.labels, image.instances, image.boxes, image.difficult])
        for n, image in enumerate(images)
    ]
    table = np.concatenate(rows).astype(np.float32)
    return (table if len(table) else np.full((1, 8), -1, np.float32))[None, None]
