"""Gradient clipping and solver updates: one pass over the parameters each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import get_num_threads, prange

from minicaffe.kernels.cpu.jit import REASSOCIATE, kernel, parallel, share
from minicaffe.kernels.reference import Array


@kernel(fastmath=REASSOCIATE)
def _inner_product_part(part, parts, a, b, partial):
    low, high = share(part, parts, a.size)
    p, q = a[low:high], b[low:high]
    total = 0.0
    for i in range(p.size):
        total += np.float64(p[i]) * np.float64(q[i])
    partial[part] = total


@kernel()
def _inner_product(a, b, threads):
    partial = np.zeros(threads)
    parallel(_inner_product_part, threads, (a, b, partial))
    return partial.sum()


@kernel()
def _sgd_part(part, parts, w, g, h, rate, momentum, scale, decay, l1):
    low, high = share(part, parts, w.size)
    u, d, v = w[low:high], g[low:high], h[low:high]
    for i in range(u.size):
        step = momentum * v[i] + rate * (scale * d[i] + decay * (np.sign(u[i]) if l1 else u[i]))
        v[i] = step
        d[i] = step
        u[i] -= step


@kernel()
def _sgd(w, g, h, rate, momentum, scale, decay, l1, threads):
    parallel(_sgd_part, threads, (w, g, h, rate, momentum, scale, decay, l1))


@kernel(inline=True)
def _regularized(w, g, scale, decay, l1):
    return scale * g + decay * (np.sign(w) if l1 else w)


@kernel(parallel=True)
def _nesterov(w, g, h, rate, momentum, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        for i in range(low, high):
            before = momentum * h[i]
            h[i] = before + rate * _regularized(w[i], g[i], scale, decay, l1)
            g[i] = (1 + momentum) * h[i] - before
            w[i] -= g[i]


@kernel(parallel=True)
def _adagrad(w, g, h, rate, delta, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        for i in range(low, high):
            slope = _regularized(w[i], g[i], scale, decay, l1)
            h[i] += slope * slope
            g[i] = rate * slope / (np.sqrt(h[i]) + delta)
            w[i] -= g[i]


@kernel(parallel=True)
def _rmsprop(w, g, h, rate, memory, delta, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        for i in range(low, high):
            slope = _regularized(w[i], g[i], scale, decay, l1)
            h[i] = memory * h[i] + (1 - memory) * slope * slope
            g[i] = rate * slope / (np.sqrt(h[i]) + delta)
            w[i] -= g[i]


@kernel(parallel=True)
def _adadelta(w, g, h, steps, rate, memory, delta, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        for i in range(low, high):
            slope = _regularized(w[i], g[i], scale, decay, l1)
            h[i] = memory * h[i] + (1 - memory) * slope * slope
            step = slope * np.sqrt((steps[i] + delta) / (h[i] + delta))
            steps[i] = memory * steps[i] + (1 - memory) * step * step
            g[i] = rate * step
            w[i] -= g[i]


@kernel(parallel=True)
def _adam(w, g, m, v, rate, beta1, beta2, delta, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        for i in range(low, high):
            slope = _regularized(w[i], g[i], scale, decay, l1)
            m[i] = beta1 * m[i] + (1 - beta1) * slope
            v[i] = beta2 * v[i] + (1 - beta2) * slope * slope
            g[i] = rate * m[i] / (np.sqrt(v[i]) + delta)
            w[i] -= g[i]


def inner_product(a: Array, b: Array) -> float:
    """The inner product of two arrays of equal size, in float64."""
    return _inner_product(a.reshape(-1), b.reshape(-1), get_num_threads())


def dot(a: Array, b: Array, out: Array) -> None:
    """See ``reference.dot``."""
    out += inner_product(a, b)


def clip_by_norm(g: Array, limit: float, norm: Array) -> None:
    """See ``reference.clip_by_norm``."""
    length = math.sqrt(inner_product(g, g))
    norm[...] = length
    if length > limit:
        g *= g.dtype.type(limit / length)


def _step(loop: Callable[..., None], arrays: Sequence[Array], numbers: Sequence[float], l1: bool) -> None:
    real = arrays[0].dtype.type
    loop(*(a.reshape(-1) for a in arrays), *map(real, numbers), bool(l1), get_num_threads())


def sgd_update(w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool) -> None:
    """See ``reference.sgd_update``."""
    _step(_sgd, (w, g, h), (rate, momentum, scale, decay), l1)


def nesterov_update(w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool) -> None:
    """See ``reference.nesterov_update``."""
    _step(_nesterov, (w, g, h), (rate, momentum, scale, decay), l1)


def adagrad_update(w: Array, g: Array, h: Array, rate: float, delta: float, scale: float, decay: float, l1: bool) -> None:
    """See ``reference.adagrad_update``."""
    _step(_adagrad, (w, g, h), (rate, delta, scale, decay), l1)


def rmsprop_update(w: Array, g: Array, h: Array, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool) -> None:
    """See ``reference.rmsprop_update``."""
    _step(_rmsprop, (w, g, h), (rate, memory, delta, scale, decay), l1)


def adadelta_update(
    w: Array, g: Array, h: Array, steps: Array, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.adadelta_update``."""
    _step(_adadelta, (w, g, h, steps), (rate, memory, delta, scale, decay), l1)


def adam_update(
    w: Array, g: Array, m: Array, v: Array, rate: float, beta1: float, beta2: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.adam_update``."""
    _step(_adam, (w, g, m, v), (rate, beta1, beta2, delta, scale, decay), l1)
