"""Crops whose place or size is drawn otherwise than Caffe draws it: yjxiong's corners and scales, and which are other
forks'."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.image import resize
from minicaffe.data.random_sizes import NVCAFFE_FIELDS, PARTS_AND_SIZES, RANGE_FIELDS, RandomSizes, ShorterSides
from minicaffe.data.transform import Placement, Transformer
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

CORNER_FIELDS = ("fix_crop", "more_fix_crop", "multi_scale", "scale_ratios", "max_distort", "is_flow")
FIELDS = (*CORNER_FIELDS, *PARTS_AND_SIZES, *NVCAFFE_FIELDS)
"""Fields of TransformationParameter that only these transformers know."""

_RATIOS = (1.0, 0.875, 0.75, 0.66)
_SNAP = 3  # pixels: a crop that is this near to the net's size takes it
_QUARTERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
_MORE_QUARTERS = ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))


def transformer(param: Any, phase: int, stream: Stream) -> Transformer:
    """The transformer that a ``transform_param`` of Caffe, yjxiong, Intel or NVCaffe asks for."""
    forks: list[tuple[type[Transformer], tuple[str, ...]]] = [
        (RandomSizes, PARTS_AND_SIZES[:1]),
        (RandomSizes, PARTS_AND_SIZES[1:]),
        (ShorterSides, RANGE_FIELDS),
        (CornerCrops, CORNER_FIELDS),
    ]
    asked = [(kind, given[0]) for kind, fields in forks if (given := [each for each in fields if _given(param, each)])]
    if len(asked) > 1:
        raise DataError(f"transform_param: {asked[0][1]} does not go with {asked[1][1]}; keep one")
    kind = asked[0][0] if asked else Transformer
    return kind(param, phase, stream)


def _given(param: Any, field: str) -> bool:
    value = getattr(param, field)
    if isinstance(value, bool) or hasattr(value, "extend"):
        return bool(value)
    return param.HasField(field)


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
