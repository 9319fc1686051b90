"""Neurons made of a power, an exponential or a logarithm of a linear function: Power, Exp, Log."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log

import numpy as np

from minicaffe.blob import Blob
from minicaffe.layers.base import Layer
from minicaffe.layers.neuron import Neuron


class Power(Layer):
    """``(shift + scale x)^power``.  Bottom and top: one shape.

    Caffe: backward computes ``power y / x`` or ``power scale y / (shift + scale x)``, which is NaN where the base is 0,
    unless ``power`` is 0, 1 or 2.  With ``power scale == 0`` the input is not read.
    """

    type = "Power"
    capturable = True
    by_image = True
    param = "power_param"
    in_place = "forward"
    per_element = 3
    power: float
    scale: float
    shift: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])
        self.factor = self.power * self.scale
        linear = self.power == 1 or self.factor == 0
        self.in_place = "always" if linear else "forward"
        self.reads_bottoms = () if linear else (0,)
        self.reads_tops = () if linear or self.power == 2 else (0,)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.factor == 0:
            self.ops.elementwise(Power.level, (bottom[0].xdata,), (self.constant(),), top[0].xdata)
        else:
            formula = Power.linear if self.power == 1 else Power.general
            self.ops.elementwise(formula, (bottom[0].xdata,), (self.power, self.scale, self.shift), top[0].xdata)

    def constant(self) -> float:
        """What all of the top is with ``power scale == 0``."""
        with np.errstate(all="ignore"):
            return float(np.float64(self.shift) ** self.power)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, y, dy, dx = bottom[0].xdata, top[0].xdata, top[0].xdiff, bottom[0].xdiff
        if self.factor == 0:
            self.ops.elementwise(Power.level, (dy,), (0.0,), dx)
        elif self.power == 1:
            self.ops.elementwise(Power.scaled, (dy,), (self.factor,), dx)
        elif self.power == 2:
            self.ops.elementwise(Power.square_gradient, (x, dy), (self.factor, self.scale, self.shift), dx)
        elif self.shift == 0:
            self.ops.elementwise(Power.ratio_gradient, (x, y, dy), (self.power,), dx)
        else:
            self.ops.elementwise(Power.gradient, (x, y, dy), (self.factor, self.scale, self.shift), dx)

    @staticmethod
    def level(x: float, value: float) -> float:
        return value

    @staticmethod
    def scaled(x: float, factor: float) -> float:
        return factor * x

    @staticmethod
    def linear(x: float, power: float, scale: float, shift: float) -> float:
        return shift + scale * x

    @staticmethod
    def general(x: float, power: float, scale: float, shift: float) -> float:
        return (shift + scale * x) ** power

    @staticmethod
    def square_gradient(x: float, dy: float, factor: float, scale: float, shift: float) -> float:
        return dy * factor * (scale * x + shift)

    @staticmethod
    def ratio_gradient(x: float, y: float, dy: float, power: float) -> float:
        return dy * power * (y / x)

    @staticmethod
    def gradient(x: float, y: float, dy: float, factor: float, scale: float, shift: float) -> float:
        return dy * factor * (y / (shift + scale * x))


class Logarithmic(Neuron):
    """Base of Exp and Log: ``base``, of which -1 (the default) means e, ``scale`` and ``shift``."""

    base: float
    per_element = 3
    scale: float
    shift: float

    def check_options(self) -> None:
        self.require(
            self.base == -1 or 0 < self.base < inf, f"must be positive, or -1 for e; found {self.base:g}", "base"
        )

    @property
    def log_base(self) -> float:
        """The base's natural logarithm."""
        return 1.0 if self.base == -1 else log(self.base)


class Exp(Logarithmic):
    """``base^(shift + scale x)``."""

    type = "Exp"
    capturable_on_device = True
    param = "exp_param"

    def options(self) -> tuple[float, ...]:
        with np.errstate(over="ignore"):
            return self.log_base * self.scale, float(np.exp(self.log_base * self.shift))

    @staticmethod
    def value(x: float, inner: float, outer: float) -> float:
        return outer * exp(inner * x)

    @staticmethod
    def gradient(y: float, dy: float, inner: float, outer: float) -> float:
        return dy * y * inner


class Log(Logarithmic):
    """``log(shift + scale x)`` to ``base``, which is not 1.  Nothing guards against arguments that are not positive."""

    type = "Log"
    capturable_on_device = True
    param = "log_param"
    in_place = "forward"
    reads_bottoms, reads_tops = (0,), ()

    def check_options(self) -> None:
        super().check_options()
        self.require(self.log_base != 0, "must not be 1, to which there is no logarithm", "base")

    def options(self) -> tuple[float, ...]:
        return self.scale, self.shift, 1 / self.log_base

    @staticmethod
    def value(x: float, scale: float, shift: float, factor: float) -> float:
        return log(scale * x + shift) * factor

    @staticmethod
    def gradient(x: float, dy: float, scale: float, shift: float, factor: float) -> float:
        return dy * scale * factor / (scale * x + shift)
