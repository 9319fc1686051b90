"""Crops whose place or size is drawn otherwise than Caffe draws it: yjxiong's corners and scales, Intel's sizes."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.annotated_image import resized_pixels
from minicaffe.data.image import resize
from minicaffe.data.opencv_resize import LINEAR
from minicaffe.data.transform import Placement, Transformer
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

CORNER_FIELDS = ("fix_crop", "more_fix_crop", "multi_scale", "scale_ratios", "max_distort", "is_flow")
SIZE_FIELDS = ("random_resize_param", "random_aspect_ratio_param")
FIELDS = (*CORNER_FIELDS, *SIZE_FIELDS)
"""Fields of TransformationParameter that only these transformers know."""

_RATIOS = (1.0, 0.875, 0.75, 0.66)
_SNAP = 3  # pixels: a crop that is this near to the net's size takes it
_QUARTERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
_MORE_QUARTERS = ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))


def transformer(param: Any, phase: int, stream: Stream) -> Transformer:
    """The transformer that a ``transform_param`` of Caffe, yjxiong or Intel asks for."""
    corners = any(_given(param, field) for field in CORNER_FIELDS)
    sizes = [field for field in SIZE_FIELDS if param.HasField(field)]
    if len(sizes) + corners > 1:
        raise DataError(f"transform_param: {sizes[0]} goes with none of {', '.join(FIELDS)}; keep one")
    kind = CornerCrops if corners else RandomSizes if sizes else Transformer
    return kind(param, phase, stream)


def _given(param: Any, field: str) -> bool:
    value = getattr(param, field)
    return bool(value) if isinstance(value, bool) or not isinstance(value, int) else param.HasField(field)


class CornerCrops(Transformer):
    """What yjxiong's ``transform_param`` asks for (Wang et al. 2015, "Towards good practices for very deep two-stream
    ConvNets").

    In TRAIN and with a ``crop_size``: ``fix_crop`` draws one of five crops, the corners and the centre, with
    ``more_fix_crop`` one of 13, which stand a quarter of the room apart.  ``multi_scale`` draws the crop's height and
    width, each the image's shorter side times one of ``scale_ratios`` (1, 0.875, 0.75, 0.66), at most ``max_distort``
    places apart in that list, and resizes the crop to ``crop_size``; a mean image is then taken from its first row and
    column on.  In both phases ``is_flow`` says that channels are x and y of flow in turn: of a mirror image each x
    becomes 255 - x.  The draws of an image are, in this order: mirror, size, place.
    """

    varies = True

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        random = phase == proto.TRAIN and param.crop_size > 0
        self._scaled, self._fixed = random and param.multi_scale, random and param.fix_crop
        self._quarters = np.array(_QUARTERS + (_MORE_QUARTERS if param.more_fix_crop else ()))
        self._ratios = np.array(list(param.scale_ratios) or _RATIOS, np.float32)
        self._max_distort = param.max_distort
        self._is_flow = param.is_flow
        if self._ratios.min() <= 0 or self._ratios.max() > 1:
            raise DataError("transform_param.scale_ratios: each must lie above 0 and be at most 1")
        if param.max_distort < 0:
            raise DataError(f"transform_param.max_distort: must not be negative; found {param.max_distort}")
        if not param.crop_size and (param.multi_scale or param.fix_crop):
            _log.warning("transform_param: multi_scale and fix_crop have no effect without crop_size")
        super().__init__(param, phase, stream)

    @property
    def draws_each(self) -> int:
        return self.mirror + self._random_crop * (self._scaled + (1 if self._fixed else 2))

    def prepared(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        if not self._scaled:
            return pixels
        if pixels.dtype != np.uint8:
            raise DataError("transform_param.multi_scale: resizes images of bytes; the record holds float_data")
        sizes = self._sizes(*pixels.shape[1:])
        height, width = sizes[draws[int(self.mirror)] % len(sizes)]
        room = pixels.shape[1] - height, pixels.shape[2] - width
        top, left = self._offsets(draws[np.newaxis], room)[0].tolist()
        return resize(pixels[:, top : top + height, left : left + width], self.crop_size, self.crop_size)

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The sizes of crops that are drawn from for an image of this size."""
        sides = (np.float32(min(height, width)) * self._ratios).astype(np.int64)
        sides = np.where(abs(sides - self.crop_size) < _SNAP, self.crop_size, np.maximum(sides, 1)).tolist()
        return [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= self._max_distort]

    def place(self, draws: np.ndarray, shape: tuple[int, ...]) -> Placement:
        offsets, mirror = super().place(draws, shape)
        if self._scaled:
            offsets[...] = 0
        elif self._fixed:
            offsets[...] = self._offsets(draws, tuple(np.subtract(shape[1:], self.crop_size).tolist()))
        return offsets, mirror

    def _offsets(self, draws: np.ndarray, room: tuple[int, ...]) -> np.ndarray:
        """Where crops begin that leave so much room (2,) of the image: (N, 2)."""
        if not self._fixed:
            return draws[:, -2:] % (np.array(room) + 1)
        quarters = self._quarters[draws[:, -1] % len(self._quarters)]
        return quarters * (np.array(room) // 4)

    def touch_up(self, pixels: np.ndarray, mirrored: bool) -> None:
        if self._is_flow and mirrored:
            pixels[::2] = 255 - pixels[::2]


class RandomSizes(Transformer):
    """What Intel's ``transform_param`` asks for, in both phases, before the crop of ``crop_size``.

    ``random_resize_param``: the shorter side becomes a number drawn from ``min_size`` .. ``max_size`` (the image's
    shorter and longer side).  ``random_aspect_ratio_param``: a part of the image, of ``min_area_ratio`` ..
    ``max_area_ratio`` of its area, its height over width changed by ``aspect_ratio_change`` or less, becomes crop_size
    x crop_size; where ``max_attempt`` draws find none inside, the shorter side does.  Their ``resize_param`` says how
    to resize.
    """

    varies = True

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        self._param = param
        self._is_size = param.HasField("random_resize_param")
        self._field = SIZE_FIELDS[0 if self._is_size else 1]
        self._options = getattr(param, self._field)
        self._check()
        super().__init__(param, phase, stream)

    def _check(self) -> None:
        p, where = self._options, f"transform_param.{self._field}"
        if not self._param.crop_size:
            raise DataError(f"{where}: needs transform_param.crop_size, the size of all images in the end")
        if self._param.mean_file:
            raise DataError(f"{where}: images have no common size that mean_file could fit; give mean_value instead")
        if self._is_size and p.max_size and p.max_size < max(p.min_size, self._param.crop_size):
            raise DataError(f"{where}.max_size: must not be below min_size and crop_size; found {p.max_size}")
        if self._is_size and p.min_size and p.min_size < self._param.crop_size:
            raise DataError(f"{where}.min_size: must not be below crop_size; found {p.min_size}")
        if not self._is_size and not 0 < p.min_area_ratio <= p.max_area_ratio <= 1:
            raise DataError(f"{where}: needs 0 < min_area_ratio <= max_area_ratio <= 1")
        if not self._is_size and not 0 < p.aspect_ratio_change <= 1:
            raise DataError(f"{where}.aspect_ratio_change: must lie above 0 and be at most 1")

    def seed(self, stream: Stream) -> None:
        self._stream = Stream(stream.draw())

    @property
    def draws_each(self) -> int:
        return super().draws_each + 1  # the seed of the image's own stream

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        self.mean_of(shape)
        return shape[0], self.crop_size, self.crop_size

    def prepared(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(f"transform_param.{self._field}: resizes images of bytes; the record holds float_data")
        stream = Stream(int(draws[int(self.mirror)]))
        pixels = self._resized(pixels, stream) if self._is_size else self._part(pixels, stream)
        if min(pixels.shape[1:]) < self.crop_size:
            raise DataError(
                f"transform_param.crop_size: {self.crop_size} is larger than the resized image, {pixels.shape[1]} x "
                f"{pixels.shape[2]} (height x width); set {self._field}.min_size"
            )
        return pixels

    def _resized(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
        low = self._options.min_size or min(pixels.shape[1:])
        high = self._options.max_size or max(pixels.shape[1:])
        if high < low:
            raise DataError(f"transform_param.{self._field}: no size between {low} and {high}")
        return self._with_shorter_side(pixels, low + stream.draw() % (high - low + 1), stream)

    def _with_shorter_side(self, pixels: np.ndarray, side: int, stream: Stream) -> np.ndarray:
        height, width = pixels.shape[1:]
        longer = int(np.float32(max(height, width)) / np.float32(min(height, width)) * np.float32(side))
        return self._resize(pixels, *((side, longer) if height < width else (longer, side)), stream)

    def _part(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
        p, (height, width) = self._options, pixels.shape[1:]
        for _ in range(p.max_attempt):
            side = (_between(stream, p.min_area_ratio, p.max_area_ratio) * height * width) ** 0.5
            change = _between(stream, p.aspect_ratio_change, 1 / p.aspect_ratio_change)
            h, w = max(int(side * change), 1), max(int(side / change), 1)
            if _between(stream, 0, 1) < 0.5:
                h, w = w, h
            if h <= height and w <= width:
                top, left = stream.draw() % (height - h + 1), stream.draw() % (width - w + 1)
                return self._resize(pixels[:, top : top + h, left : left + w], self.crop_size, self.crop_size, stream)
        return self._with_shorter_side(pixels, self.crop_size, stream)

    def _resize(self, pixels: np.ndarray, height: int, width: int, stream: Stream) -> np.ndarray:
        wanted = copy.copy(self._options.resize_param)
        wanted.height, wanted.width = height, width
        modes = wanted.interp_mode
        return resized_pixels(pixels, wanted, modes[stream.draw() % len(modes)] if modes else LINEAR)


def _between(stream: Stream, low: float, high: float) -> float:
    """One of the thousandths from ``low`` to ``high``, as Intel draws them."""
    return stream.draw() % int((high - low) * 1000 + 1) / 1000 + low
