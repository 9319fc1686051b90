"""Random changes of an image and the boxes in it, as DetectNet trains with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.backend.random import Stream
from minicaffe.data.color import floats_from_hsv, to_hsv
from minicaffe.data.opencv_resize import resample_floats

Size = tuple[int, int]
"""Height and width."""

_EPSILON = float(np.finfo(np.float32).eps)
_MOST = np.float32(2**32 - 1)


@dataclass(frozen=True)
class Change:
    """What is done to an image of size ``old``, in this order: its hue turned by ``hue`` degrees, saturation times
    ``saturation``, the mean taken away, mirrored, resized to ``size``, turned by ``angle`` degrees, and cut out from
    row ``offset[0]`` and column ``offset[1]`` on."""

    old: Size
    size: Size
    hue: float = 0.0
    saturation: float = 1.0
    mirror: bool = False
    angle: float = 0.0
    offset: tuple[int, int] = (0, 0)

    def of_image(self, image: NDArray, mean: NDArray | float, crop: Size) -> NDArray:
        """The image (3, H, W), from 0 to 1, changed to (3, *crop); what lies beyond it is 0."""
        if abs(self.hue) > _EPSILON or self.saturation < 1 - _EPSILON:
            hsv = to_hsv(image)
            hsv[0] += self.hue / 2  # hue has half degrees there
            hsv[1] *= self.saturation
            image = floats_from_hsv(hsv)
        image = image - mean
        if self.mirror:
            image = image[:, :, ::-1]
        if self.size != self.old:
            image = resample_floats(image, *self.size)
        if self.turns:
            image = self._turned(image)
        result = np.zeros((3, *crop), image.dtype)
        source, target = zip(*map(_common, image.shape[1:], crop, self.offset), strict=True)
        result[:, target[0], target[1]] = image[:, source[0], source[1]]
        return result

    def of_boxes(self, boxes: NDArray) -> NDArray:
        """Boxes (G, 4) of the image, in pixels, where the changed one has them; turned ones keep their size."""
        boxes = boxes.astype(np.float32)
        if self.mirror:
            boxes = boxes.copy()
            boxes[:, [0, 2]] = self.old[1] - 1 - boxes[:, [2, 0]]
        factor = np.array([self.size[1] / self.old[1], self.size[0] / self.old[0]] * 2, np.float32)
        boxes = boxes * factor
        if self.turns:
            turn, shift = self._matrix()
            centre = (boxes[:, :2] + boxes[:, 2:]) / 2
            moved = centre @ turn.T + shift - centre
            boxes = boxes + np.tile(moved, 2)
        return (boxes - np.array(self.offset[::-1] * 2)).astype(np.float32)

    @property
    def turns(self) -> bool:
        """Whether the image is turned."""
        return abs(self.angle) > _EPSILON

    def turned_size(self) -> Size:
        """The size of what is cut out of: of the turned image all that has pixels of it."""
        if not self.turns:
            return self.size
        low, high = self._corners(np.rint(np.array(self.size[::-1]) / 2))
        width, height = (math.ceil(b) - math.floor(a) + 1 for a, b in zip(low, high, strict=True))
        return height, width

    def _turn(self) -> NDArray:
        c, s = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        return np.array([[c, -s], [s, c]])

    def _corners(self, centre: NDArray) -> tuple[NDArray, NDArray]:
        """The least and largest column and row of the turned image's corners."""
        half = np.array(self.size[::-1]) / 2
        corners = centre + (np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * half) @ self._turn().T
        return corners.min(axis=0), corners.max(axis=0)

    def _matrix(self) -> tuple[NDArray, NDArray]:
        """The turn (2, 2) and the shift (2,) that bring columns and rows to those of the turned image."""
        centre, turn = np.array(self.size[::-1]) / 2, self._turn()
        return turn, centre - turn @ centre - np.floor(self._corners(centre)[0])

    def _turned(self, image: NDArray) -> NDArray:
        """The turned image, between four pixels, of which the last of a row or column is repeated; beyond it is 0."""
        (turn, shift), (height, width) = self._matrix(), self.turned_size()
        places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) - shift
        x, y = np.moveaxis(places @ turn, -1, 0)  # by the inverse, which is its transpose
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        inside = (left >= 0) & (top >= 0) & (left < image.shape[2]) & (top < image.shape[1])
        left, top = np.where(inside, left, 0), np.where(inside, top, 0)
        after, below = np.minimum(left + 1, image.shape[2] - 1), np.minimum(top + 1, image.shape[1] - 1)
        right, down = x - left, y - top
        result = (1 - down) * ((1 - right) * image[:, top, left] + right * image[:, top, after])
        result += down * ((1 - right) * image[:, below, left] + right * image[:, below, after])
        return np.where(inside, result, 0).astype(image.dtype)


def drawn(options: Any, old: Size, crop: Size, stream: Stream) -> Change:
    """A change that a DetectNetAugmentationParameter allows, for an image of size ``old``, of which ``crop`` is cut
    out."""

    def number() -> float:
        return float(np.float32(stream.draw()) / _MOST)

    def around(most: float) -> float:
        return (number() - 0.5) * 2 * most

    hue = max(min(around(options.hue_rotation), 180.0), -180.0) if number() <= options.hue_rotation_prob else 0.0
    saturation = 1 - number() * options.desaturation_max if number() <= options.desaturation_prob else 1.0
    mirror = number() <= options.flip_prob
    size = old
    if number() <= options.scale_prob:
        scale = options.scale_min + (options.scale_max - options.scale_min) * number()
        size = max(_round(old[0] * scale), 1), max(_round(old[1] * scale), 1)
    angle = around(options.max_rotate_degree) if number() <= options.rotation_prob else 0.0
    change = Change(old, size, hue, saturation, mirror, angle)
    at, shift = (0.5, 0.5), (0, 0)
    if number() <= options.crop_prob:
        column, row = number(), number()
        at, shift = (row, column), (options.shift_y, options.shift_x)
    room = zip(at, change.turned_size(), crop, shift, strict=True)
    rows, columns = (_round(part * (have - want + more) - more // 2) for part, have, want, more in room)
    return Change(old, size, hue, saturation, mirror, angle, (rows, columns))


def _round(value: float) -> int:
    """The nearest integer; halves away from 0."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


def _common(have: int, want: int, offset: int) -> tuple[slice, slice]:
    """The places of an axis of ``have`` pixels that a cut of ``want`` from ``offset`` on takes, and where it has
    them."""
    first, last = max(offset, 0), min(offset + want, have)
    last = max(first, last)
    return slice(first, last), slice(first - offset, last - offset)
