"""What MultiBoxLoss compares predictions with: ground truth for some priors, nothing for others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes import geometry, matching
from minicaffe.boxes.priors import PriorBoxes
from minicaffe.kernels.cpu.boxes import best_first, suppress

NO_MINING, MAX_NEGATIVE, HARD_EXAMPLE = range(3)
SHARED = -1
"""The label of boxes that all classes share."""
_LEAST_AREA = 1e-5
"""What is smaller is not chosen where overlapping examples are dropped."""


class Examples:
    """Of one item of the batch, which ground truth each prior stands for, and which priors must find nothing.

    ``labels`` (G,) and ``truth`` (G, 4): its ground truth.  ``matches``: for SHARED, or for each class that has boxes
    of its own, the number of the ground truth of each prior, or less than 0, and how much they overlap, (P,) each.
    ``negatives``: numbers of priors.
    """

    def __init__(self, rows: NDArray) -> None:
        self.labels, self.truth = rows[:, 1].astype(int), np.ascontiguousarray(rows[:, 3:7])
        self.matches: dict[int, tuple[NDArray, NDArray]] = {}
        self.negatives = np.empty(0, int)

    def pairs(self) -> list[tuple[int, NDArray, NDArray]]:
        """(label, numbers of priors, numbers of their ground truths) for each label of boxes."""
        found = []
        for label, (indices, _) in self.matches.items():
            priors = np.flatnonzero(indices >= 0)
            found.append((label, priors, indices[priors]))
        return found

    def match(self, options: Any, priors: PriorBoxes, codes: NDArray) -> None:
        """Find ``matches``, by the priors or by the boxes that ``codes`` (P, 1 or classes, 4) predict."""
        how = (options.match_type, options.overlap_threshold, options.ignore_cross_boundary_bbox)
        classes = [c for c in range(codes.shape[1]) if c != options.background_label_id]
        if not options.use_prior_for_matching:
            for label in [SHARED] if options.share_location else classes:
                own = np.arange(len(self.labels)) if label == SHARED else np.flatnonzero(self.labels == label)
                boxes = priors.decode(codes[:, max(label, 0)])
                indices, overlaps = matching.match(self.truth[own], boxes, *how)
                indices[indices >= 0] = own[indices[indices >= 0]]
                self.matches[label] = indices, overlaps
            return
        indices, overlaps = matching.match(self.truth, priors.boxes, *how)
        if options.share_location:
            self.matches[SHARED] = indices, overlaps
            return
        found = np.where(indices >= 0, self.labels[indices], -1)
        for label in classes:
            self.matches[label] = np.where(found == label, indices, matching.UNMATCHED), overlaps

    def mine(self, options: Any, losses: NDArray, boxes: NDArray | None, eligible: NDArray | None = None) -> None:
        """Choose the priors that count by their ``losses`` (P,), the largest first.

        MAX_NEGATIVE: of those that no ground truth overlaps by ``neg_overlap``, ``neg_pos_ratio`` times as many as are
        matched become negatives.  HARD_EXAMPLE: of all, ``sample_size``; matches of others are forgotten.  Given
        ``boxes`` (P, 4), those are passed over that overlap ones with larger losses, by ``nms_param``.  Only
        ``eligible`` (P,) ones are chosen.
        """
        for label, (indices, overlaps) in self.matches.items():
            hard = options.mining_type == HARD_EXAMPLE
            free = (indices == matching.UNMATCHED) & (overlaps < np.float32(options.neg_overlap))
            may = np.ones(len(indices), bool) if eligible is None else eligible
            candidates = np.flatnonzero(may if hard else free & may)
            positives = np.float32((indices >= 0).sum())
            limit = options.sample_size if hard else int(positives * np.float32(options.neg_pos_ratio))
            order = _largest(losses[candidates], options.nms_param, None if boxes is None else boxes[candidates])
            selected = candidates[order[: max(limit, 0)]]
            chosen = np.zeros(len(indices), bool)
            chosen[selected] = True
            self.negatives = np.flatnonzero(chosen & (indices == matching.UNMATCHED))
            if hard:
                self.matches[label] = np.where((indices >= 0) & ~chosen, matching.UNMATCHED, indices), overlaps


def _largest(losses: NDArray, nms: Any, boxes: NDArray | None) -> NDArray:
    """Places of ``losses``, the largest first; given ``boxes``, without those that overlap ones before them.

    NaN is the largest, so that it is not passed over in silence.
    """
    losses = np.where(np.isnan(losses), np.inf, losses)
    if boxes is None or nms.nms_threshold <= 0:
        return best_first(losses, -np.inf, -1)
    candidates = np.ascontiguousarray(boxes)
    order = best_first(losses, -np.inf, nms.top_k)
    order = order[~(geometry.size(candidates[order]) < _LEAST_AREA)]
    return suppress(candidates, order, nms.nms_threshold, 1.0)
