"""Batches of images with boxes from a database of AnnotatedDatums, for detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.boxes.frames import FIT_SMALL_SIZE
from minicaffe.data.annotated_image import AnnotatedImage, channel_values, resized_pixels
from minicaffe.data.box_sampling import check_samplers, sample
from minicaffe.data.datum_source import RecordReader
from minicaffe.data.distortion import Distortion, between, chance
from minicaffe.data.noise import Noise
from minicaffe.data.opencv_resize import LINEAR
from minicaffe.data.prefetch import Finish
from minicaffe.data.source import Batch, BatchSource, check_sizes
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop

FIELDS = ("resize_param", "noise_param", "distort_param", "expand_param", "emit_constraint")
"""Fields of TransformationParameter that only this transformer knows."""


class AnnotatedTransformer(Transformer):
    """What a ``transform_param`` of SSD asks for, applied to images with boxes.

    In this order: ``distort_param``, ``expand_param`` (a larger canvas of the mean colour), a part of the image that a
    ``batch_sampler`` found, ``resize_param``, ``noise_param``, a crop (``crop_size`` or ``crop_h`` and ``crop_w``;
    random in TRAIN), ``mirror``, mean and scale.  Boxes move along; ``emit_constraint`` says which stay in a crop.
    SSD compresses the image as JPEG after each of the first three steps; here it stays as it is.
    """

    def __init__(self, param: Any, samplers: Sequence[Any], phase: int, stream: Stream) -> None:
        self._samplers = list(samplers)
        check_samplers(self._samplers)
        self._param = param
        self._resize = param.resize_param[0] if param.resize_param else None
        self._emit = param.emit_constraint if param.HasField("emit_constraint") else None
        self._distortion = Distortion(param.distort_param) if param.HasField("distort_param") else None
        self._noise = Noise(param.noise_param) if param.HasField("noise_param") else None
        self._check()
        super().__init__(param, phase, stream)

    def _check(self) -> None:
        p, resize = self._param, self._resize
        if len(p.resize_param) > 1:
            raise DataError(
                "transform_param.resize_param: give one; several are of MobileNet-YOLO, and not in minicaffe"
            )
        if resize is not None and not (resize.height and resize.width):
            raise DataError("transform_param.resize_param: height and width must be given, and positive")
        if p.HasField("expand_param") and not 1 <= p.expand_param.max_expand_ratio < inf:
            raise DataError(
                f"transform_param.expand_param.max_expand_ratio: must be a finite number, at least 1; "
                f"found {p.expand_param.max_expand_ratio:g}"
            )

    @property
    def keeps_proportions(self) -> bool:
        """Whether images come out in different sizes, so that a batch holds one only."""
        return self._resize is not None and self._resize.resize_mode == FIT_SMALL_SIZE

    def seed(self, stream: Stream) -> None:
        modes = len(self._resize.interp_mode) if self._resize is not None else 0
        draws = (self._samplers, self._distortion, self._noise, self._param.HasField("expand_param"), modes > 1)
        if self.mirror or self._random_crop or any(draws):
            self._stream = Stream(stream.draw())

    def first_shape(self, image: AnnotatedImage) -> tuple[int, int, int]:
        """The shape of what comes of an image, without drawing random numbers."""
        pixels = image.pixels if self._resize is None else resized_pixels(image.pixels, self._resize)
        return self.output_shape(pixels.shape)

    def draw(self, num: int) -> np.ndarray:
        """The seeds of the next ``num`` images' random streams, a row each."""
        return np.empty((num, 0), np.int64) if self._stream is None else self._stream.draws(num).reshape(num, 1)

    def prepare(self, image: AnnotatedImage, stream: Stream | None) -> AnnotatedImage:
        """All steps before the crop."""
        if stream is not None:
            if self._distortion is not None:
                image = replace(image, pixels=self._distortion(image.pixels, stream))
            if self._param.HasField("expand_param"):
                image = self._expand(image, stream)
            if self._samplers:
                part = sample(self._samplers, image.boxes, stream)
                image = image if part is None else image.cut_out(part, self._emit)
        if self._resize is not None:
            image = image.resized(self._resize, _one_of(list(self._resize.interp_mode), stream))
        if self._noise is not None and stream is not None:
            image = replace(image, pixels=self._noise(image.pixels, stream))
        return image

    def _expand(self, image: AnnotatedImage, stream: Stream) -> AnnotatedImage:
        p = self._param.expand_param
        if chance(stream) > p.prob or abs(p.max_expand_ratio - 1) < 1e-2:
            return image
        ratio = between(stream, 1, p.max_expand_ratio)
        channels, h, w = image.pixels.shape
        height, width = int(h * ratio), int(w * ratio)
        top, left = (int(between(stream, 0, room)) for room in (height - h, width - w))
        mean = self._mean.mean(axis=(1, 2)) if self._mean.ndim == 3 else self._mean
        fill = channel_values(mean.tolist(), channels, "mean_value")
        return image.on_canvas(height, width, top, left, fill, self._emit)

    def finish(self, image: AnnotatedImage, stream: Stream | None, batch: Batch, n: int) -> AnnotatedImage:
        """Crop and mirror the pixels into place ``n`` of the batch; the boxes follow."""
        _, height, width = image.pixels.shape
        h, w = batch.pixels.shape[2:]
        room = (height - h, width - w)
        batch.mirror[n] = bool(self.mirror and stream is not None and stream.draw() % 2)
        if self._random_crop and stream is not None:
            batch.offsets[n] = [stream.draw() % (space + 1) for space in room]
        else:
            batch.offsets[n] = room[0] // 2, room[1] // 2
        one, (top, left) = slice(n, n + 1), batch.offsets[n].tolist()
        pixels = image.pixels.astype(batch.pixels.dtype, copy=False)
        crop(pixels[np.newaxis], batch.offsets[one], batch.mirror[one], batch.pixels[one])
        frame = np.array([left / width, top / height, (left + w) / width, (top + h) / height], np.float32)
        seen = image.seen_from(frame, self._emit)
        seen = replace(seen, boxes=seen.mirrored_boxes()) if batch.mirror[n] else seen
        return replace(seen, boxes=self._extrapolated(seen.boxes, h, w))

    def _extrapolated(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Boxes relative to ``height_scale`` x ``width_scale``, if FIT_SMALL_SIZE gives these."""
        resize = self._resize
        if resize is None or not (self.keeps_proportions and resize.height_scale and resize.width_scale):
            return boxes
        factor = np.array([width / resize.width_scale, height / resize.height_scale], np.float32)
        return boxes * np.tile(factor, 2)


class AnnotatedSource(BatchSource):
    """What SSD's AnnotatedData layer reads: a database of AnnotatedDatums in key order, again and again, in batches.

    The labels of a batch are rows (1, 1, G, 8): item, label, instance, xmin, ymin, xmax, ymax, difficult; without any
    box one row of -1.  Records without an annotation type give their image's labels, (N, 1, 1, 1), instead.
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
        transformer = AnnotatedTransformer(transform_param, annotated_param.batch_sampler, phase, stream)
        if transformer.keeps_proportions and data_param.batch_size != 1:
            raise DataError(
                f"data_param.batch_size: must be 1 for resize_mode: FIT_SMALL_SIZE, whose images differ in size; "
                f"found {data_param.batch_size}"
            )
        typed = annotated_param.HasField("anno_type")
        reader = _AnnotatedReader(data_param, transformer, typed, rank, solver_count, stream)
        super().__init__(reader, data_param.batch_size, data_param.prefetch)
        self.label_shape = reader.label_shape


class _AnnotatedReader(RecordReader):
    """Fills batches with the AnnotatedDatums of a database."""

    remedy = "set transform_param.resize_param or crop_size"
    _transformer: AnnotatedTransformer

    def __init__(self, data_param: Any, transformer: AnnotatedTransformer, typed: bool, *where: Any) -> None:
        super().__init__(data_param, transformer, *where)
        first = self._records.item()
        try:
            message = parse(first[1])
            image = self._image(message)
            self.shape = transformer.first_shape(image)
        except DataError as error:
            raise self.at(first, error) from error
        self._said = typed
        self._typed = typed or message.HasField("type")
        boxes = (1, 1, max(len(image.boxes), 1), 8)
        self.label_shape: tuple[int, ...] = boxes if self._typed else (data_param.batch_size, 1, 1, 1)

    def _image(self, message: Any) -> AnnotatedImage:
        return AnnotatedImage.of(message, self._transformer.force_color, self._transformer.force_gray)

    def begin(self, batch: Batch) -> Finish:
        records, transformer = self.next_records(), self._transformer
        streams = [Stream(int(seed[0])) if len(seed) else None for seed in transformer.draw(len(records))]
        images: dict[int, AnnotatedImage] = {}

        def read(n: int) -> AnnotatedImage:
            message = parse(records[n][1])
            if self._typed and not (self._said or message.HasField("type")):
                raise DataError("it has no annotation type, unlike the first; set annotated_data_param.anno_type")
            return transformer.prepare(self._image(message), streams[n])

        def place(n: int, image: AnnotatedImage) -> None:
            images[n] = self._place(batch, n, image, streams[n])

        finish = self.share(records, read, place)
        batch.position = self.position()

        def finish_with_labels() -> None:
            finish()
            found = [images[n] for n in sorted(images)]
            batch.label = _rows(found) if self._typed else np.array([[[[image.label]]] for image in found], np.float32)

        return finish_with_labels

    def _place(self, batch: Batch, n: int, image: AnnotatedImage, stream: Stream | None) -> AnnotatedImage:
        """Put the pixels of one image into the batch; what else there is to it."""
        transformer = self._transformer
        shape = transformer.output_shape(image.pixels.shape)
        if n == 0:
            wanted = shape if transformer.keeps_proportions else self.shape
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


def _one_of(modes: list[int], stream: Stream | None) -> int:
    """A mode of interpolation, drawn if there are several."""
    if stream is None or len(modes) < 2:
        return modes[0] if modes else LINEAR
    return modes[stream.draw() % len(modes)]
