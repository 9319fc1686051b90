"""Softmax along the middle axis, and its gradient."""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads

from minicaffe.kernels.cpu.jit import kernel, parallel, share
from minicaffe.kernels.reference import Array

_BLOCK = 256  # columns worked on at a time: a few rows of them stay in the L1 cache


@kernel()
def _columns(x, y, largest, total):
    """Softmax down every column of x (C, width)."""
    c, width = x.shape
    largest[:width] = x[0]
    for k in range(1, c):
        for i in range(width):
            largest[i] = max(largest[i], x[k, i])  # a NaN lost here comes back in the total
    total[:width] = 0
    for k in range(c):
        for i in range(width):
            e = math.exp(x[k, i] - largest[i])
            y[k, i] = e
            total[i] += e
    for k in range(c):
        for i in range(width):
            y[k, i] /= total[i]


@kernel()
def _columns_grad(y, dy, dx, total):
    c, width = y.shape
    total[:width] = 0
    for k in range(c):
        for i in range(width):
            total[i] += dy[k, i] * y[k, i]
    for k in range(c):
        for i in range(width):
            dx[k, i] = y[k, i] * (dy[k, i] - total[i])


@kernel()
def _softmax_part(part, parts, x, y):
    outer, _, inner = x.shape
    blocks = -(-inner // _BLOCK)
    largest, total = np.empty(_BLOCK, x.dtype), np.empty(_BLOCK, x.dtype)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, item % blocks * _BLOCK
        _columns(x[o, :, first : first + _BLOCK], y[o, :, first : first + _BLOCK], largest, total)


@kernel()
def _softmax(x, y, threads):
    parallel(_softmax_part, threads, (x, y))


@kernel()
def _softmax_grad_part(part, parts, y, dy, dx):
    outer, _, inner = y.shape
    blocks = -(-inner // _BLOCK)
    total = np.empty(_BLOCK, y.dtype)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, item % blocks * _BLOCK
        last = first + _BLOCK
        _columns_grad(y[o, :, first:last], dy[o, :, first:last], dx[o, :, first:last], total)


@kernel()
def _softmax_grad(y, dy, dx, threads):
    parallel(_softmax_grad_part, threads, (y, dy, dx))


def softmax(x: Array, y: Array) -> None:
    """See ``reference.softmax``."""
    _softmax(x, y, get_num_threads())


def softmax_grad(y: Array, dy: Array, dx: Array) -> None:
    """See ``reference.softmax_grad``."""
    _softmax_grad(y, dy, dx, get_num_threads())
