"""Softmax along the middle axis, and its gradient."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.mathlib import exp
from minicaffe.kernels.reference import Array

_START, _LANES = np.uintp(0), np.uintp(16)
_BLOCK = 256  # columns worked on at a time: a few rows of them stay in the L1 cache


@kernel()
def _columns(x, y, o, first, last, largest, total):
    """Softmax down the columns ``first`` .. ``last`` - 1 of x[o] (C, inner)."""
    width = last - first
    for i in range(_START, width):
        largest[i] = x[o, 0, first + i]
        total[i] = 0
    for k in range(1, x.shape[1]):
        for i in range(_START, width):
            largest[i] = max(largest[i], x[o, k, first + i])  # a NaN lost here comes back in the total
    for k in range(x.shape[1]):
        for i in range(_START, width):
            y[o, k, first + i] = exp(x[o, k, first + i] - largest[i])
        for i in range(_START, width):
            total[i] += y[o, k, first + i]
    for k in range(x.shape[1]):
        for i in range(_START, width):
            y[o, k, first + i] /= total[i]


@kernel(fastmath=REASSOCIATE, internal=True)
def _row_total(rows, o):
    total = rows.dtype.type(0)
    for k in range(_START, np.uintp(rows.shape[1])):
        total += rows[o, k]
    return total


@kernel(fastmath=REASSOCIATE, internal=True)
def _row_product(a, b, o):
    """The inner product of two matrices' rows ``o``."""
    total = a.dtype.type(0)
    for k in range(_START, np.uintp(a.shape[1])):
        total += a[o, k] * b[o, k]
    return total


@part_kernel()
def _rows_part(part, parts, x, y):
    """Softmax along every row of x (outer, C)."""
    lanes = np.empty(_LANES, x.dtype)
    c = np.uintp(x.shape[1])
    whole = c // _LANES * _LANES
    low, high = share(part, parts, len(x))
    for o in range(low, high):
        lanes[:] = x[o, 0]
        for k in range(_START, whole, _LANES):
            for i in range(_START, _LANES):
                lanes[i] = max(lanes[i], x[o, k + i])  # a NaN lost here comes back in the total
        largest = lanes.max()
        for k in range(whole, c):
            largest = max(largest, x[o, k])
        for k in range(_START, c):
            y[o, k] = exp(x[o, k] - largest)
        total = _row_total(y, o)
        for k in range(_START, c):
            y[o, k] /= total


@part_kernel()
def _rows_grad_part(part, parts, y, dy, dx):
    c = np.uintp(y.shape[1])
    low, high = share(part, parts, len(y))
    for o in range(low, high):
        total = _row_product(dy, y, o)
        for k in range(_START, c):
            dx[o, k] = y[o, k] * (dy[o, k] - total)


@kernel()
def _columns_grad(y, dy, dx, o, first, last, total):
    width = last - first
    for i in range(_START, width):
        total[i] = 0
    for k in range(y.shape[1]):
        for i in range(_START, width):
            total[i] += dy[o, k, first + i] * y[o, k, first + i]
    for k in range(y.shape[1]):
        for i in range(_START, width):
            dx[o, k, first + i] = y[o, k, first + i] * (dy[o, k, first + i] - total[i])


@part_kernel()
def _softmax_part(part, parts, x, y):
    outer, _, inner = x.shape
    blocks = -(-inner // _BLOCK)
    largest, total = np.empty(_BLOCK, x.dtype), np.empty(_BLOCK, x.dtype)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, item % blocks * _BLOCK
        _columns(x, y, o, np.uintp(first), np.uintp(min(first + _BLOCK, inner)), largest, total)


@kernel()
def _softmax(x, y, parts):
    parallel(_softmax_part, parts, (x, y))


@part_kernel()
def _softmax_grad_part(part, parts, y, dy, dx):
    outer, _, inner = y.shape
    blocks = -(-inner // _BLOCK)
    total = np.empty(_BLOCK, y.dtype)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, item % blocks * _BLOCK
        _columns_grad(y, dy, dx, o, np.uintp(first), np.uintp(min(first + _BLOCK, inner)), total)


@kernel()
def _softmax_grad(y, dy, dx, parts):
    parallel(_softmax_grad_part, parts, (y, dy, dx))


@kernel()
def _softmax_rows(x, y, parts):
    parallel(_rows_part, parts, (x, y))


@kernel()
def _softmax_rows_grad(y, dy, dx, parts):
    parallel(_rows_grad_part, parts, (y, dy, dx))


@capturable
def softmax(x: Array, y: Array) -> None:
    """See ``reference.softmax``."""
    if x.shape[2] == 1:
        _softmax_rows(x.reshape(x.shape[:2]), y.reshape(x.shape[:2]), parts(x.size))
    else:
        _softmax(x, y, parts(x.size))


@capturable
def softmax_grad(y: Array, dy: Array, dx: Array) -> None:
    """See ``reference.softmax_grad``."""
    if y.shape[2] == 1:
        _softmax_rows_grad(*(a.reshape(y.shape[:2]) for a in (y, dy, dx)), parts(y.size))
    else:
        _softmax_grad(y, dy, dx, parts(y.size))
