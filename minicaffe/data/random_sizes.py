"""Images that are resized to sizes drawn at random, and then cropped: those of Intel Caffe and of NVCaffe."""

from __future__ import annotations

import copy
from abc import abstractmethod
from math import isfinite
from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.data.annotated_image import resized_pixels
from minicaffe.data.opencv_resize import AREA, CUBIC, LINEAR, NEAREST, resample
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError

PARTS_AND_SIZES = ("random_resize_param", "random_aspect_ratio_param")
"""Fields of TransformationParameter of Intel Caffe."""

_RANGES = ("img_rand_resize", "rand_resize_ratio", "vertical_stretch", "horizontal_stretch")
RANGE_FIELDS = tuple(f"{name}_{end}" for name in _RANGES for end in ("lower", "upper"))
NVCAFFE_FIELDS = (*RANGE_FIELDS, "allow_upscale", "interpolation_algo_up", "interpolation_algo_down")
"""Fields of NVCaffe; without one of ``RANGE_FIELDS`` they have no effect."""

_MODES = (NEAREST, LINEAR, CUBIC, AREA)  # by the numbers of NVCaffe's InterpolationAlgo


class Resized(Transformer):
    """Base: each image is resized by ``resized``, with random numbers of its own, before the crop of ``crop_size``."""

    varies = True
    _field: str  # that asks for it

    def seed(self, stream: Stream) -> None:
        self._stream = Stream(stream.draw())

    @property
    def draws_each(self) -> int:
        return super().draws_each + 1  # the seed of the image's own stream

    def require_crop(self, param: Any) -> None:
        """DataError unless there is a ``crop_size``."""
        if not param.crop_size:
            raise DataError(
                f"transform_param.{self._field}: needs transform_param.crop_size, the size of all images in the end"
            )

    @abstractmethod
    def resized(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
        """The image (C, H, W) in another size, which is at least that of the crop."""

    def prepared(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise DataError(f"transform_param.{self._field}: resizes images of bytes; the record holds float_data")
        pixels = self.resized(pixels, Stream(int(draws[int(self.mirror)])))
        if min(pixels.shape[1:]) < self.crop_size:
            raise DataError(
                f"transform_param.crop_size: {self.crop_size} is larger than the resized image, {pixels.shape[1]} x "
                f"{pixels.shape[2]} (height x width); {self.remedy}"
            )
        return pixels

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to set where the resized image is smaller than the crop."""


class RandomSizes(Resized):
    """What Intel's ``transform_param`` asks for, in both phases, before the crop of ``crop_size``.

    ``random_resize_param``: the shorter side becomes a number drawn from ``min_size`` .. ``max_size`` (the image's
    shorter and longer side).  ``random_aspect_ratio_param``: a part of the image, of ``min_area_ratio`` ..
    ``max_area_ratio`` of its area, its height over width changed by ``aspect_ratio_change`` or less, becomes crop_size
    x crop_size; where ``max_attempt`` draws find none inside, the shorter side does.  Their ``resize_param`` says how
    to resize.
    """

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        self._param = param
        self._is_size = param.HasField("random_resize_param")
        self._field = PARTS_AND_SIZES[0 if self._is_size else 1]
        self._options = getattr(param, self._field)
        self._check()
        super().__init__(param, phase, stream)

    def _check(self) -> None:
        p, where = self._options, f"transform_param.{self._field}"
        self.require_crop(self._param)
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

    @property
    def remedy(self) -> str:
        return f"set {self._field}.min_size"

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        self.mean_of(shape)
        return shape[0], self.crop_size, self.crop_size

    def resized(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
        return self._sized(pixels, stream) if self._is_size else self._part(pixels, stream)

    def _sized(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
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


class ShorterSides(Resized):
    """What NVCaffe's ``transform_param`` asks for, in both phases, before the crop of ``crop_size``.

    The shorter side becomes a number drawn from ``img_rand_resize_lower`` .. ``img_rand_resize_upper``; without them it
    stays.  Then the longer side becomes the shorter one times a number drawn from ``rand_resize_ratio_lower`` ..
    ``rand_resize_ratio_upper``, if these are at least 1, and height and width are stretched by ``vertical_stretch_*``
    and ``horizontal_stretch_*``.  No side falls below ``crop_size`` nor, without ``allow_upscale``, grows beyond the
    image's own.  ``interpolation_algo_up`` is for images of which a side grows, ``interpolation_algo_down`` for others.
    Of a ``mean_file`` the centre counts, as large as the crop.
    """

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        self._field = next(field for field in RANGE_FIELDS if param.HasField(field))
        self.require_crop(param)
        self._ranges = {name: (getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")) for name in _RANGES}
        for name, (low, high) in self._ranges.items():
            if not (0 <= low <= high and isfinite(high)) or (low == 0) != (high == 0):
                raise DataError(
                    f"transform_param.{name}_lower, {name}_upper: must be positive and in this order, or both 0; "
                    f"found {low:g} and {high:g}"
                )
        self._may_grow = param.allow_upscale
        self._modes = _MODES[param.interpolation_algo_down], _MODES[param.interpolation_algo_up]
        super().__init__(param, phase, stream)
        if self._mean_file:
            self._mean = _centre(self._mean, self.crop_size)

    remedy = "larger images, or allow_upscale: true"

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        self.mean_of(shape)
        return shape[0], self.crop_size, self.crop_size

    def mean_of(self, shape: tuple[int, int, int]) -> np.ndarray:
        return super().mean_of((shape[0], self.crop_size, self.crop_size))

    def prepared(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        pixels = super().prepared(pixels, draws)
        top, left = super().place(draws[np.newaxis], pixels.shape)[0][0]
        return pixels[:, top : top + self.crop_size, left : left + self.crop_size]

    def resized(self, pixels: np.ndarray, stream: Stream) -> np.ndarray:
        _, height, width = pixels.shape
        h, w = self._size(height, width, stream)
        h, w = (max(self.crop_size, int(side + 0.5)) for side in (h, w))
        if not self._may_grow:
            h, w = min(h, height), min(w, width)
        return resample(pixels, h, w, self._modes[h > height or w > width])

    def _size(self, height: int, width: int, stream: Stream) -> tuple[float, float]:
        """The height and width that are drawn for an image, not yet rounded."""
        low, high = self._ranges["img_rand_resize"]
        side = low + stream.draw() % (high - low + 1) if low else min(height, width)
        h, w = height * side / min(height, width), width * side / min(height, width)
        low, high = self._ranges["rand_resize_ratio"]
        if low >= 1 and high > 1:
            ratio = _uniform(stream, low, high)
            wide = w > h or (w == h and stream.draw() % 2)
            h, w = (h, h * ratio) if wide else (w * ratio, w)
        if high := self._ranges["vertical_stretch"][1]:
            h *= _uniform(stream, self._ranges["vertical_stretch"][0], high)
        if high := self._ranges["horizontal_stretch"][1]:
            w *= _uniform(stream, self._ranges["horizontal_stretch"][0], high)
        return h, w


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    """The centre of an image (C, H, W), at most ``size`` x ``size``."""
    top, left = (max(side - size, 0) // 2 for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def _uniform(stream: Stream, low: float, high: float) -> float:
    """A number from ``low`` to ``high``, of one draw."""
    return low + (high - low) * stream.draw() / (2**32 - 1)


def _between(stream: Stream, low: float, high: float) -> float:
    """One of the thousandths from ``low`` to ``high``, as Intel draws them."""
    return stream.draw() % int((high - low) * 1000 + 1) / 1000 + low
