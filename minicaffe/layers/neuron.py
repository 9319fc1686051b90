"""Neurons: layers that apply one formula to every element.

A neuron is a scalar formula and its derivative, each written once as a Python function of one returned expression; the
backend compiles it for the CPU or the GPU (``ops.elementwise``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, tanh

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TRAIN, Layer, same


class Neuron(Layer):
    """Base: ``value(x, *options)``, and ``gradient(…, dy, *options)``, which gives dx.

    Before dy, ``gradient`` takes x if ``reads_bottoms`` names it, and y if ``reads_tops`` does: y alone, unless the
    class says otherwise, so that the layer can run in place.  Bottom and top: one shape.
    """

    in_place = "always"
    reads_bottoms: Sequence[int] = ()
    reads_tops: Sequence[int] = (0,)
    value: Callable[..., float]
    gradient: Callable[..., float]

    def options(self) -> tuple[float, ...]:
        """The formula's constants."""
        return ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])

    def _permit_in_place(self, permitted: bool) -> None:
        """In ``reshape``: say whether backward can do without the input.  Only a change is set, as it ends captures."""
        in_place = "always" if permitted else "forward"
        if self.in_place != in_place:
            self.in_place = in_place

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.elementwise(type(self).value, (bottom[0].xdata,), self.options(), top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            read = (*(bottom[k].xdata for k in self.reads_bottoms), *(top[k].xdata for k in self.reads_tops))
            self.ops.elementwise(type(self).gradient, (*read, top[0].xdiff), self.options(), bottom[0].xdiff)


class ReLU(Neuron):
    """Rectified linear unit: ``max(x, 0) + negative_slope * min(x, 0)`` (Nair, Hinton 2010; leaky: Maas et al. 2013).

    Caffe: the slope at exactly 0 is ``negative_slope``.  In place, backward takes the sign of x from y; that needs a
    ``negative_slope`` that is not negative.
    """

    type = "ReLU"
    capturable = True
    by_image = True
    takes_halves = True
    param = "relu_param"
    reads_bottoms, reads_tops = (0,), ()
    reads_sign = True
    leaves = "sign"
    negative_slope: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self._permit_in_place(self.negative_slope >= 0)

    def options(self) -> tuple[float, ...]:
        return (self.negative_slope,)

    @staticmethod
    def value(x: float, a: float) -> float:
        return max(x, 0.0) + a * min(x, 0.0)

    @staticmethod
    def gradient(x: float, dy: float, a: float) -> float:
        return dy * (1.0 if x > 0 else a)


class Sigmoid(Neuron):
    """``1 / (1 + exp(-x))``, computed as ``0.5 tanh(0.5 x) + 0.5``, which cannot overflow."""

    type = "Sigmoid"
    capturable = True
    by_image = True
    takes_halves = True
    param = "sigmoid_param"
    per_element = 4

    @staticmethod
    def value(x: float) -> float:
        return 0.5 * tanh(0.5 * x) + 0.5

    @staticmethod
    def gradient(y: float, dy: float) -> float:
        return dy * y * (1.0 - y)


class TanH(Neuron):
    """The hyperbolic tangent, ``tanh(x)``."""

    type = "TanH"
    capturable = True
    by_image = True
    takes_halves = True
    param = "tanh_param"

    @staticmethod
    def value(x: float) -> float:
        return tanh(x)

    @staticmethod
    def gradient(y: float, dy: float) -> float:
        return dy * (1.0 - y * y)


class ELU(Neuron):
    """Exponential linear unit: x if ``x > 0``, else ``alpha (exp(x) - 1)`` (Clevert, Unterthiner, Hochreiter 2016)."""

    type = "ELU"
    capturable = True
    by_image = True
    takes_halves = True
    param = "elu_param"
    per_element = 3
    reads_bottoms = (0,)
    alpha: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self._permit_in_place(self.alpha >= 0)

    def options(self) -> tuple[float, ...]:
        return (self.alpha,)

    @staticmethod
    def value(x: float, alpha: float) -> float:
        return x if x > 0 else alpha * (exp(x) - 1.0)

    @staticmethod
    def gradient(x: float, y: float, dy: float, alpha: float) -> float:
        return dy if x > 0 else dy * (y + alpha)


class BNLL(Neuron):
    """Binomial normal log likelihood: ``log(1 + exp(x))``, computed so that nothing overflows."""

    type = "BNLL"
    capturable = True
    by_image = True
    per_element = 4
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()

    @staticmethod
    def value(x: float) -> float:
        return x + log(1.0 + exp(-x)) if x > 0 else log(1.0 + exp(x))

    @staticmethod
    def gradient(x: float, dy: float) -> float:
        return dy * exp(min(x, 50.0)) / (exp(min(x, 50.0)) + 1.0)


class AbsVal(Neuron):
    """``|x|``.  Backward: ``dy sign(x)``, 0 at 0."""

    type = "AbsVal"
    capturable = True
    by_image = True
    in_place = "never"
    reads_bottoms, reads_tops = (0,), ()

    @staticmethod
    def value(x: float) -> float:
        return abs(x)

    @staticmethod
    def gradient(x: float, dy: float) -> float:
        return dy if x > 0 else -dy if x < 0 else 0.0


class Clip(Neuron):
    """``max(min, min(x, max))``.  Backward: dy where x lies between the bounds, both included, else 0.

    NaN stays NaN.  Caffe: it is not checked that ``min <= max``; NaN gives ``min``.
    """

    type = "Clip"
    capturable = True
    by_image = True
    param = "clip_param"
    per_element = 2
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()
    min: float
    max: float

    def check_options(self) -> None:
        for field in ("min", "max"):
            self.require(self.has(field), "must be given", field)

    def options(self) -> tuple[float, ...]:
        return self.min, self.max

    @staticmethod
    def value(x: float, low: float, high: float) -> float:
        return low if (high if x > high else x) < low else high if x > high else x

    @staticmethod
    def gradient(x: float, dy: float, low: float, high: float) -> float:
        return dy if low <= x <= high else 0.0


class Threshold(Neuron):
    """1 where x is greater than ``threshold`` (0), else 0; NaN stays NaN.  It cannot go backward.

    Caffe: NaN gives 0.
    """

    type = "Threshold"
    capturable = True
    by_image = True
    param = "threshold_param"
    in_place = "forward"
    differentiable = ()
    reads_tops = ()
    threshold: float

    def options(self) -> tuple[float, ...]:
        return (self.threshold,)

    @staticmethod
    def value(x: float, threshold: float) -> float:
        return 1.0 if x > threshold else 0.0 if x <= threshold else x


class Swish(Neuron):
    """``x sigmoid(beta x)`` (Ramachandran, Zoph, Le 2017)."""

    type = "Swish"
    capturable_on_device = True
    param = "swish_param"
    per_element = 6
    beta: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.sigmoid = self.scratch("sigmoid", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.elementwise(Swish.squash, (bottom[0].xdata,), (self.beta,), self.sigmoid)
        self.xp.multiply(bottom[0].xdata, self.sigmoid, out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.ops.elementwise(
                Swish.gradient, (top[0].xdata, self.sigmoid, top[0].xdiff), (self.beta,), bottom[0].xdiff
            )

    @staticmethod
    def squash(x: float, beta: float) -> float:
        return 0.5 * tanh(0.5 * beta * x) + 0.5

    @staticmethod
    def gradient(y: float, sigmoid: float, dy: float, beta: float) -> float:
        return dy * (beta * y + sigmoid * (1.0 - beta * y))


class PReLU(Layer):
    """Parametric rectified linear unit: ``max(x, 0) + a_c min(x, 0)``, a learned (He et al. 2015).

    Bottom and top: (N, C, …).  Param: a (C,), a scalar if ``channel_shared``; 0.25 unless there is a ``filler``.
    In place, a copy of x is kept.
    """

    type = "PReLU"
    capturable_on_device = True
    param = "prelu_param"
    per_element = 4
    in_place = "always"
    reads_tops = ()
    fixed = ("channel_shared",)
    channel_shared: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            len(bottom[0].shape) >= 2,
            f"the input must have at least 2 axes; found {bottom[0].shape_string}",
            kind=ShapeError,
        )
        self.channels = bottom[0].shape[1]
        self.reads_bottoms = () if top[0] is bottom[0] else (0,)
        filler = self.layer_param.prelu_param.filler if self.has("filler") else proto.FillerParameter(value=0.25)
        self.add_param(() if self.channel_shared else (self.channels,), filler)
        expected = 1 if self.channel_shared else self.channels
        found = [blob.shape for blob in self.blobs]
        self.require(
            [blob.count for blob in self.blobs] == [expected],
            f"the given blob must hold {expected} slopes; found {found}",
            "blobs",
            ShapeError,
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            x.shape[1:2] == (self.channels,),
            f"the input must keep {self.channels} channels; found {x.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.rows = (1, 1, x.count) if self.channel_shared else (x.shape[0], self.channels, x.span(2))
        self.kept = self.input_copy(bottom, top, x.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].xdata
        if self.kept is not None:
            self.kept[...] = x
        a = self.blobs[0].xdata.reshape(-1)
        self.ops.channelwise(PReLU.value, (x.reshape(self.rows),), (a,), (), top[0].xdata.reshape(self.rows))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x = (bottom[0].xdata if self.kept is None else self.kept).reshape(self.rows)
        a, dy = self.blobs[0], top[0].xdiff.reshape(self.rows)
        if self.param_propagate_down[0]:
            self.ops.channel_sum(PReLU.slope_gradient, (x, dy), (), (), a.xdiff.reshape(-1))
        if propagate_down[0]:
            self.ops.channelwise(
                PReLU.gradient, (x, dy), (a.xdata.reshape(-1),), (), bottom[0].xdiff.reshape(self.rows)
            )

    @staticmethod
    def value(x: float, a: float) -> float:
        return max(x, 0.0) + a * min(x, 0.0)

    @staticmethod
    def gradient(x: float, dy: float, a: float) -> float:
        return dy * (1.0 if x > 0 else a)

    @staticmethod
    def slope_gradient(x: float, dy: float) -> float:
        return 0.0 if x > 0 else x * dy


class Dropout(Layer):
    """Zero a random share of the input while training (Srivastava et al. 2014), and scale the rest to keep its mean.

    Bottom and top: one shape.  TRAIN: ``y = x * m / (1 - r)``, m drawn anew for each element at each forward, 0 with
    probability r = ``dropout_ratio``.  TEST: y = x, unless it is as in TRAIN by ``sample_weights_test`` (SegNet).  With
    ``scale_train: false`` (ParseNet, Faster R-CNN) nothing is scaled in TRAIN, and y = (1 - r) x in TEST.
    """

    type = "Dropout"
    param = "dropout_param"
    obeys = ("sample_weights_test", "scale_train")
    capturable = True
    takes_halves = True
    in_place = "always"
    reads_bottoms = reads_tops = ()
    dropout_ratio: float
    sample_weights_test: bool
    scale_train: bool

    def check_options(self) -> None:
        self.require(0 <= self.dropout_ratio < 1, f"must lie in [0, 1); found {self.dropout_ratio:g}", "dropout_ratio")

    @property
    def drops(self) -> bool:
        """Whether anything is zeroed."""
        return self.phase == TRAIN or self.sample_weights_test

    @property
    def factor(self) -> float:
        """What all that is not zeroed is multiplied by."""
        if self.drops:
            return 1 / (1 - self.dropout_ratio) if self.scale_train else 1.0
        return 1.0 if self.scale_train else 1 - self.dropout_ratio

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return (2.0 if self.drops else float(self.factor != 1)) * top[0].count

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])
        self.leaves = "all" if self.factor == 1 and not self.drops else "sign"
        if self.drops:
            self.mask = self.scratch("mask", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if self.drops:
            self.random.bernoulli(self.mask, 1 - self.dropout_ratio)
            self.ops.elementwise(Dropout.kept, (x, self.mask), (self.factor,), y)
        elif self.factor != 1:
            self.ops.elementwise(Dropout.scaled, (x,), (self.factor,), y)
        elif top[0] is not bottom[0]:
            self.ops.elementwise(same, (x,), (), y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dx, dy = bottom[0].xdiff, top[0].xdiff
        if self.drops:
            self.ops.elementwise(Dropout.kept, (dy, self.mask), (self.factor,), dx)
        elif self.factor != 1:
            self.ops.elementwise(Dropout.scaled, (dy,), (self.factor,), dx)
        elif top[0] is not bottom[0]:
            self.ops.elementwise(same, (dy,), (), dx)

    @staticmethod
    def scaled(x: float, scale: float) -> float:
        return x * scale

    @staticmethod
    def kept(x: float, mask: float, scale: float) -> float:
        return x * (mask * scale)
