"""Losses of distances to classes (happynear/caffe-windows): row i, column j is how far item i is from class j.

They pick and compare rows by branches, and compute on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.classification import Classified


class DistanceLoss(Classified):
    """Base: bottoms are distances (N, C, …), N rows, and integer labels (N); a third as the class says.  Tops: the
    loss, a scalar; if a second is named, the means of distances to the right classes and to the others.
    """

    bottoms: Count = (2, 3)
    tops: Count = (1, 2)
    averages = 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.reads_bottoms = range(2, len(bottom))
        self._found: dict[str, Any] = {}  # what forward leaves for backward

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.size = (bottom[0].shape[0], bottom[0].span(1))
        self.expect_labels(bottom, (*self.size, 1))
        self.require(self.size[1] > 1, f"needs at least two classes; found {bottom[0].shape_string}", kind=ShapeError)
        if len(top) > 1:
            top[1].reshape(self.averages)

    def rows(self, blob: Blob) -> Any:
        """The blob's values, an item a row."""
        return blob.data.reshape(self.size)

    def right(self, bottom: Sequence[Blob]) -> np.ndarray:
        """Whether row and column are an item and its class."""
        self.check_labels(bottom[1].xdata, self.size[1])
        return bottom[1].data.reshape(-1, 1).astype(int) == np.arange(self.size[1])

    def give(self, gradient: np.ndarray, top: Sequence[Blob], bottom: Sequence[Blob]) -> None:
        """Scale the gradient of the sum to that of the mean, by the loss weight."""
        bottom[0].diff.reshape(self.size)[...] = gradient * (top[0].diff / self.size[0])


