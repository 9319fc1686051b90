"""Batch normalisation, scaling and rectification of channels: two sums down each in one pass, then formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, stored


def _same(x):
    return x


def _standard(x, mean, factor, slope):
    return (x - mean) * factor * (1.0 if (x - mean) * factor > 0 else slope)


def _standard_scaled(x, mean, factor, v, b, slope):
    return ((x - mean) * factor * v + b) * (1.0 if (x - mean) * factor * v + b > 0 else slope)


def _standard_gradient(x, dy, y, mean, factor, dy_mean, dot_mean, slope):
    return (dy * (1.0 if y > 0 else slope) - dy_mean - (x - mean) * factor * dot_mean) * factor


def _standard_scaled_gradient(x, dy, y, mean, factor, dy_mean, dot_mean, v, slope):
    return (dy * (1.0 if y > 0 else slope) - dy_mean - (x - mean) * factor * dot_mean) * factor * v


def _times(x, v):
    return x * v


def _scaled(x, v, slope):
    return x * v * (1.0 if x * v > 0 else slope)


def _scaled_and_shifted(x, v, b, slope):
    return (x * v + b) * (1.0 if x * v + b > 0 else slope)


def _centred_and_scaled(x, centre, v, b, slope):
    return ((x - centre) * v + b) * (1.0 if (x - centre) * v + b > 0 else slope)


class BatchNormOps:
    """The functions of ``kernels/reference/batch_norm.py``."""

    launch: Launcher
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
        if kept is not None:
            self.elementwise(_same, (x,), (), kept)
        norm, (n, c, inner) = stored("batch_norm", x, x, x), x.shape
        sums = self.launch.partial_sums(norm, "moments_partials", c, n * inner, x, inner, contiguous=inner > 1, each=2)
        results = mean, variance, factor
        self.launch.reduction(norm, "moments", *sums, x, inner, float(n * inner), float(eps), *results)
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
        y, slope = (x, 1.0) if y is None else (y, slope)
        norm, (n, c, inner) = stored("batch_norm", x, dy, y), x.shape
        args = x, dy, y, mean, factor, float(slope), inner
        sums = self.launch.partial_sums(
            norm, "standard_grad_partials", c, n * inner, *args, contiguous=inner > 1, each=2
        )
        learned = [(total is not None, dy_mean if total is None else total) for total in (dv, db)]
        means = float(n * inner), dy_mean, dot_mean, *learned[0], *learned[1]
        self.launch.reduction(norm, "standard_grad_means", *sums, *means)
        statistics = mean, factor, dy_mean, dot_mean
        if v is None:
            self.channelwise(_standard_gradient, (x, dy, y), statistics, (slope,), dx)
        else:
            self.channelwise(_standard_scaled_gradient, (x, dy, y), (*statistics, v), (slope,), dx)

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
            self.elementwise(_same, (x,), (), kept)
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
