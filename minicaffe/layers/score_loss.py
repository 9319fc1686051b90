"""Losses of Caffe's forks that compare scores with labels, or two inputs, value by value."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.classification import Classified
from minicaffe.layers.loss import Loss


class ConfidencePenaltyLoss(Classified):
    r"""Cross entropy with labels that are smoothed: a right class has to reach only :math:`1 - \beta` (happynear).

    .. math:: L = -\frac{1}{N} \sum_i \Big( (1 - \beta) \log p_{i y_i} + \frac{\beta}{N - 1} \sum_{j \ne y_i}
        \log p_{ij} \Big)

    Bottoms: probabilities p (N, C, …) seen as N rows, N > 1, taken for 1e-20 where they are less; integer labels (N).
    Top: the loss, a scalar.  ``confidence_penalty_loss_param.beta``: 0.1.
    happynear: the share of other classes is over N - 1, not over C - 1.
    """

    type = "ConfidencePenaltyLoss"
    param = "confidence_penalty_loss_param"
    reads_bottoms = (0,)
    per_element = 4
    beta: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.size = (bottom[0].shape[0], bottom[0].span(1))
        self.expect_labels(bottom, (*self.size, 1))
        self.require(self.size[0] > 1, f"needs at least two items; found {bottom[0].shape_string}", kind=ShapeError)
        self.target, self.terms = self.scratch("target", self.size), self.scratch("terms", self.size)
        self.classes = self.scratch("classes", (1, self.size[1]))
        self.classes[0] = self.xp.arange(self.size[1], dtype=self.dtype)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        label = bottom[1].xdata.reshape(-1, 1)
        self.check_labels(label, self.size[1])
        self.xp.equal(label, self.classes, out=self.target, casting="unsafe")
        shares = ((1 - self.beta) / self.size[0], self.beta / (self.size[0] - 1) / self.size[0])
        self.ops.elementwise(ConfidencePenaltyLoss.share, (self.target,), shares, self.target)
        p = bottom[0].xdata.reshape(self.size)
        self.ops.elementwise(ConfidencePenaltyLoss.term, (p, self.target), (), self.terms)
        self.xp.sum(self.terms, out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            p, dx = bottom[0].xdata.reshape(self.size), bottom[0].xdiff.reshape(self.size)
            self.ops.elementwise(ConfidencePenaltyLoss.slope, (p, self.target), (), dx)
            dx *= top[0].xdiff

    @staticmethod
    def share(right: float, own: float, other: float) -> float:
        return own if right > 0.5 else other

    @staticmethod
    def term(p: float, share: float) -> float:
        return -share * log(1e-20 if p < 1e-20 else p)

    @staticmethod
    def slope(p: float, share: float) -> float:
        return -share / (1e-20 if p < 1e-20 else p)


class CorrelationLoss(Loss):
    r"""The mean product of two inputs: what falls if they become unlike (happynear/caffe-windows).

    .. math:: L = \frac{1}{n} \sum_i a_i b_i

    Bottoms: a and b, (N, …) with the same shape, n values.  Top: the loss, a scalar.  Both can get a gradient.
    """

    type = "CorrelationLoss"
    differentiable = forcible = (0, 1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.require_same_shape(*bottom)
        self.product = self.scratch("product", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.xp.multiply(bottom[0].xdata, bottom[1].xdata, out=self.product)
        self.xp.sum(self.product, out=top[0].xdata)
        top[0].xdata[...] /= bottom[0].count

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, other in self.wanted(propagate_down, (0, 1), (1, 0)):
            dx = bottom[i].xdiff
            self.xp.multiply(bottom[other].xdata, top[0].xdiff, out=dx)
            dx /= bottom[0].count


class MultiLabelSigmoidLoss(Loss):
    r"""Cross entropy of many yes-or-no questions, of which some have no answer (DeepDetect's Caffe).

    .. math:: L = -\frac{1}{|V|} \sum_{i \in V} t_i \log \sigma(x_i) + (1 - t_i) \log(1 - \sigma(x_i))

    Bottoms: x and t, (N, …) with the same shape; V are the places where t is not -1.  Top: the loss, a scalar.
    DeepDetect: the gradient is that of the sum divided by N, not by the number of answers.
    """

    type = "MultiLabelSigmoidLoss"
    per_element = 6

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.require(
            bottom[0].count == bottom[1].count,
            f"data and labels must have the same count; found {bottom[0].shape_string} and {bottom[1].shape_string}",
            kind=ShapeError,
        )
        self.terms, self.answers = self.scratch("terms", (bottom[0].count,)), self.scratch("answers", ())

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, t = (blob.xdata.reshape(-1) for blob in bottom)
        self.ops.elementwise(MultiLabelSigmoidLoss.answered, (t,), (), self.terms)
        self.xp.sum(self.terms, out=self.answers)
        self.xp.maximum(self.answers, 1, out=self.answers)
        self.ops.elementwise(MultiLabelSigmoidLoss.term, (x, t), (), self.terms)
        self.xp.sum(self.terms, out=top[0].xdata)
        top[0].xdata[...] /= self.answers

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].xdiff.reshape(-1)
            self.ops.elementwise(MultiLabelSigmoidLoss.slope, tuple(b.xdata.reshape(-1) for b in bottom), (), dx)
            dx *= top[0].xdiff
            dx /= bottom[0].shape[0]

    @staticmethod
    def answered(t: float) -> float:
        return 0.0 if t == -1 else 1.0

    @staticmethod
    def term(x: float, t: float) -> float:
        return 0.0 if t == -1 else (x * (1.0 - t) if x > 0 else -x * t) + log(1.0 + exp(-abs(x)))

    @staticmethod
    def slope(x: float, t: float) -> float:
        return 0.0 if t == -1 else 1.0 / (1.0 + exp(-x)) - t


class L1Loss(Loss):
    r"""The sum of absolute values or differences, over the batch size (NVCaffe, FlowNet2).

    .. math:: L = \frac{1}{N} \sum_i |a_i - b_i|

    Bottoms: a (N, …), and if a second is named b, (N, …) with equally many values; both can get a gradient.  Top: the
    loss, a scalar.
    FlowNet2's options: ``l2_per_location``: the sum runs over :math:`\sqrt{\epsilon + s \sum_c d^2}` of all positions,
    :math:`\epsilon` being ``epsilon`` (0.01); ``l2_prescale_by_channels``: s is 1/C instead of 1.  ``plateau``: values,
    or lengths, below it count as 0.  ``normalize_by_num_entries``: N is how many values are no NaN, over C.  As there,
    with any of these or without b, NaN counts nothing and the gradient of :math:`|0|` is that of -0; otherwise it
    is 0, as in NVCaffe.
    """

    type = "L1Loss"
    param = "l1_loss_param"
    bottoms: Count = (1, 2)
    reads_bottoms = ()
    differentiable: tuple[int, ...] | None = (0, 1)
    forcible: tuple[int, ...] | None = (0, 1)
    per_element = 2
    l2_per_location: bool
    l2_prescale_by_channels: bool
    normalize_by_num_entries: bool
    epsilon: float
    plateau: float

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.differentiable = self.forcible = (0, 1)[: len(bottom)]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape((bottom[0], bottom[-1]), top)
        self.masked = len(bottom) == 1 or bool(self.layer_param.l1_loss_param.ListFields())
        self.require(
            bottom[0].count == bottom[-1].count,
            f"bottoms must have the same count; found {bottom[0].shape_string} and {bottom[-1].shape_string}",
            kind=ShapeError,
        )
        x = bottom[0]
        self.planes: tuple[int, ...] = (x.shape[0], x.span(1, 2), x.span(2)) if len(x.shape) > 1 else (x.shape[0], 1, 1)
        self.gap, self.terms = self.scratch("gap", self.planes), self.scratch("terms", self.planes)
        self.valid = self.scratch("valid", self.planes)
        self.sums, self.slopes = (
            self.scratch(name, (self.planes[0], 1, self.planes[2])) for name in ("sums", "slopes")
        )
        self.divisor = self.scratch("divisor", ())

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        xp, elementwise = self.xp, self.ops.elementwise
        self.gap[...] = bottom[0].xdata.reshape(self.planes)
        if len(bottom) > 1:
            self.gap -= bottom[1].xdata.reshape(self.planes)
        self.divisor.fill(self.planes[0])
        if self.masked:
            elementwise(L1Loss.known, (self.gap,), (), self.valid)
            elementwise(L1Loss.cleaned, (self.gap,), (), self.gap)
            if self.normalize_by_num_entries:
                xp.sum(self.valid, out=self.divisor)
                self.divisor /= max(1, self.planes[1])
                xp.maximum(self.divisor, 1e-30, out=self.divisor)
            if self.plateau > 0 and not self.l2_per_location:
                elementwise(L1Loss.outside, (self.gap, self.valid), (self.plateau,), self.valid)
                self.gap *= self.valid
        if self.l2_per_location:
            xp.multiply(self.gap, self.gap, out=self.terms)
            xp.sum(self.terms, axis=1, keepdims=True, out=self.sums)
            share = 1 / max(1, self.planes[1]) if self.l2_prescale_by_channels else 1.0
            self.sums *= share
            least = self.plateau**2 if self.plateau > 0 else 0.0
            elementwise(L1Loss.slope, (self.sums,), (self.epsilon, least, share), self.slopes)
            elementwise(L1Loss.length, (self.sums,), (self.epsilon, least), self.sums)
            xp.sum(self.sums, out=top[0].xdata)
        else:
            elementwise(L1Loss.size, (self.gap,), (), self.terms)
            xp.sum(self.terms, out=top[0].xdata)
        top[0].xdata[...] /= self.divisor

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, sign in self.wanted(propagate_down, *((0, 1.0), (1, -1.0))[: len(bottom)]):
            dx = bottom[i].xdiff.reshape(self.planes)
            if self.l2_per_location:
                self.xp.multiply(self.gap, self.slopes, out=dx)
                dx *= sign
            elif self.masked:
                self.ops.elementwise(L1Loss.way, (self.gap, self.valid), (sign,), dx)
            else:
                self.ops.elementwise(L1Loss.sign, (self.gap,), (sign,), dx)
            dx *= top[0].xdiff
            dx /= self.divisor

    @staticmethod
    def known(x: float) -> float:
        return 1.0 if x == x else 0.0

    @staticmethod
    def cleaned(x: float) -> float:
        return x if x == x else 0.0

    @staticmethod
    def size(x: float) -> float:
        return abs(x)

    @staticmethod
    def outside(x: float, valid: float, plateau: float) -> float:
        return 0.0 if abs(x) < plateau else valid

    @staticmethod
    def length(total: float, epsilon: float, least: float) -> float:
        return ((0.0 if total < least else total) + epsilon) ** 0.5

    @staticmethod
    def slope(total: float, epsilon: float, least: float, share: float) -> float:
        return 0.0 if total < least else (0.0 if total + epsilon <= 0 else share / (total + epsilon) ** 0.5)

    @staticmethod
    def way(x: float, valid: float, sign: float) -> float:
        return (sign if x > 0 else -sign) * valid

    @staticmethod
    def sign(x: float, sign: float) -> float:
        return sign if x > 0 else -sign if x < 0 else 0.0 * x


class InfimumLoss(Loss):
    r"""The mean of what values fall short of a bound (happynear).

    .. math:: L = \frac{1}{K} \sum_k \max(b - x_k, 0), \qquad b = \text{infimum}\ (0.25)

    Bottom: K values of any shape.  Top: the loss, a scalar.
    happynear: values that reach the bound keep the gradient that was there; here it is 0.
    """

    type = "InfimumLoss"
    param = "infimum_loss_param"
    bottoms = 1
    reads_bottoms = (0,)
    per_element = 2
    infimum: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(bottom[0].count > 0, f"a mean needs values; found {bottom[0].shape_string}", kind=ShapeError)
        top[0].reshape()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = self.xp.maximum(self.infimum - bottom[0].xdata, 0).mean()

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            below = bottom[0].xdata < self.infimum
            self.xp.multiply(below, -top[0].xdiff / bottom[0].count, out=bottom[0].xdiff)
