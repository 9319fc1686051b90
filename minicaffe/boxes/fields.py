"""Boxes that the cells of a map predict, each from a field of its own: a box of fixed size around the cell's middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scaling(NamedTuple):
    """What codes (x, y, width, height) are normalised by: (4,) each."""

    mean: NDArray
    deviation: NDArray

    def normalised(self, codes: NDArray) -> NDArray:
        """Codes (…, 4) less the mean, over the deviation."""
        return (codes - self.mean) / self.deviation

    def restored(self, codes: NDArray) -> NDArray:
        """What ``normalised`` was given."""
        return codes * self.deviation + self.mean


class Bounds(NamedTuple):
    """Between which values codes lie: low and high of the steps x and y, and of the logarithms of width and height."""

    step: tuple[float, float]
    size: tuple[float, float]

    @classmethod
    def of(cls, field_xyr: float, field_whr: float) -> Bounds:
        """Steps of up to 1 / ``field_xyr`` of the field, sizes up to ``field_whr`` times smaller or larger than it."""
        return cls((-1 / field_xyr, 1 / field_xyr), (-float(np.log(field_whr)), float(np.log(field_whr))))

    def normalised(self, scaling: Scaling) -> Bounds:
        """The bounds of normalised codes, by the means of both axes."""

        def of(bounds: tuple[float, float], axes: slice) -> tuple[float, float]:
            mean, deviation = scaling.mean[axes].mean(), np.sqrt(scaling.deviation[axes].prod())
            return float((bounds[0] - mean) / deviation), float((bounds[1] - mean) / deviation)

        return Bounds(of(self.step, slice(0, 2)), of(self.size, slice(2, 4)))

    def clip(self, codes: NDArray) -> NDArray:
        """Codes (…, 4) inside the bounds."""
        low, high = zip(self.step, self.step, self.size, self.size, strict=True)
        return np.clip(codes, np.array(low, codes.dtype), np.array(high, codes.dtype))


class Fields:
    """The fields of a map's cells: widths and heights (A,) in pixels, of which items n, n + A, … have the n-th."""

    def __init__(self, widths: Sequence[float], heights: Sequence[float], stride: float) -> None:
        self.sizes = np.stack([widths, heights], axis=1).astype(np.float64)
        self.stride = stride

    def __len__(self) -> int:
        return len(self.sizes)

    def _frames(self, like: NDArray) -> tuple[NDArray, NDArray]:
        """Middles of the cells (H, W, 2), and sizes (N, 1, 1, 2) of the fields, for boxes (N, H, W, 4)."""
        items, height, width, _ = like.shape
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        sizes = np.tile(self.sizes, (items // len(self.sizes), 1))[:, None, None]
        return ((cells + 0.5) * self.stride).astype(like.dtype), sizes.astype(like.dtype)

    def decode(self, codes: NDArray) -> NDArray:
        """Boxes (N, H, W, 4), upper left corner, width and height, of codes (N, H, W, 4): steps of the middle in sizes
        of the field, and logarithms of what these are multiplied by."""
        middles, sizes = self._frames(codes)
        found = sizes * np.exp(codes[..., 2:])
        return np.concatenate([codes[..., :2] * sizes + middles - found / 2, found], axis=-1)

    def encode(self, boxes: NDArray) -> NDArray:
        """Codes (N, H, W, 4) of boxes (N, H, W, 4), middle, width and height, which count as 2 where they are less."""
        middles, sizes = self._frames(boxes)
        steps = (boxes[..., :2] - middles) / sizes
        return np.concatenate([steps, np.log(np.maximum(boxes[..., 2:], 2) / sizes)], axis=-1)


def decode_from(priors: NDArray, codes: NDArray) -> NDArray:
    """Boxes (R, K, 4) by their corners, which belong to them, of codes (R, K, 4) and the boxes (R, 4) that these refer
    to."""
    sizes = (priors[:, 2:] - priors[:, :2] + 1)[:, None]
    middles = (priors[:, :2] + priors[:, 2:])[:, None] / 2
    with np.errstate(over="ignore"):
        found = sizes * np.exp(codes[..., 2:])
    near = codes[..., :2] * sizes + middles - (found - 1) / 2
    return np.concatenate([near, near + found - 1], axis=-1)


def planes_last(maps: NDArray) -> NDArray:
    """Maps (N, C, H, W) as (N, H, W, C)."""
    return np.moveaxis(maps, 1, -1)
