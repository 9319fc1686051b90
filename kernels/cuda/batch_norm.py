"""Batch normalisation, scaling and rectification of channels, as formulas over channels."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any


def _same(x, weight):
    return x * weight


def _square(x, mean, weight):
    return (x - mean) * (x - mean) * weight


def _inverse_deviation(variance, eps):
    return 1.0 / sqrt(variance + eps)


def _standard(x, mean, factor, slope):
    return (x - mean) * factor * (1.0 if (x - mean) * factor > 0 else slope)


def _standard_scaled(x, mean, factor, v, b, slope):
    return ((x - mean) * factor * v + b) * (1.0 if (x - mean) * factor * v + b > 0 else slope)


def _rectifier_grad(dy, y, slope, weight):
    return dy * (1.0 if y > 0 else slope) * weight


def _rectifier_grad_times_z(x, dy, y, mean, factor, slope, weight):
    return dy * (1.0 if y > 0 else slope) * (x - mean) * factor * weight


def _standard_gradient(x, dy, y, mean, factor, dy_mean, dot_mean, slope):
    return (dy * (1.0 if y > 0 else slope) - dy_mean - (x - mean) * factor * dot_mean) * factor


def _times(x, v):
    return x * v


def _scaled(x, v, slope):
    return x * v * (1.0 if x * v > 0 else slope)


def _scaled_and_shifted(x, v, b, slope):
    return (x * v + b) * (1.0 if x * v + b > 0 else slope)


def _centred_and_scaled(x, centre, v, b, slope):
    return ((x - centre) * v + b) * (1.0 if (x - centre) * v + b > 0 else slope)


def _increased(total, mean, count):
    return total + mean * count


class BatchNormOps:
    """The functions of ``kernels/reference/batch_norm.py``."""

    elementwise: Callable[..., None]
    channelwise: Callable[..., None]
    channel_sum: Callable[..., None]
    bias_grad: Callable[[Any, Any], None]

    def standardize(
        self,
        x: Any,
        eps: float,
        mean: Any,
        variance: Any,
        factor: Any,
        y: Any,
        kept: Any | None,
        v: Any | None = None,
        b: Any | None = None,
        slope: float = 1.0,
    ) -> None:
        """See ``kernels.reference.standardize``."""
        weight = mean.size / max(x.size, 1)
        if kept is not None:
            kept[...] = x
        mean.fill(0)
        self.channel_sum(_same, (x,), (), (weight,), mean)
        variance.fill(0)
        self.channel_sum(_square, (x,), (mean,), (weight,), variance)
        self.elementwise(_inverse_deviation, (variance,), (eps,), factor)
        if v is None:
            self.channelwise(_standard, (x,), (mean, factor), (slope,), y)
        else:
            self.channelwise(_standard_scaled, (x,), (mean, factor, v, b), (slope,), y)

    def standardize_grad(
        self,
        x: Any,
        dy: Any,
        mean: Any,
        factor: Any,
        dy_mean: Any,
        dot_mean: Any,
        dx: Any,
        y: Any | None = None,
        v: Any | None = None,
        dv: Any | None = None,
        db: Any | None = None,
        slope: float = 1.0,
    ) -> None:
        """See ``kernels.reference.standardize_grad``."""
        count = x.size // max(mean.size, 1)
        weight = 1 / max(count, 1)
        y, slope = (x, 1.0) if y is None else (y, slope)
        dy_mean.fill(0)
        self.channel_sum(_rectifier_grad, (dy, y), (), (slope, weight), dy_mean)
        dot_mean.fill(0)
        self.channel_sum(_rectifier_grad_times_z, (x, dy, y), (mean, factor), (slope, weight), dot_mean)
        self.channelwise(_standard_gradient, (x, dy, y), (mean, factor, dy_mean, dot_mean), (slope,), dx)
        if v is not None:
            self.channelwise(_times, (dx,), (v,), (), dx)
            for total, average in ((dv, dot_mean), (db, dy_mean)):
                if total is not None:
                    self.elementwise(_increased, (total, average), (count,), total)

    def scale(
        self,
        x: Any,
        v: Any,
        b: Any | None,
        y: Any,
        kept: Any | None,
        centre: Any | None = None,
        slope: float = 1.0,
    ) -> None:
        """See ``kernels.reference.scale``."""
        if kept is not None:
            kept[...] = x
        if b is None:
            self.channelwise(_scaled, (x,), (v,), (slope,), y)
        elif centre is None:
            self.channelwise(_scaled_and_shifted, (x,), (v, b), (slope,), y)
        else:
            self.channelwise(_centred_and_scaled, (x,), (centre, v, b), (slope,), y)

    def scale_grad(self, x: Any, dy: Any, v: Any, dx: Any | None, dv: Any | None, db: Any | None) -> None:
        """See ``kernels.reference.scale_grad``."""
        if dv is not None:
            self.channel_sum(_times, (x, dy), (), (), dv)
        if db is not None:
            self.bias_grad(dy, db)
        if dx is not None:
            self.channelwise(_times, (dy,), (v,), (), dx)
