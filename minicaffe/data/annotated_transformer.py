"""What a ``transform_param`` of SSD does to images with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.boxes.frames import FIT_LARGE_SIZE_AND_PAD, FIT_SMALL_SIZE
from minicaffe.data.annotated_image import AnnotatedImage, channel_values, resized_pixels
from minicaffe.data.box_sampling import check_samplers, jittered, sample
from minicaffe.data.distortion import Distortion, between, chance
from minicaffe.data.noise import Noise
from minicaffe.data.opencv_resize import LINEAR
from minicaffe.data.source import Batch
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
    Of several ``resize_param`` one is drawn for each batch, by their ``prob`` (MobileNet-YOLO).  ``jitter``, if given
    and no sampler is, cuts up to that much of the width and the height off, as ``box_sampling.jittered``.
    """

    def __init__(
        self, param: Any, samplers: Sequence[Any], phase: int, stream: Stream, jitter: float | None = None
    ) -> None:
        self._samplers = list(samplers)
        check_samplers(self._samplers)
        self._jitter = jitter
        self._param = param
        self._resizes = list(param.resize_param)
        self._emit = param.emit_constraint if param.HasField("emit_constraint") else None
        self._distortion = Distortion(param.distort_param) if param.HasField("distort_param") else None
        self._noise = Noise(param.noise_param) if param.HasField("noise_param") else None
        self._check()
        super().__init__(param, phase, stream)

    def _check(self) -> None:
        p = self._param
        if not all(resize.height and resize.width for resize in self._resizes):
            raise DataError("transform_param.resize_param: height and width must be given, and positive")
        if len(self._resizes) > 1:
            self._check_choice()
        if self._jitter is not None and not 0 <= self._jitter < 1:
            raise DataError(
                f"annotated_data_param.yolo_data_jitter: must be at least 0 and less than 1; found {self._jitter:g}"
            )
        if p.HasField("expand_param") and not 1 <= p.expand_param.max_expand_ratio < inf:
            raise DataError(
                f"transform_param.expand_param.max_expand_ratio: must be a finite number, at least 1; "
                f"found {p.expand_param.max_expand_ratio:g}"
            )

    def _check_choice(self) -> None:
        """Each of several sizes has a probability, and with FIT_SMALL_SIZE there is no size to choose."""
        if any(resize.resize_mode == FIT_SMALL_SIZE for resize in self._resizes):
            raise DataError("transform_param.resize_param: give one only with resize_mode: FIT_SMALL_SIZE")
        chances = [resize.prob for resize in self._resizes]
        if not (min(chances) >= 0 and abs(sum(chances) - 1) <= 0.01):
            raise DataError(
                f"transform_param.resize_param: the prob of several must be at least 0 and add up to 1; found "
                f"{', '.join(f'{each:g}' for each in chances)}"
            )

    @property
    def keeps_proportions(self) -> bool:
        """Whether images come out in different sizes, so that a batch holds one only."""
        return bool(self._resizes) and self._resizes[0].resize_mode == FIT_SMALL_SIZE

    @property
    def changes_size(self) -> bool:
        """Whether batches differ in size."""
        return self.keeps_proportions or len(self._resizes) > 1

    def seed(self, stream: Stream) -> None:
        several = len(self._resizes) > 1 or any(len(resize.interp_mode) > 1 for resize in self._resizes)
        draws = (self._samplers, self._distortion, self._noise, self._param.HasField("expand_param"), several)
        if self.mirror or self._random_crop or any(draws) or self._jitter is not None:
            self._stream = Stream(stream.draw())

    def next_resize(self) -> Any:
        """The ``resize_param`` of the next batch; None if there is none."""
        if len(self._resizes) < 2 or self._stream is None:
            return self._resizes[0] if self._resizes else None
        bounds = np.cumsum([resize.prob for resize in self._resizes])
        place = int(np.searchsorted(bounds, chance(self._stream) * bounds[-1]))
        return self._resizes[min(place, len(bounds) - 1)]

    def first_shape(self, image: AnnotatedImage) -> tuple[int, int, int]:
        """The shape of what comes of an image, without drawing random numbers."""
        pixels = resized_pixels(image.pixels, self._resizes[0]) if self._resizes else image.pixels
        return self.output_shape(pixels.shape)

    def draw(self, num: int) -> np.ndarray:
        """The seeds of the next ``num`` images' random streams, a row each."""
        return np.empty((num, 0), np.int64) if self._stream is None else self._stream.draws(num).reshape(num, 1)

    def prepare(self, image: AnnotatedImage, stream: Stream | None, resize: Any = None) -> AnnotatedImage:
        """All steps before the crop, with the ``resize_param`` of this batch if there is one."""
        if stream is not None:
            if self._distortion is not None:
                image = replace(image, pixels=self._distortion(image.pixels, stream))
            if self._param.HasField("expand_param"):
                image = self._expand(image, stream)
            part = self._part(image, stream, resize)
            image = image if part is None else image.cut_out(part, self._emit)
        if resize is not None:
            image = image.resized(resize, _one_of(list(resize.interp_mode), stream))
        if self._noise is not None and stream is not None:
            image = replace(image, pixels=self._noise(image.pixels, stream))
        return image

    def _part(self, image: AnnotatedImage, stream: Stream, resize: Any) -> np.ndarray | None:
        """The part (4,) of the image that is taken; None for all of it."""
        if self._samplers:
            return sample(self._samplers, image.boxes, stream)
        if self._jitter is None:
            return None
        keeps = resize is not None and resize.resize_mode == FIT_LARGE_SIZE_AND_PAD
        return jittered(self._jitter, keeps, stream)

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
        if not self.keeps_proportions:
            return boxes
        resize = self._resizes[0]
        if not (resize.height_scale and resize.width_scale):
            return boxes
        factor = np.array([width / resize.width_scale, height / resize.height_scale], np.float32)
        return boxes * np.tile(factor, 2)


def _one_of(modes: list[int], stream: Stream | None) -> int:
    """A mode of interpolation, drawn if there are several."""
    if stream is None or len(modes) < 2:
        return modes[0] if modes else LINEAR
    return modes[stream.draw() % len(modes)]
