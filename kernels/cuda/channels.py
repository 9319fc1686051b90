"""Formulas over channels on a GPU, and what is made of them: standardising and scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, formula
from minicaffe.kernels.cuda.translate import translate


def _same(x, weight):
    return x * weight


def _square(x, mean, weight):
    return (x - mean) * (x - mean) * weight


def _product(x, dy, mean, factor, weight):
    return dy * (x - mean) * factor * weight


def _inverse_deviation(variance, eps):
    return 1.0 / sqrt(variance + eps)


def _standard(x, mean, factor):
    return (x - mean) * factor


def _standard_gradient(x, dy, mean, factor, dy_mean, dot_mean):
    return (dy - dy_mean - (x - mean) * factor * dot_mean) * factor


def _scaled(x, v):
    return x * v


def _scaled_and_shifted(x, v, b):
    return x * v + b


class ChannelOps:
    """The functions of ``kernels/reference_layers.py`` over channels; part of ``CudaOps``."""

    launch: Launcher
    elementwise: Callable[..., None]
    bias_grad: Callable[..., None]
    _add_sums: Callable[..., None]

    def channelwise(
        self,
        function: Callable[..., float],
        arrays: Sequence[Any],
        vectors: Sequence[Any],
        scalars: Sequence[float],
        out: Any,
    ) -> None:
        """See ``kernels.reference.channelwise``; ``function`` is computed in the dtype of ``out``."""
        n, c, inner = out.shape
        source, values = formula("channelwise", translate(function), out.dtype, len(arrays), len(vectors), scalars)
        self.launch.planes(source, "channelwise", n * c, inner, out, c, *arrays, *vectors, *values)

    def channel_sum(
        self,
        function: Callable[..., float],
        arrays: Sequence[Any],
        vectors: Sequence[Any],
        scalars: Sequence[float],
        out: Any,
    ) -> None:
        """See ``kernels.reference.channel_sum``; ``function`` is computed in the dtype of ``out``."""
        n, c, inner = arrays[0].shape
        source, values = formula("channelwise", translate(function), out.dtype, len(arrays), len(vectors), scalars)
        args = (inner, *arrays, *vectors, *values)
        self._add_sums(source, "channel_sum_partials", c, n * inner, args, out, contiguous=inner > 1)

    def standardize(self, x: Any, eps: float, mean: Any, variance: Any, factor: Any, y: Any, kept: Any | None) -> None:
        """See ``kernels.reference.standardize``."""
        weight = mean.size / max(x.size, 1)
        if kept is not None:
            kept[...] = x
        mean.fill(0)
        self.channel_sum(_same, (x,), (), (weight,), mean)
        variance.fill(0)
        self.channel_sum(_square, (x,), (mean,), (weight,), variance)
        self.elementwise(_inverse_deviation, (variance,), (eps,), factor)
        self.channelwise(_standard, (x,), (mean, factor), (), y)

    def standardize_grad(self, x: Any, dy: Any, mean: Any, factor: Any, dy_mean: Any, dot_mean: Any, dx: Any) -> None:
        """See ``kernels.reference.standardize_grad``."""
        weight = mean.size / max(x.size, 1)
        dy_mean.fill(0)
        self.channel_sum(_same, (dy,), (), (weight,), dy_mean)
        dot_mean.fill(0)
        self.channel_sum(_product, (x, dy), (mean, factor), (weight,), dot_mean)
        self.channelwise(_standard_gradient, (x, dy), (mean, factor, dy_mean, dot_mean), (), dx)

    def scale(self, x: Any, v: Any, b: Any | None, y: Any, kept: Any | None) -> None:
        """See ``kernels.reference.scale``."""
        if kept is not None:
            kept[...] = x
        function, vectors = (_scaled, (v,)) if b is None else (_scaled_and_shifted, (v, b))
        self.channelwise(function, (x,), vectors, (), y)

    def scale_grad(self, x: Any, dy: Any, v: Any, dx: Any | None, dv: Any | None, db: Any | None) -> None:
        """See ``kernels.reference.scale_grad``."""
        if dv is not None:
            self.channel_sum(_scaled, (x, dy), (), (), dv)
        if db is not None:
            self.bias_grad(dy, db)
        if dx is not None:
            self.channelwise(_scaled, (dy,), (v,), (), dx)
