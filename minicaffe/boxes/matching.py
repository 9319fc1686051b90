"""Which ground truth each prior box has to find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes.geometry import crosses_boundary, jaccard

BIPARTITE, PER_PREDICTION = 0, 1
"""Values of MultiBoxLossParameter.MatchType."""
UNMATCHED, IGNORED = -1, -2
LEAST_OVERLAP = 1e-6
"""What overlaps less does not overlap."""


def match(
    truth: NDArray, boxes: NDArray, match_type: int, threshold: float, ignore_outside: bool = False
) -> tuple[NDArray, NDArray]:
    """The number of the ground truth (G, 4) that each of the boxes (P, 4) stands for, and its overlap with it.

    First each ground truth gets the box that overlaps it most, the best pair of all first (ties: the first box, the
    first ground truth); with PER_PREDICTION, then each box left over the ground truth it overlaps most, by at least
    ``threshold``.  Where there is none, the number is UNMATCHED and the overlap the largest one; boxes that reach
    outside the image are IGNORED if ``ignore_outside``.
    """
    indices = np.full(len(boxes), UNMATCHED)
    if len(truth) == 0:
        return indices, np.zeros(len(boxes), boxes.dtype)
    overlaps = jaccard(boxes[:, None], truth[None])
    overlaps[overlaps <= LEAST_OVERLAP] = 0
    if ignore_outside:
        outside = crosses_boundary(boxes)
        overlaps[outside], indices[outside] = 0, IGNORED
    most = overlaps.max(axis=1)
    _assign_each_truth(overlaps, indices, most)
    if match_type == PER_PREDICTION:
        free = np.flatnonzero((indices == UNMATCHED) & (most >= threshold) & (most > 0))
        indices[free] = overlaps[free].argmax(axis=1)
    return indices, most


def _assign_each_truth(overlaps: NDArray, indices: NDArray, most: NDArray) -> None:
    """Give every ground truth a box of its own, as long as one overlaps it, the best pair of all first."""
    columns = overlaps.copy()
    best, value = columns.argmax(axis=0), columns.max(axis=0)
    for _ in range(columns.shape[1]):
        top = value.max()
        if top <= 0:
            return
        row = best[value == top].min()
        column = np.flatnonzero((value == top) & (best == row))[0]
        indices[row], most[row] = column, top
        columns[row], columns[:, column], value[column] = 0, 0, 0
        stale = np.flatnonzero((best == row) & (value > 0))
        best[stale], value[stale] = columns[:, stale].argmax(axis=0), columns[:, stale].max(axis=0)
