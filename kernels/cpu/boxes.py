"""Non-maximum suppression, compiled: single-threaded, since each step depends on those before it."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.reference import Array


@kernel(internal=True)
def _before(scores, a, b):
    """Whether candidate ``a`` comes before ``b``: by score, then by number."""
    return scores[a] > scores[b] or (scores[a] == scores[b] and a < b)


@kernel(internal=True)
def _gather_best(scores, candidates, count):
    """Move the ``count`` first of the candidates to the front, in any order (Hoare's selection)."""
    low, high = 0, len(candidates) - 1
    while low < high:
        pivot = candidates[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while _before(scores, candidates[i], pivot):
                i += 1
            while _before(scores, pivot, candidates[j]):
                j -= 1
            if i <= j:
                candidates[i], candidates[j] = candidates[j], candidates[i]
                i += 1
                j -= 1
        if count <= j + 1:
            high = j
        elif count > i:
            low = i
        else:
            return


@kernel()
def _best_first(column, threshold, top_k):
    scores = column.copy()
    candidates = np.flatnonzero(scores > threshold)
    if 0 <= top_k < len(candidates):
        _gather_best(scores, candidates, top_k)
        candidates = np.sort(candidates[:top_k])
    return candidates[np.argsort(-scores[candidates], kind="mergesort")]


_BLOCK = 32
"""Kept boxes that one box is compared with before it is asked whether any overlaps it."""


@kernel(internal=True)
def _overlaps_any(box, area, corners, areas, first, last, threshold, least):
    """Whether the box overlaps one of the kept ones by more than the threshold; no branch, so that it is vectorised."""
    zero = areas.dtype.type(0)
    left, top, right, bottom = corners
    worst = 0
    for k in range(first, last):
        width = min(box[2], right[k]) - max(box[0], left[k])
        height = min(box[3], bottom[k]) - max(box[1], top[k])
        counts = (width > zero) & (width >= least[0]) & (height > least[1])
        common = width * height if counts else zero
        overlap = common / (area + areas[k] - common) if common > zero else zero
        worst |= not overlap <= threshold
    return worst != 0


@kernel()
def _suppress(boxes, order, threshold, eta, most, least):
    zero = boxes.dtype.type(0)
    kept, areas = np.empty(len(order), np.int64), np.empty(len(order), boxes.dtype)
    left, top, right, bottom = np.empty_like(areas), np.empty_like(areas), np.empty_like(areas), np.empty_like(areas)
    count = 0
    for index in order:
        if count == most:
            break
        box = boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3]
        area = (box[2] - box[0]) * (box[3] - box[1]) if box[2] >= box[0] and box[3] >= box[1] else zero
        keep = True
        for first in range(0, count, _BLOCK):
            last = min(first + _BLOCK, count)
            if _overlaps_any(box, area, (left, top, right, bottom), areas, first, last, threshold, least):
                keep = False
                break
        if keep:
            left[count], top[count], right[count], bottom[count] = box
            kept[count], areas[count] = index, area
            count += 1
            if eta < 1 and threshold > 0.5:
                threshold = threshold * eta
    return kept[:count]


def best_first(scores: Array, threshold: float, top_k: int) -> Array:
    """See ``reference.boxes.best_first``."""
    return _best_first(scores, scores.dtype.type(threshold), top_k)


def suppress(
    boxes: Array, order: Array, threshold: float, eta: float, most: int = -1, least: tuple[float, float] = (0, 0)
) -> Array:
    """See ``reference.boxes.suppress``."""
    number = boxes.dtype.type
    return _suppress(boxes, order, number(threshold), number(eta), most, (number(least[0]), number(least[1])))
