"""The steps of the solvers.

An op of a device takes two of its numbers from memory, too, where they may change from one replay to the next.  In the
place of the rate it then gets a float64 table, shape (ranges, 3), of the ranges that follow each other in the arrays:
where each ends, its rate, and what its ``decay`` is multiplied by.  In the place of ``scale`` it gets what
``gradient_scale`` left there; if that is NaN, nothing is stepped, and g becomes 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def _ranges(step: Callable[..., None]) -> Callable[..., None]:
    """Lets a step whose last numbers are scale, decay and l1 take them as a device does."""

    @functools.wraps(step)
    def update(*args: Any) -> None:
        histories = [a for a in args if np.ndim(a) == 1]
        rate, *numbers, scale, decay, l1 = args[len(histories) :]
        if np.isnan(scale):
            histories[1].fill(0)
            return
        start = 0
        for end, own_rate, mult in rate if np.ndim(rate) else [(len(histories[0]), rate, 1.0)]:
            part = [a[start : int(end)] for a in histories]
            step(*part, own_rate, *numbers, float(scale), decay * mult, l1)
            start = int(end)

    return update


def _regularized(w: Array, g: Array, scale: float, decay: float, l1: bool) -> Array:
    return g * scale + decay * (np.sign(w) if l1 else w)


@_ranges
def sgd_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of SGD with momentum on flat w: ``h = momentum * h + rate * g'``, ``w -= h``; the step is
    also written to g.

    ``g' = scale * g + decay * w`` (or ``decay * sign(w)`` if ``l1``), as in every update here.
    """
    h[...] = momentum * h + rate * _regularized(w, g, scale, decay, l1)
    g[...] = h
    w -= h


@_ranges
def nesterov_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of Nesterov's accelerated gradient: ``h' = momentum * h + rate * g'``, ``w -= (1 + momentum) h' -
    momentum * h``.
    """
    before = momentum * h
    h[...] = before + rate * _regularized(w, g, scale, decay, l1)
    g[...] = (1 + momentum) * h - before
    w -= g


@_ranges
def adagrad_update(
    w: Array, g: Array, h: Array, rate: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of AdaGrad: ``h += g'^2``, ``w -= rate * g' / (sqrt(h) + delta)``."""
    g[...] = _regularized(w, g, scale, decay, l1)
    h += g * g
    g *= rate / (np.sqrt(h) + delta)
    w -= g


@_ranges
def rmsprop_update(
    w: Array, g: Array, h: Array, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of RMSProp: ``h = memory * h + (1 - memory) g'^2``, ``w -= rate * g' / (sqrt(h) + delta)``."""
    g[...] = _regularized(w, g, scale, decay, l1)
    h[...] = memory * h + (1 - memory) * g * g
    g *= rate / (np.sqrt(h) + delta)
    w -= g


@_ranges
def adadelta_update(
    w: Array,
    g: Array,
    h: Array,
    steps: Array,
    rate: float,
    memory: float,
    delta: float,
    scale: float,
    decay: float,
    l1: bool,
) -> None:
    """One step of AdaDelta: ``h`` and ``steps`` are running means of ``g'^2`` and of ``u^2``.

    ``u = g' * sqrt((steps + delta) / (h + delta))``, with h of this step and steps of the last; ``w -= rate * u``.
    """
    g[...] = _regularized(w, g, scale, decay, l1)
    h[...] = memory * h + (1 - memory) * g * g
    g *= np.sqrt((steps + delta) / (h + delta))
    steps[...] = memory * steps + (1 - memory) * g * g
    g *= rate
    w -= g


@_ranges
def adam_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    rate: float,
    beta1: float,
    beta2: float,
    delta: float,
    scale: float,
    decay: float,
    l1: bool,
) -> None:
    """One step of Adam: m and v are running means of ``g'`` and ``g'^2``; ``w -= rate * m / (sqrt(v) + delta)``.

    ``rate`` includes the bias correction of m and v, which start from 0.
    """
    g[...] = _regularized(w, g, scale, decay, l1)
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    g[...] = rate * m / (np.sqrt(v) + delta)
    w -= g
