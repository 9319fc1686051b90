"""Non-maximum suppression, which layers call on the host: which boxes are left depends on their values."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def best_first(scores: Array, threshold: float, top_k: int) -> Array:
    """The numbers of scores (P,) above ``threshold``, best first (ties: lower number first), at most ``top_k`` of them
    unless that is negative."""
    above = np.flatnonzero(scores > threshold)
    order = above[np.argsort(-scores[above], kind="stable")]
    return order if top_k < 0 else order[:top_k]


def suppress(
    boxes: Array, order: Array, threshold: float, eta: float, most: int = -1, least: tuple[float, float] = (0, 0)
) -> Array:
    """Which of the boxes (P, 4) numbered ``order`` (M,) are kept: those that overlap no kept one before them by more
    than ``threshold``, which shrinks by the factor ``eta`` after each kept box while it is above 0.5; only the first
    ``most`` of them unless that is negative.

    The overlap is intersection over union; the area of a box whose corners are swapped is 0.  What two boxes have in
    common is nothing where it is less wide than ``least[0]``, or not higher than ``least[1]``.
    """
    kept: list[int] = []
    for index in order:
        if len(kept) == most:
            break
        if all(_overlap(boxes[index], boxes[other], least) <= threshold for other in kept):
            kept.append(int(index))
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return np.array(kept, np.int64)


def _area(box: Array) -> float:
    width, height = box[2] - box[0], box[3] - box[1]
    return 0.0 if width < 0 or height < 0 else width * height


def _overlap(a: Array, b: Array, least: tuple[float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and width >= least[0] and height > least[1]):
        return 0.0
    common = width * height
    return common / (_area(a) + _area(b) - common)
