"""Overlaps of boxes in pixels, as MS-CNN (Cai et al. 2016) and Cascade R-CNN (Cai, Vasconcelos 2018) have them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.boxes import suppress

IOU, IOMU, IOFU = "IOU", "IOMU", "IOFU"
MODES = (IOU, IOMU, IOFU)
"""By what the area in common is divided: that of both together, of the smaller box, of the first."""

Overlap = Callable[[NDArray, NDArray, str], NDArray]


def overlap(a: NDArray, b: NDArray, mode: str = IOU, least: float = 0) -> NDArray:
    """How much boxes (…, 4) overlap whose far corners do not belong to them, the shapes broadcast against each other.

    What they have in common does not count where a side of it is shorter than ``least``.
    """
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    own, other = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    counts = ((sides > 0) & (sides >= least)).all(-1) & (own > 0).all(-1) & (other > 0).all(-1)
    common = np.where(counts, sides.prod(-1), 0).astype(sides.dtype, copy=False)
    areas = own.prod(-1), other.prod(-1)
    whole = {IOU: areas[0] + areas[1] - common, IOMU: np.minimum(*areas), IOFU: areas[0]}[mode]
    return np.divide(common, whole, out=np.zeros_like(common), where=counts)


def overlap_of_pixels(a: NDArray, b: NDArray, mode: str = IOU) -> NDArray:
    """``overlap`` of boxes whose far corners belong to them; less than a pixel in common, or a row of it, is
    nothing."""
    one = np.array([0, 0, 1, 1], a.dtype)
    upright = ((a[..., 2:] >= a[..., :2]).all(-1)) & ((b[..., 2:] >= b[..., :2]).all(-1))
    rows = np.minimum(a[..., 3], b[..., 3]) > np.maximum(a[..., 1], b[..., 1])
    return np.where(upright & rows, overlap(a + one, b + one, mode, 1), 0)


def kept(boxes: NDArray, threshold: float, measure: Overlap, mode: str, most: int = 0) -> NDArray:
    """Which of the boxes (M, 4), the best first, overlap no kept one before them by more than the threshold; only the
    first ``most`` of them unless that is 0."""
    rest = np.arange(len(boxes))
    if mode == IOU and measure is overlap:
        return suppress(np.ascontiguousarray(boxes), rest, threshold, 1.0, most or -1)
    if mode == IOU and measure is overlap_of_pixels:
        whole = np.ascontiguousarray(boxes + np.array([0, 0, 1, 1], boxes.dtype))
        return suppress(whole, rest, threshold, 1.0, most or -1, (1, 1))
    found: list[int] = []
    while len(rest) and not (most and len(found) == most):
        best, rest = rest[0], rest[1:]
        found.append(int(best))
        rest = rest[~(measure(boxes[best], boxes[rest], mode) > threshold)]
    return np.array(found, int)
