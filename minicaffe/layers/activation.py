"""Neurons that forks of Caffe added."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt

from minicaffe.blob import Blob
from minicaffe.layers.neuron import Neuron


class ReLU6(Neuron):
    """``min(max(x, 0) + negative_slope * min(x, 0), 6)`` (Krizhevsky 2010; MobileNet).

    ``negative_slope`` (0) is read from ``relu6_param``, or else from ``relu_param``.  Backward: 0 from 6 on, the slope
    at 0 and below, 1 between.  In place, backward takes the range of x from y; that needs a ``negative_slope`` that is
    not negative.
    """

    type = "ReLU6"
    capturable = True
    by_image = True
    param = "relu6_param"
    per_element = 2
    reads_bottoms, reads_tops = (0,), ()
    negative_slope: float

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.has("negative_slope"):
            self.negative_slope = self.layer_param.relu_param.negative_slope

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self._permit_in_place(self.negative_slope >= 0)

    def options(self) -> tuple[float, ...]:
        return (self.negative_slope,)

    @staticmethod
    def value(x: float, a: float) -> float:
        return 6.0 if x > 6.0 else max(x, 0.0) + a * min(x, 0.0)

    @staticmethod
    def gradient(x: float, dy: float, a: float) -> float:
        return 0.0 if x >= 6.0 else dy if x > 0 else a * dy


class NegReLU(Neuron):
    """``min(x, 0)`` (FlowNet 2).  Backward: dy where x is negative, else 0."""

    type = "NegReLU"
    capturable = True
    by_image = True
    reads_bottoms, reads_tops = (0,), ()

    @staticmethod
    def value(x: float) -> float:
        return min(x, 0.0)

    @staticmethod
    def gradient(x: float, dy: float) -> float:
        return dy if x < 0 else 0.0


class SeLu(Neuron):
    """Scaled exponential linear unit: ``lambda x`` if ``x > 0``, else ``lambda alpha (exp(x) - 1)`` (Klambauer et al.
    2017).

    ``selu_param``: ``alpha`` (1.6732632), ``lambda`` (1.050701).
    DeepDetect: in place, backward takes y for x, so that what comes from negative x is ``lambda alpha exp(y) dy``; nets
    were trained with that, and it is kept.
    """

    type = "SeLu"
    capturable = True
    by_image = True
    param = "selu_param"
    per_element = 3
    reads_bottoms, reads_tops = (0,), ()
    alpha: float

    def check_options(self) -> None:
        for field in ("alpha", "lambda"):
            value = getattr(self, field)
            self.require(value > 0, f"must be positive; found {value:g}", field)

    def options(self) -> tuple[float, ...]:
        return getattr(self, "lambda"), self.alpha

    @staticmethod
    def value(x: float, scale: float, alpha: float) -> float:
        return scale * x if x > 0 else scale * alpha * (exp(x) - 1.0)

    @staticmethod
    def gradient(x: float, dy: float, scale: float, alpha: float) -> float:
        return dy * scale if x > 0 else dy * scale * alpha * exp(x)


class Mish(Neuron):
    """``x tanh(log(1 + exp(x)))`` (Misra 2019), computed so that nothing overflows."""

    type = "Mish"
    capturable = True
    by_image = True
    param = "mish_param"
    per_element = 8
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()

    @staticmethod
    def value(x: float) -> float:
        return x if x > 30.0 else x - 2.0 * x / (exp(x) * (exp(x) + 2.0) + 2.0)

    @staticmethod
    def gradient(x: float, dy: float) -> float:
        return (
            dy
            if x > 30.0
            else dy * (1.0 - 2.0 / (exp(x) * (exp(x) + 2.0) + 2.0))
            + dy * 4.0 * x * exp(x) * (exp(x) + 1.0) / (exp(x) * (exp(x) + 2.0) + 2.0) ** 2
        )


class HardSigmoid(Neuron):
    """``max(0, min(1, alpha x + beta))``.

    ``hard_sigmoid_param``, or else ``hardsigmoid_param``: ``alpha`` (0.2), ``beta`` (0.5).  Backward: ``alpha dy``
    where y lies between 0 and 1, else 0.
    MobileNet-YOLO: its backward gives ``0.2 dy`` everywhere.
    """

    type = "HardSigmoid"
    capturable = True
    by_image = True
    param = "hard_sigmoid_param"
    per_element = 4
    alpha: float
    beta: float

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.layer_param.HasField("hardsigmoid_param"):
            options = self.layer_param.hardsigmoid_param
            self.alpha, self.beta = options.alpha, options.beta

    def options(self) -> tuple[float, ...]:
        return self.alpha, self.beta

    @staticmethod
    def value(x: float, alpha: float, beta: float) -> float:
        return 0.0 if alpha * x + beta < 0.0 else 1.0 if alpha * x + beta > 1.0 else alpha * x + beta

    @staticmethod
    def gradient(y: float, dy: float, alpha: float, beta: float) -> float:
        return alpha * dy if 0.0 < y < 1.0 else 0.0


class Truncation(Neuron):
    """``max(lower_bound, min(x, upper_bound))`` (0 and 5).  Backward: dy strictly between the bounds, else 0.

    NaN stays NaN.
    """

    type = "Truncation"
    capturable = True
    by_image = True
    param = "truncation_param"
    per_element = 2
    lower_bound: float
    upper_bound: float

    def check_options(self) -> None:
        self.require(
            self.lower_bound < self.upper_bound,
            f"must be greater than lower_bound, which is {self.lower_bound:g}; found {self.upper_bound:g}",
            "upper_bound",
        )

    def options(self) -> tuple[float, ...]:
        return self.lower_bound, self.upper_bound

    @staticmethod
    def value(x: float, low: float, high: float) -> float:
        return low if x < low else high if x > high else x

    @staticmethod
    def gradient(y: float, dy: float, low: float, high: float) -> float:
        return dy if low < y < high else 0.0


class SoftTruncation(Neuron):
    """``1 - exp(-x / c)``, c from ``soft_truncation_param`` (2): near ``x / c`` for small x, never above 1."""

    type = "SoftTruncation"
    capturable = True
    by_image = True
    param = "soft_truncation_param"
    per_element = 3
    c: float

    def check_options(self) -> None:
        self.require(self.c != 0, "must not be 0", "c")

    def options(self) -> tuple[float, ...]:
        return (self.c,)

    @staticmethod
    def value(x: float, c: float) -> float:
        return 1.0 - exp(-x / c)

    @staticmethod
    def gradient(y: float, dy: float, c: float) -> float:
        return dy * (1.0 - y) / c


class Arccos(Neuron):
    """The angle whose cosine is x, in radians; NaN outside [-1, 1].

    happynear: backward divides by ``sqrt(1 - x^2)`` with x at most 0.99, so that it stays finite at 1.
    """

    type = "Arccos"
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.xp.arccos(bottom[0].xdata, out=top[0].xdata)

    @staticmethod
    def gradient(x: float, dy: float) -> float:
        return -dy / sqrt(1.0 - min(x, 0.99) ** 2)


class Cosine(Neuron):
    """``cos(x)``, x in radians.  Backward: ``-sin(x) dy``.

    happynear: its backward gives ``sin(x) dy``.
    """

    type = "Cosine"
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.xp.cos(bottom[0].xdata, out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].xdiff
            self.xp.sin(bottom[0].xdata, out=dx)
            self.ops.elementwise(Cosine.gradient, (dx, top[0].xdiff), (), dx)

    @staticmethod
    def gradient(sine: float, dy: float) -> float:
        return -sine * dy
