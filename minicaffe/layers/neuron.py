"""Neurons: layers that apply one formula to every element.

A neuron is a scalar formula and its derivative, each written once as a Python function of one returned expression; the
backend compiles it for the CPU or the GPU (``ops.elementwise``).
"""

from __future__ import annotations

from collections.abc import Callable
from math import tanh

from minicaffe.layers.base import TRAIN, Layer


class Neuron(Layer):
    """Base: ``value(x, *options)`` and ``slope``, the factor by which backward multiplies dy.

    ``slope`` is a function of y if ``slope_of`` is "top" (so the layer can run in place), of x if it is "bottom".
    Bottom and top: one shape.
    """

    in_place = "always"
    value: Callable[..., float]
    gradient: Callable[..., float]
    gradient_from = "top"

    def options(self) -> tuple[float, ...]:
        """The formula's constants."""
        return ()

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        self.ops.elementwise(type(self).value, (bottom[0].xdata,), self.options(), top[0].xdata)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            seen = top[0] if self.gradient_from == "top" else bottom[0]
            self.ops.elementwise(type(self).gradient, (seen.xdata, top[0].xdiff), self.options(), bottom[0].xdiff)


class ReLU(Neuron):
    """Rectified linear unit: ``max(x, 0) + negative_slope * min(x, 0)`` (Nair and Hinton 2010; leaky: Maas et al. 2013).

    Caffe: the slope at exactly 0 is ``negative_slope``.  Backward reads y, whose sign is that of x while
    ``negative_slope`` is not negative.
    """

    type = "ReLU"
    param = "relu_param"
    negative_slope: float

    def options(self):
        return (self.negative_slope,)

    @staticmethod
    def value(x, a):
        return max(x, 0.0) + a * min(x, 0.0)

    @staticmethod
    def gradient(y, dy, a):
        return dy * (1.0 if y > 0 else a)


class Sigmoid(Neuron):
    """``1 / (1 + exp(-x))``, computed as ``0.5 tanh(0.5 x) + 0.5``, which cannot overflow."""

    type = "Sigmoid"
    param = "sigmoid_param"

    @staticmethod
    def value(x):
        return 0.5 * tanh(0.5 * x) + 0.5

    @staticmethod
    def gradient(y, dy):
        return dy * y * (1.0 - y)


class TanH(Neuron):
    """Hyperbolic tangent."""

    type = "TanH"
    param = "tanh_param"

    @staticmethod
    def value(x):
        return tanh(x)

    @staticmethod
    def gradient(y, dy):
        return dy * (1.0 - y * y)


class Dropout(Layer):
    """Zero a random share of the input while training (Srivastava et al. 2014), and scale the rest to keep its mean.

    Bottom and top: one shape.  TRAIN: ``y = x * m / (1 - r)``, m drawn anew for each element at each forward, 0 with probability
    r = ``dropout_ratio``.  TEST: y = x.
    """

    type = "Dropout"
    param = "dropout_param"
    in_place = "always"
    dropout_ratio: float

    def setup(self, bottom, top):
        self.require(0 <= self.dropout_ratio < 1, f"must lie in [0, 1); found {self.dropout_ratio:g}", "dropout_ratio")

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])
        if self.phase == TRAIN:
            self.mask = self.scratch("mask", bottom[0].shape)

    def forward(self, bottom, top):
        if self.phase == TRAIN:
            keep = 1 - self.dropout_ratio
            self.random.bernoulli(self.mask, keep)
            self.mask *= 1 / keep
            self.xp.multiply(bottom[0].xdata, self.mask, out=top[0].xdata)
        elif top[0] is not bottom[0]:
            top[0].xdata[...] = bottom[0].xdata

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        if self.phase == TRAIN:
            self.xp.multiply(top[0].xdiff, self.mask, out=bottom[0].xdiff)
        elif top[0] is not bottom[0]:
            bottom[0].xdiff[...] = top[0].xdiff
