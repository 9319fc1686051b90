"""Gradient clipping and solver updates: one pass over the parameters each."""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange

from minicaffe.kernels.cpu.jit import REASSOCIATE, kernel, share
from minicaffe.kernels.reference import Array


@kernel(parallel=True, fastmath=REASSOCIATE)
def _inner_product(a, b, threads):
    partial = np.zeros(threads)
    for t in prange(threads):
        low, high = share(t, threads, a.size)
        p, q = a[low:high], b[low:high]
        total = 0.0
        for i in range(p.size):
            total += np.float64(p[i]) * np.float64(q[i])
        partial[t] = total
    return partial.sum()


@kernel(parallel=True)
def _sgd(w, g, h, rate, momentum, scale, decay, l1, threads):
    for t in prange(threads):
        low, high = share(t, threads, w.size)
        u, d, v = w[low:high], g[low:high], h[low:high]
        for i in range(u.size):
            step = momentum * v[i] + rate * (scale * d[i] + decay * (np.sign(u[i]) if l1 else u[i]))
            v[i] = step
            d[i] = step
            u[i] -= step


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


def sgd_update(w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool) -> None:
    """See ``reference.sgd_update``."""
    real = w.dtype.type
    _sgd(w.reshape(-1), g.reshape(-1), h.reshape(-1), real(rate), real(momentum), real(scale), real(decay), bool(l1), get_num_threads())
