"""Cross entropy of independent probabilities: SigmoidCrossEntropyLoss, as Caffe has it and as HED does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import exp, isfinite, log
from typing import ClassVar

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import BATCH_SIZE
from minicaffe.layers.base import LayerClass
from minicaffe.layers.classification import Normalized


class SigmoidCrossEntropyLoss(Normalized):
    r"""Cross entropy of independent probabilities, the sigmoids of the scores, with targets in [0, 1].

    .. math:: L = -\frac{1}{D} \sum_i t_i \log \sigma(x_i) + (1 - t_i) \log(1 - \sigma(x_i))

    Bottoms: scores x and targets t, of equal counts.  Top: the loss, a scalar.  D: see ``Normalized``, but without
    ``normalization`` and ``normalize`` it is the number of items, N.
    """

    type = "SigmoidCrossEntropyLoss"
    capturable_on_device = True
    fixed: ClassVar[Collection[str] | None] = ("class_balance",)
    per_element = 8
    default_normalization = BATCH_SIZE

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """HED's, which weighs edges and other pixels the same, if ``class_balance`` is not 0."""
        return BalancedSigmoidCrossEntropyLoss if layer_param.loss_param.class_balance else SigmoidCrossEntropyLoss

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if bottom[0].count != bottom[1].count:
            found = " and ".join(blob.shape_string for blob in bottom)
            raise self.error(f"inputs must have the same count; found {found}", kind=ShapeError)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, target = bottom[0].xdata, bottom[1].xdata.reshape(bottom[0].shape)
        self.divide_by(target, bottom[0].shape[0])
        self.ops.sigmoid_loss(x, target, self.ignored, self.normalizer, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x, target, dx = bottom[0].xdata, bottom[1].xdata.reshape(bottom[0].shape), bottom[0].xdiff
            self.ops.sigmoid_loss_grad(x, target, self.ignored, self.normalizer, top[0].xdiff, dx)


class BalancedSigmoidCrossEntropyLoss(SigmoidCrossEntropyLoss):
    r"""SigmoidCrossEntropyLoss of HED (Xie and Tu 2015) and RCF, said by ``loss_param.class_balance``:

    .. math:: L = \frac1N \sum_n \frac{-1}{P_n + Q_n} \Big( Q_n \sum_{i: t_i = 1} \log \sigma(x_i)
        + \lambda P_n \sum_{i: t_i = 0} \log(1 - \sigma(x_i)) \Big)

    P edges (t = 1) and Q other pixels (t = 0) of each of N images; other targets do not count.  ``class_balance`` is
    λ: 1 in HED, 1.1 in RCF.  Bottoms: scores x and targets t, of equal counts.  Top: the loss, a scalar.  Other fields
    of ``loss_param`` are refused.
    HED: the gradient at other targets is that of the plain loss; RCF's, as here, is 0.
    """

    type = ""
    obeys = ("class_balance",)
    capturable_on_device = True
    class_balance: float

    def check_options(self) -> None:
        super().check_options()
        value = self.class_balance
        self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", "class_balance")
        for field in ("ignore_label", "normalization", "normalize"):
            self.require(not self.has(field), "has no meaning together with class_balance", field)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.rows = (bottom[0].shape[0], bottom[0].span(1))
        self.is_edge, self.is_none = (self.scratch(name, self.rows, "bool") for name in ("is_edge", "is_none"))
        self.terms = self.scratch("terms", self.rows)
        self.edges, self.others = (self.scratch(name, self.rows[:1]) for name in ("edges", "others"))
        self.weights = self.scratch("weights", (2, *self.rows[:1]))
        self.total = self.scratch("total", self.rows[:1])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        xp, (x, target) = self.xp, (blob.xdata.reshape(self.rows) for blob in bottom)
        xp.equal(target, 1, out=self.is_edge)
        xp.equal(target, 0, out=self.is_none)
        xp.sum(self.is_edge, axis=1, out=self.edges)
        xp.sum(self.is_none, axis=1, out=self.others)
        xp.add(self.edges, self.others, out=self.total)
        xp.maximum(self.total, 1, out=self.total)
        xp.divide(self.others, self.total, out=self.weights[0])
        xp.divide(self.edges, self.total, out=self.weights[1])
        self.weights[1] *= self.class_balance
        shape = (1, *self.rows)
        arrays, out = (x.reshape(shape), target.reshape(shape)), self.terms.reshape(shape)
        self.ops.channelwise(self.term, arrays, (self.weights[0], self.weights[1]), (), out)
        xp.sum(self.terms, out=top[0].xdata)
        top[0].xdata[...] /= max(self.rows[0], 1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            shape = (1, *self.rows)
            arrays = tuple(blob.xdata.reshape(shape) for blob in bottom)
            self.ops.channelwise(self.slope, arrays, (self.weights[0], self.weights[1]), (), self.terms.reshape(shape))
            self.xp.multiply(self.terms, top[0].xdiff, out=bottom[0].xdiff.reshape(self.rows))
            bottom[0].xdiff[...] /= max(self.rows[0], 1)

    @staticmethod
    def term(x: float, t: float, edge: float, other: float) -> float:
        """The loss of a pixel, ``log(1 + exp(-|x|))`` keeping the exponent small."""
        return (
            ((-x if x < 0 else 0.0) + log(1.0 + exp(-abs(x)))) * edge
            if t == 1
            else ((x if x > 0 else 0.0) + log(1.0 + exp(-abs(x)))) * other
            if t == 0
            else 0.0 * t
        )

    @staticmethod
    def slope(x: float, t: float, edge: float, other: float) -> float:
        return (1.0 / (1.0 + exp(-x)) - 1.0) * edge if t == 1 else other / (1.0 + exp(-x)) if t == 0 else 0.0 * t
