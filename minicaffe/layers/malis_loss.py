"""MalisLoss: of the affinities of neighbours, those that join or part segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.loss import Loss


class MalisLoss(Loss):
    r"""Maximin affinity learning of image segmentation (Turaga et al. 2009), as naibaf7's Caffe has it.

    Two pixels are as near as the weakest edge of the best path between them.  That edge answers for the pair: in one
    pass, over the smaller of predicted and true affinity, for each pair of one segment, in another, over the larger,
    for each of two segments.

    .. math:: L = \frac{1}{2N} \sum_n \Big( \sum_e \frac{P_e}{P} (1 - a_e)^2 + \sum_e \frac{Q_e}{Q} a_e^2 \Big)

    with :math:`P_e` and :math:`Q_e` the pairs that edge e answers for, P and Q all pairs of their kind.  Bottoms:
    predicted affinities (N, edges, [[Z,] Y,] X) from 0 to 1; true ones of that shape; segments (N, 1, [[Z,] Y,] X), 0
    for none; if a fourth is given, where each edge leads: (…, edges, 3) steps along z, y, x, else one along each of
    the last axes.  Top: the loss.  The gradient of an affinity is :math:`-\frac12 (P_e / P \, (1 - a_e) - Q_e / Q \,
    a_e)`, as there: that of neither minimum nor maximum, and not over N.  Computed on the host.
    """

    type = "MalisLoss"
    bottoms: Count = (3, 4)
    tops: Count = 1
    differentiable = (0,)
    reads_bottoms = reads_tops = ()
    per_element = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        a, true, segments = bottom[:3]
        self.require(
            3 <= len(a.shape) <= 5 and 0 not in a.shape[1:],
            f"affinities must be (N, edges, [[Z,] Y,] X); found {a.shape_string}",
            kind=ShapeError,
        )
        self.require_same_shape(a, true)
        self.require(
            segments.shape == (a.shape[0], 1, *a.shape[2:]),
            f"segments must have one channel and the size of the affinities; found {segments.shape_string} and "
            f"{a.shape_string}",
            kind=ShapeError,
        )
        edges, axes = a.shape[1], len(a.shape) - 2
        if len(bottom) > 3:
            self.require(
                bottom[3].count == 3 * edges,
                f"steps must be 3 for each of the {edges} edges; found {bottom[3].shape_string}",
                kind=ShapeError,
            )
        else:
            self.require(
                edges <= axes,
                f"{edges} edges along {axes} axes: a fourth bottom must say where they lead",
                kind=ShapeError,
            )
        self.slopes = np.zeros(a.shape, np.float64)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        predicted, true, segments = (blob.data.astype(np.float64) for blob in bottom[:3])
        self.require(bool(np.isfinite(true).all()), "true affinities must be numbers")
        self.require_whole(segments, "segments")
        num, edges, *size = predicted.shape
        ends = _ends(size, self._steps(bottom, edges))
        loss = np.nan if np.isnan(predicted).any() else 0.0
        for n in range(num):
            labels = segments[n].reshape(-1).astype(np.int64)
            near, far = np.minimum(predicted[n], true[n]).reshape(-1), np.maximum(predicted[n], true[n]).reshape(-1)
            same, pairs = _pairs(near, ends, labels, True)
            apart, other_pairs = _pairs(far, ends, labels, False)
            joining, parting = same / max(pairs, 1), apart / max(other_pairs, 1)
            used = (joining != 0, parting != 0)
            loss += 0.5 * float((joining * (1 - near) ** 2)[used[0]].sum() + (parting * far**2)[used[1]].sum())
            slopes = np.zeros(len(near))
            slopes[used[0]] -= 0.5 * (joining * (1 - near))[used[0]]
            slopes[used[1]] += 0.5 * (parting * far)[used[1]]
            self.slopes[n] = slopes.reshape(self.slopes[n].shape)
        top[0].data[...] = loss / num

    def _steps(self, bottom: Sequence[Blob], edges: int) -> NDArray:
        """Where edges lead, (edges, 3): along z, y, x."""
        if len(bottom) > 3:
            return bottom[3].data.reshape(edges, 3).astype(np.int64)
        return np.eye(3, dtype=np.int64)[3 - edges :]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = self.slopes * float(top[0].diff)


def _ends(size: Sequence[int], steps: NDArray) -> NDArray:
    """The pixel that each edge leads to from its own, (edges * pixels,); -1 where that is outside."""
    whole = (1,) * (3 - len(size)) + tuple(size)
    places = np.indices(whole).reshape(3, -1)
    found = []
    for step in steps:
        ends = places + step[:, None]
        inside = ((ends >= 0) & (ends < np.reshape(whole, (3, 1)))).all(axis=0)
        found.append(np.where(inside, np.ravel_multi_index(tuple(np.where(inside, ends, 0)), whole), -1))
    return np.concatenate(found)


def _pairs(weights: NDArray, ends: NDArray, labels: NDArray, same: bool) -> tuple[NDArray, int]:
    """How many pairs of pixels of one segment, or of two, each edge answers for, and how many there are: Kruskal's
    spanning tree of the heaviest edges."""
    parent = list(range(len(labels)))
    holds: list[dict[int, int]] = [{label: 1} if label else {} for label in labels.tolist()]
    counts = np.zeros(len(weights))
    order = np.argsort(-weights, kind="stable")
    order = order[ends[order] >= 0]
    for edge, begin, end in zip(order.tolist(), (order % len(labels)).tolist(), ends[order].tolist(), strict=True):
        a, b = _root(parent, begin), _root(parent, end)
        if a == b:
            continue
        few, many = sorted((a, b), key=lambda root: len(holds[root]))
        alike = sum(count * holds[many].get(label, 0) for label, count in holds[few].items())
        counts[edge] = alike if same else sum(holds[few].values()) * sum(holds[many].values()) - alike
        for label, count in holds[few].items():
            holds[many][label] = holds[many].get(label, 0) + count
        parent[few], holds[few] = many, {}
    sizes = np.unique(labels[labels != 0], return_counts=True)[1]
    alike = int((sizes * (sizes - 1) // 2).sum())
    return counts, alike if same else int(sizes.sum()) * (int(sizes.sum()) - 1) // 2 - alike


def _root(parent: list[int], place: int) -> int:
    """The pixel that stands for the set of another; the way there is halved."""
    while parent[place] != place:
        parent[place] = place = parent[parent[place]]
    return place
