"""Sizes, overlaps and changes of frame of boxes, as SSD (Liu et al. 2016) defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = np.array([0, 0, 1, 1], np.float32)
"""The box of the whole image."""


def size(boxes: NDArray) -> NDArray:
    """Areas of boxes (…, 4); 0 where a corner lies beyond its opposite."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return np.where((sides < 0).any(-1), 0, sides[..., 0] * sides[..., 1]).astype(boxes.dtype, copy=False)


def intersection(a: NDArray, b: NDArray) -> NDArray:
    """Areas that boxes (…, 4) have in common, the shapes broadcast against each other."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0).astype(sides.dtype, copy=False)


def jaccard(a: NDArray, b: NDArray) -> NDArray:
    """Intersection over union of boxes (…, 4), the shapes broadcast against each other."""
    common = intersection(a, b)
    union = size(a) + size(b) - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def coverage(a: NDArray, b: NDArray) -> NDArray:
    """The share of each box of ``a`` that lies in ``b``."""
    common = intersection(a, b)
    return np.divide(common, size(a), out=np.zeros_like(common), where=common > 0)


def clip(boxes: NDArray, width: float = 1, height: float = 1) -> NDArray:
    """Boxes cut off where the image of this size ends."""
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def crosses_boundary(boxes: NDArray) -> NDArray:
    """Whether any corner of each box lies outside the image."""
    return np.any((boxes < 0) | (boxes > 1), axis=-1)


def project(frame: NDArray, boxes: NDArray) -> tuple[NDArray, NDArray]:
    """Boxes seen from inside ``frame`` (4,), cut off at its borders, and which of them have something inside it."""
    inside = (boxes[..., :2] < frame[2:]).all(-1) & (boxes[..., 2:] > frame[:2]).all(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = clip((boxes - np.tile(frame[:2], 2)) / np.tile(frame[2:] - frame[:2], 2))
    return seen, inside & (size(seen) > 0)
