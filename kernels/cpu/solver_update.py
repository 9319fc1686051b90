"""Solver updates, each in one pass over the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array


@kernel(inline=True)
def _regularized(w, g, scale, decay, l1):
    """The regularised gradient."""
    return scale * g + decay * (np.sign(w) if l1 else w)


@part_kernel()
def _sgd_part(part, parts, w, g, h, rate, momentum, scale, decay, l1):
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        step = momentum * h[i] + rate * gradient
        h[i] = step
        g[i] = step
        w[i] -= step


@kernel()
def _sgd(w, g, h, rate, momentum, scale, decay, l1, parts):
    parallel(_sgd_part, parts, (w, g, h, rate, momentum, scale, decay, l1))


@part_kernel()
def _nesterov_part(part, parts, w, g, h, rate, momentum, scale, decay, l1):
    one = w.dtype.type(1)
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        before = momentum * h[i]
        after = before + rate * gradient
        h[i] = after
        step = (one + momentum) * after - before
        g[i] = step
        w[i] -= step


@kernel()
def _nesterov(w, g, h, rate, momentum, scale, decay, l1, parts):
    parallel(_nesterov_part, parts, (w, g, h, rate, momentum, scale, decay, l1))


@part_kernel()
def _adagrad_part(part, parts, w, g, h, rate, delta, scale, decay, l1):
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        square = h[i] + gradient * gradient
        h[i] = square
        step = rate * gradient / (np.sqrt(square) + delta)
        g[i] = step
        w[i] -= step


@kernel()
def _adagrad(w, g, h, rate, delta, scale, decay, l1, parts):
    parallel(_adagrad_part, parts, (w, g, h, rate, delta, scale, decay, l1))


@part_kernel()
def _rmsprop_part(part, parts, w, g, h, rate, memory, delta, scale, decay, l1):
    one = w.dtype.type(1)
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        square = memory * h[i] + (one - memory) * gradient * gradient
        h[i] = square
        step = rate * gradient / (np.sqrt(square) + delta)
        g[i] = step
        w[i] -= step


@kernel()
def _rmsprop(w, g, h, rate, memory, delta, scale, decay, l1, parts):
    parallel(_rmsprop_part, parts, (w, g, h, rate, memory, delta, scale, decay, l1))


@part_kernel()
def _adadelta_part(part, parts, w, g, h, steps, rate, memory, delta, scale, decay, l1):
    one = w.dtype.type(1)
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        square = memory * h[i] + (one - memory) * gradient * gradient
        h[i] = square
        change = gradient * np.sqrt((steps[i] + delta) / (square + delta))
        steps[i] = memory * steps[i] + (one - memory) * change * change
        step = rate * change
        g[i] = step
        w[i] -= step


@kernel()
def _adadelta(w, g, h, steps, rate, memory, delta, scale, decay, l1, parts):
    parallel(_adadelta_part, parts, (w, g, h, steps, rate, memory, delta, scale, decay, l1))


@part_kernel()
def _adam_part(part, parts, w, g, m, v, rate, beta1, beta2, delta, scale, decay, l1):
    one = w.dtype.type(1)
    low, high = share(part, parts, w.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = _regularized(w[i], g[i], scale, decay, l1)
        mean = beta1 * m[i] + (one - beta1) * gradient
        square = beta2 * v[i] + (one - beta2) * gradient * gradient
        m[i] = mean
        v[i] = square
        step = rate * mean / (np.sqrt(square) + delta)
        g[i] = step
        w[i] -= step


@kernel()
def _adam(w, g, m, v, rate, beta1, beta2, delta, scale, decay, l1, parts):
    parallel(_adam_part, parts, (w, g, m, v, rate, beta1, beta2, delta, scale, decay, l1))


def _step(loop: Callable[..., None], arrays: Sequence[Array], numbers: Sequence[float], l1: bool) -> None:
    real = arrays[0].dtype.type
    loop(*arrays, *map(real, numbers), l1, parts(arrays[0].size))


def sgd_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.sgd_update``."""
    _step(_sgd, (w, g, h), (rate, momentum, scale, decay), l1)


def nesterov_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.nesterov_update``."""
    _step(_nesterov, (w, g, h), (rate, momentum, scale, decay), l1)


def adagrad_update(
    w: Array, g: Array, h: Array, rate: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.adagrad_update``."""
    _step(_adagrad, (w, g, h), (rate, delta, scale, decay), l1)


def rmsprop_update(
    w: Array, g: Array, h: Array, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """See ``reference.rmsprop_update``."""
    _step(_rmsprop, (w, g, h), (rate, memory, delta, scale, decay), l1)


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
    """See ``reference.adadelta_update``."""
    _step(_adadelta, (w, g, h, steps), (rate, memory, delta, scale, decay), l1)


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
    """See ``reference.adam_update``."""
    _step(_adam, (w, g, m, v), (rate, beta1, beta2, delta, scale, decay), l1)
