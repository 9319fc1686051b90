"""Which detections are right, and how good they are all in all: average precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes.geometry import jaccard


def judge(
    boxes: NDArray, truth: NDArray, difficult: NDArray, threshold: float, in_pixels: bool = False
) -> tuple[NDArray, NDArray]:
    """Whether each of the boxes (M, 4), best first, is right or wrong (PASCAL VOC's rules), two arrays (M,).

    A box is right if the ground truth (G, 4) that it overlaps most overlaps it by ``threshold`` and no better box has
    found that one.  What finds a ``difficult`` one (G,) is neither.  Sides of boxes ``in_pixels`` include both ends.
    """
    right, wrong = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    if len(truth) == 0:
        return right, wrong
    overlaps = _overlaps_in_pixels(boxes, truth) if in_pixels else jaccard(boxes[:, None], truth[None])
    best = overlaps.argmax(axis=1)
    found = np.zeros(len(truth), bool)
    for n in np.flatnonzero(overlaps.max(axis=1) >= threshold):
        right[n] = not (found[best[n]] or difficult[best[n]])
        wrong[n] = not (right[n] or difficult[best[n]])
        found[best[n]] = True
    return right, wrong


def _overlaps_in_pixels(a: NDArray, b: NDArray) -> NDArray:
    """Intersection over union (M, G) where a side from 3 to 3 is 1 long."""

    def area(boxes: NDArray) -> NDArray:
        sides = boxes[..., 2:] - boxes[..., :2]
        return np.where((sides < 0).any(-1), 0, (sides + 1).prod(-1))

    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    apart = (low > high).any(-1)
    common = np.where(apart, 0, (high - low + 1).prod(-1))
    return common / np.maximum(area(a)[:, None] + area(b)[None] - common, np.finfo(np.float32).tiny)


def average_precision(scores: NDArray, right: NDArray, positives: int, version: str) -> float:
    """Precision averaged over recall, of detections (M,) that are right or not, where there are ``positives`` to find.

    ``version``: ``11point``, the mean of the best precision at recalls of at least 0, 0.1, … 1 (VOC 2007);
    ``101point``, the same in steps of 0.01 (COCO, Cascade R-CNN);
    ``MaxIntegral``, the area under the precision made monotonic (VOC 2012, ILSVRC); ``Integral``, the area as it is.
    KeyError for another version.
    """
    formula = AP_VERSIONS[version]
    if len(scores) == 0 or positives == 0:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")], dtype=np.float64)
    return formula(hits / np.arange(1, len(hits) + 1), hits / positives)


def _at_levels(steps: int, precision: NDArray, recall: NDArray) -> float:
    levels = np.arange(steps + 1) / steps
    return float(np.mean([precision[recall >= level].max(initial=0) for level in levels]))


def _area(precision: NDArray, recall: NDArray) -> float:
    return float((precision * np.diff(recall, prepend=0)).sum())


def _largest_area(precision: NDArray, recall: NDArray) -> float:
    return _area(np.maximum.accumulate(precision[::-1])[::-1], recall)


AP_VERSIONS: dict[str, Callable[[NDArray, NDArray], float]] = {
    "11point": partial(_at_levels, 10),
    "101point": partial(_at_levels, 100),
    "MaxIntegral": _largest_area,
    "Integral": _area,
}