class GeneralContrastiveLoss(DistanceLoss):
    r"""Pull items to their class as far as it is beyond a margin, and push other classes out to another one.

    .. math:: L = \frac{1}{N} \sum_i \Big( w_+ \min(\max(d_{i y_i} - m_+, 0), t) + w_- \sum_{j \ne y_i}
        \max(m_- - d_{ij}, 0) \Big)

    ``positive_margin`` m+ (0), ``negative_margin`` m- (1), ``positive_weight`` and ``negative_weight`` w (1),
    ``positive_outlier_thresh`` t (4).  ``exp_negative_weight``: the terms of other classes nearer than m- are
    ``exp(-d)``.  ``max_positive_only`` keeps the smallest term of a right class only, ``max_negative_only`` the largest
    of other classes in each row.  ``positive_first``: a row whose own class is farther than ``positive_upper_bound``
    (1) leaves other classes alone.  ``normalize_negative`` n: backward divides what comes from other classes by the sum
    of its absolute values over n N, where that is greater than w+.  ``add_intra_mae`` adds a running mean of the right
    classes' terms, at most ``max_negative_margin`` (1.2), to m-.
    With a third bottom, (N, C), the distances are read there, and the gradient still goes to the first.
    """

    type = "GeneralContrastiveLoss"
    param = "general_contrastive_loss_param"
    per_element = 6
    positive_margin: float
    negative_margin: float
    positive_weight: float
    negative_weight: float
    normalize_negative: float
    positive_outlier_thresh: float
    max_negative_only: bool
    max_positive_only: bool
    positive_first: bool
    positive_upper_bound: float
    exp_negative_weight: bool
    add_intra_mae: bool
    max_negative_margin: float

    fixed = ("add_intra_mae",)

    def check_options(self) -> None:
        self.require(
            not self.has("normalize_negative") or self.normalize_negative > 0,
            f"must be positive; found {self.normalize_negative:g}",
            "normalize_negative",
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.reads_bottoms = (self._source(bottom),)
        self._mean_term = np.zeros(())

    @staticmethod
    def _source(bottom: Sequence[Blob]) -> int:
        """Which bottom holds the distances."""
        return 2 if len(bottom) > 2 else 0

    def state(self) -> dict[str, Any]:
        return {"mean_term": float(self._mean_term)}

    def restore(self, state: dict[str, Any]) -> None:
        self._mean_term[...] = state["mean_term"]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.averages = 3 if self.add_intra_mae else 2
        super().reshape(bottom, top)
        if len(bottom) > 2:
            self.require_same_shape(bottom[0], bottom[2])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        d, right = self.rows(bottom[self._source(bottom)]), self.right(bottom)
        margin = self.negative_margin + (float(self._mean_term) if self.add_intra_mae else 0.0)
        too_far = np.clip(d - self.positive_margin, 0, self.positive_outlier_thresh) * right
        too_near = np.maximum(margin - d, 0) * ~right
        self._found["near"] = (d < margin) & ~right
        others = np.exp(-d) if self.exp_negative_weight else too_near
        terms = np.where(right, too_far * self.positive_weight, others * self._found["near"] * self.negative_weight)
        self._found["kept"] = self._chosen(terms, right)
        self._found["leaves"] = self.positive_first & (
            (d * right).sum(axis=1, keepdims=True) > self.positive_upper_bound
        )
        top[0].data[...] = np.abs(terms * self._found["kept"] * (right | ~self._found["leaves"])).sum() / self.size[0]
        mean = too_far.sum() / self.size[0]
        self._mean_term[...] = min(0.99 * self._mean_term + 0.01 * mean, self.max_negative_margin)
        if len(top) > 1:
            found = [mean, too_near.sum() / self.size[0] / (self.size[1] - 1), self._mean_term]
            top[1].data[...] = found[: self.averages]
        self._found["right"] = right

    def _chosen(self, terms: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which terms count, where only the smallest or the largest do."""
        kept = np.ones_like(right)
        if self.max_positive_only:
            first = np.argmin(terms[right])
            kept &= ~right | (np.arange(len(terms)) == first)[:, None]
        if self.max_negative_only:
            # an item of class 0 is compared with its own term, as in the fork
            rivals = np.where(right & (np.arange(right.shape[1]) > 0), -np.inf, terms)
            kept &= right | (np.arange(right.shape[1]) == rivals.argmax(axis=1)[:, None])
        return kept

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        d, right = self.rows(bottom[self._source(bottom)]), self._found["right"]
        inside = (d > self.positive_margin) & (d < self.positive_outlier_thresh) & self._found["kept"]
        pull = self.positive_weight * (inside | self._found["leaves"]) * right
        steep = np.exp(-d) if self.exp_negative_weight else 1.0
        push = self.negative_weight * steep * (self._found["near"] & self._found["kept"] & ~self._found["leaves"])
        if self.has("normalize_negative"):
            total = np.abs(push.sum()) / self.normalize_negative / self.size[0]
            push = push / total if total > self.positive_weight else push
        self.give(pull - push, top, bottom)


class RowWeighted(DistanceLoss):
    """Base of those whose third bottom, where there is one, weighs the rows' gradients."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if len(bottom) > 2 and bottom[2].count != self.size[0]:
            raise self.error(f"bottom 2 must hold one weight a row; found {bottom[2].shape_string}", kind=ShapeError)


class GeneralTripletLoss(RowWeighted):
    r"""Every other class must be farther than the right one, by a margin.

    .. math:: L = \frac{w_-}{N} \sum_i \sum_{j \ne y_i} \max(d_{i y_i} + m - d_{ij}, 0)

    ``margin`` m (0.2), ``positive_weight`` and ``negative_weight`` w (1).  ``hardest_only`` keeps the largest term of
    each row.  ``positive_first``: a row whose own class is farther than ``positive_upper_bound`` (1) leaves other
    classes alone.  A third bottom (N) weighs the rows' gradients.
    happynear: backward gives ``-w-`` to each class that is too near, and ``w+`` to the right one if there is such a
    class, or always under ``add_center_loss`` (true): not the gradient of L.
    """

    type = "GeneralTripletLoss"
    param = "general_triplet_loss_param"
    per_element = 4
    margin: float
    add_center_loss: bool
    hardest_only: bool
    positive_first: bool
    positive_upper_bound: float
    positive_weight: float
    negative_weight: float

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        d, right = self.rows(bottom[0]), self.right(bottom)
        own = (d * right).sum(axis=1, keepdims=True)
        terms = np.where(right, 0, np.maximum(own + self.margin - d, 0) * self.negative_weight)
        self._found["near"] = (own + self.margin > d) & ~right
        if self.hardest_only:
            self._found["near"] &= np.arange(d.shape[1]) == terms.argmax(axis=1)[:, None]
        self._found["leaves"] = self.positive_first & (own > self.positive_upper_bound)
        self._found["near"] &= ~self._found["leaves"]
        top[0].data[...] = np.abs(terms * self._found["near"]).sum() / self.size[0]
        if len(top) > 1:
            others = (d * ~right).sum() / self.size[0] / (self.size[1] - 1)
            top[1].data[...] = [own.sum() / self.size[0], others]
        self._found["right"] = right

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        pulls = self.add_center_loss | self._found["leaves"] | self._found["near"].any(axis=1, keepdims=True)
        gradient = self.positive_weight * (pulls & self._found["right"]) - self.negative_weight * self._found["near"]
        if len(bottom) > 2:
            gradient = gradient * bottom[2].data.reshape(-1, 1)
        self.give(gradient, top, bottom)


class NCALoss(RowWeighted):
    r"""Near the right class, far from the others, with a weight that falls exponentially.

    .. math:: L = \frac{1}{N} \sum_i \Big( d_{i y_i} + \sum_{j \ne y_i} e^{-d_{ij}} \Big)

    ``nca_param { min_negative_only }``: of the other classes only the nearest one of each row counts.  A third bottom
    (N) weighs the rows' gradients; its mean is divided out.
    happynear: forward adds to what the top held before.
    """

    type = "NCALoss"
    param = "nca_param"
    per_element = 3
    min_negative_only: bool

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        d, right = self.rows(bottom[0]), self.right(bottom)
        self._found["right"], self._found["falls"] = right, np.exp(-d) * ~right
        if self.min_negative_only:
            nearest = np.where(right, np.inf, d).argmin(axis=1)[:, None]
            self._found["falls"] *= np.arange(d.shape[1]) == nearest
        top[0].data[...] = ((d * right).sum() + self._found["falls"].sum()) / self.size[0]
        if len(top) > 1:
            others = (d * ~right).sum() / self.size[0] / (self.size[1] - 1)
            top[1].data[...] = [(d * right).sum() / self.size[0], others]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        gradient = self._found["right"] - self._found["falls"]
        if len(bottom) > 2:
            weights = bottom[2].data.reshape(-1, 1)
            gradient = gradient * weights / weights.mean()
        self.give(gradient, top, bottom)
