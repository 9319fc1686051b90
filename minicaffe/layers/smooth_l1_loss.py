"""SmoothL1Loss: a loss of boxes that outliers do not dominate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.loss import Loss


class SmoothL1Loss(Loss):
    r"""Squares of small differences, absolute values of others (Fast R-CNN, Girshick 2015; SSD).

    .. math:: L = \frac{1}{N} \sum_i u_i \, f(w_i (a_i - b_i)), \qquad
        f(d) = \frac{\sigma^2 d^2}{2} \text{ if } |d| < \frac{1}{\sigma^2} \text{ else } |d| - \frac{1}{2 \sigma^2}

    Bottoms: a and b (N, …); optionally the inside weights w and the outside weights u, 1 where they are not given.
    ``sigma``: 1.  Tops: the loss, a scalar; if a second is named (Cascade R-CNN), the sum of the terms over C of each
    position, (N, 1, …), which has no gradient.  a and b can get a gradient.
    Caffe: DeepDetect's CPU code leaves u out, and w out of the gradient; this is Fast R-CNN's, where a ``loss_weight``
    must be given.
    """

    type = "SmoothL1Loss"
    param = "smooth_l1_loss_param"
    capturable_on_device = True
    bottoms: Count = (2, 4)
    tops: Count = (1, 2)
    per_element = 4
    reads_bottoms: Sequence[int] = ()
    differentiable = (0, 1)
    forcible = (0, 1)
    stops_at = (2, 3)
    empty_batch = True
    sigma: float

    def check_options(self) -> None:
        self.require(self.sigma > 0, f"must be positive; found {self.sigma:g}", "sigma")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.reads_bottoms = tuple(range(2, len(bottom)))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if any(blob.count != bottom[0].count for blob in bottom):
            found = ", ".join(blob.shape_string for blob in bottom)
            raise self.error(f"inputs must have the same count; found {found}", kind=ShapeError)
        self.row = (1, 1, bottom[0].count)
        self.difference = self.scratch("difference", self.row)
        if len(top) > 1:
            x = bottom[0]
            self.require(len(x.shape) > 1, f"inputs must be (N, C, …); found {x.shape_string}", kind=ShapeError)
            self.planes = (x.shape[0], x.shape[1], x.span(2))
            self.terms = self.scratch("terms", self.row)
            top[1].reshape(x.shape[0], 1, *x.shape[2:], *(1,) * (4 - len(x.shape)))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        weights = tuple(blob.xdata.reshape(self.row) for blob in bottom[2:])
        pair = tuple(blob.xdata.reshape(self.row) for blob in bottom[:2])
        formula = self.weighted_difference if weights else self.plain_difference
        self.ops.elementwise(formula, (*pair, *weights[:1]), (), self.difference)
        loss, scalars = top[0].xdata.reshape(1), (self.sigma**2, 1 / max(bottom[0].shape[0], 1))
        self.ops.elementwise(self.nothing, (loss,), (), loss)
        term = self.weighted_term if len(weights) == 2 else self.term
        self.ops.channel_sum(term, (self.difference, *weights[1:]), (), scalars, loss)
        if len(top) > 1:
            self.ops.elementwise(term, (self.difference, *weights[1:]), (scalars[0], 1.0), self.terms)
            sums = top[1].xdata.reshape(self.planes[0], self.planes[2])
            self.xp.sum(self.terms.reshape(self.planes), axis=1, out=sums)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        weights = tuple(blob.xdata.reshape(self.row) for blob in bottom[2:])
        weight = top[0].xdiff.reshape(1)
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            dx = bottom[i].xdiff.reshape(self.row)
            scalars = (self.sigma**2, sign / max(bottom[0].shape[0], 1))
            self.ops.channelwise(self.gradient, (self.difference,), (weight,), scalars, dx)
            self._multiply(dx, weights)

    def _multiply(self, dx: Any, weights: Sequence[Any]) -> None:
        for each in weights:
            self.ops.elementwise(self.product, (dx, each), (), dx)

    @staticmethod
    def nothing(x: float) -> float:
        return 0.0

    @staticmethod
    def product(a: float, b: float) -> float:
        return a * b

    @staticmethod
    def plain_difference(a: float, b: float) -> float:
        return a - b

    @staticmethod
    def weighted_difference(a: float, b: float, w: float) -> float:
        return (a - b) * w

    @staticmethod
    def term(d: float, square: float, scale: float) -> float:
        return (0.5 * square * d * d if abs(d) * square < 1 else abs(d) - 0.5 / square) * scale

    @staticmethod
    def weighted_term(d: float, u: float, square: float, scale: float) -> float:
        return (0.5 * square * d * d if abs(d) * square < 1 else abs(d) - 0.5 / square) * u * scale

    @staticmethod
    def gradient(d: float, weight: float, square: float, scale: float) -> float:
        return (square * d if abs(d) * square < 1 else 1.0 if d > 0 else -1.0) * weight * scale
