"""Layers that reduce many values to few: Reduction, ArgMax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from minicaffe.blob import Blob
from minicaffe.layers.base import Layer


def _sum(x: float, coeff: float) -> float:
    return x * coeff


def _sum_slope(x: float, dy: float, coeff: float) -> float:
    return dy * coeff


def _abs(x: float, coeff: float) -> float:
    return abs(x) * coeff


def _abs_slope(x: float, dy: float, coeff: float) -> float:
    return dy * (coeff if x > 0 else -coeff if x < 0 else 0.0)


def _square(x: float, coeff: float) -> float:
    return x * x * coeff


def _square_slope(x: float, dy: float, coeff: float) -> float:
    return 2 * coeff * dy * x


class Reduction(Layer):
    """Sum up everything from ``axis`` (0) on: ``y = coeff * sum f(x)``.

    ``operation``: SUM (f is x), ASUM (|x|), SUMSQ (x^2), MEAN (x, and the sum is divided by the number of its terms).
    Bottom: any shape.  Top: the axes before ``axis``, a scalar if there are none.
    """

    type = "Reduction"
    param = "reduction_param"
    reads_tops = ()
    per_element = 2
    operation: int
    axis: int
    coeff: float

    SUM, ASUM, SUMSQ, MEAN = range(1, 5)
    FORMULAS: dict[int, tuple[Callable[..., float], Callable[..., float]]] = {
        SUM: (_sum, _sum_slope),
        ASUM: (_abs, _abs_slope),
        SUMSQ: (_square, _square_slope),
        MEAN: (_sum, _sum_slope),
    }

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.reads_bottoms = (0,) if self.operation in (self.ASUM, self.SUMSQ) else ()
        axis = self.axis_of(x, self.axis)
        top[0].reshape(*x.shape[:axis])
        self.rows = (1, x.span(0, axis), x.span(axis))
        self.scalars = (self.coeff / max(self.rows[2], 1) if self.operation == self.MEAN else self.coeff,)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y = top[0].xdata.reshape(-1)
        y.fill(0)
        self.ops.channel_sum(
            self.FORMULAS[self.operation][0], (bottom[0].xdata.reshape(self.rows),), (), self.scalars, y
        )

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x, dx = bottom[0].xdata.reshape(self.rows), bottom[0].xdiff.reshape(self.rows)
            self.ops.channelwise(self.FORMULAS[self.operation][1], (x,), (top[0].xdiff.reshape(-1),), self.scalars, dx)


class ArgMax(Layer):
    """The places of the ``top_k`` (1) largest values, largest first.

    Bottom: any shape.  With ``axis``: maxima along it; top as the bottom, with ``top_k`` places, or values if
    ``out_max_val``, along that axis.  Without: maxima over all of an item; top (N, 1, top_k) of places, or (N, 2,
    top_k) of places and values, and as many axes as the bottom, at least 3.
    NaN counts as the largest.  Caffe: of equal values the last one comes first; computed on the host; cannot go
    backward.
    """

    type = "ArgMax"
    param = "argmax_param"
    reads_bottoms = reads_tops = ()
    differentiable = ()
    out_max_val: bool
    top_k: int
    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.along = self.axis_of(bottom[0], self.axis) if self.has("axis") else None
        choices = bottom[0].span(1) if self.along is None else bottom[0].shape[self.along]
        self.require(
            1 <= self.top_k <= choices,
            f"must lie in 1 .. {choices}, the number of values to choose from; found {self.top_k}",
            "top_k",
        )
        shape = list(bottom[0].shape)
        if self.along is None:
            self.rows = (shape[0], math.prod(shape[1:]), 1)
            shape = [shape[0], 1 + self.out_max_val, self.top_k] + [1] * (len(shape) - 3)
        else:
            self.rows = (bottom[0].span(0, self.along), shape[self.along], bottom[0].span(self.along + 1))
            shape[self.along] = self.top_k
        top[0].reshape(*shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].peek_data().reshape(self.rows)
        place = np.argsort(x, axis=1, kind="stable")[:, ::-1][:, : self.top_k]
        parts = [place] if self.along is None or not self.out_max_val else []
        if self.out_max_val:
            parts.append(np.take_along_axis(x, place, axis=1))
        top[0].data[...] = np.concatenate(parts, axis=1).reshape(top[0].shape)
