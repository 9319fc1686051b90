"""Softmax along the middle axis, the loss of its probabilities, and their gradients."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.labels import with_ignored
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.mathlib import exp
from minicaffe.kernels.reference import FLT_MIN, Array

_START, _LANES = np.uintp(0), np.uintp(16)
_BLOCK = 256  # columns at a time: a few rows of so many stay in the L1 cache


@kernel()
def _columns(x, y, o, first, last, largest, total):
    """Softmax down the columns ``first`` .. ``last`` - 1 of x[o] (C, inner)."""
    width = last - first
    for i in range(_START, width):
        largest[i] = x[o, 0, first + i]
        total[i] = 0
    for k in range(1, x.shape[1]):
        for i in range(_START, width):
            largest[i] = max(largest[i], x[o, k, first + i])  # a NaN that is lost here shows in the total
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
    lanes = np.empty(np.intp(_LANES), x.dtype)
    c = np.uintp(x.shape[1])
    whole = c // _LANES * _LANES
    low, high = share(part, parts, len(x))
    for o in range(low, high):
        lanes[:] = x[o, 0]
        for k in range(_START, whole, _LANES):
            for i in range(_START, _LANES):
                lanes[i] = max(lanes[i], x[o, k + i])  # a NaN that is lost here shows in the total
        largest = lanes[0]
        for i in range(_START, _LANES):
            largest = max(largest, lanes[i])
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


@part_kernel()
def _softmax_loss_part(part, parts, prob, label, ignoring, ignored, normalizer, loss):
    outer, classes, inner = prob.shape
    total = 0.0
    for o in range(outer):
        for i in range(inner):
            k = int(label[o * inner + i])
            if 0 <= k < classes and not (ignoring and label[o * inner + i] == ignored):
                total -= math.log(max(prob[o, k, i], prob.dtype.type(FLT_MIN)))
    loss[()] = loss.dtype.type(total) / normalizer[()]


@kernel()
def _softmax_loss(prob, label, ignoring, ignored, normalizer, loss):
    parallel(_softmax_loss_part, 1, (prob, label, ignoring, ignored, normalizer, loss))


@part_kernel()
def _softmax_loss_grad_part(part, parts, prob, label, ignoring, ignored, weight, normalizer, dx):
    outer, classes, inner = prob.shape
    scale = weight[()] / normalizer[()]
    low, high = share(part, parts, outer)
    for o in range(low, high):
        source, target = prob[o].reshape(-1), dx[o].reshape(-1)
        for k in range(target.size):
            target[k] = source[k] * scale
        for i in range(inner):
            own = int(label[o * inner + i])
            if ignoring and label[o * inner + i] == ignored:
                dx[o, :, i] = 0
            elif 0 <= own < classes:
                dx[o, own, i] = (prob[o, own, i] - 1) * scale


@kernel()
def _softmax_loss_grad(prob, label, ignoring, ignored, weight, normalizer, dx, parts):
    parallel(_softmax_loss_grad_part, parts, (prob, label, ignoring, ignored, weight, normalizer, dx))


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


@capturable
def softmax_loss(prob: Array, label: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """See ``reference.softmax_loss``."""
    _softmax_loss(prob, label.reshape(-1), *with_ignored(ignore_label), normalizer, loss)


@capturable
def softmax_loss_grad(
    prob: Array, label: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """See ``reference.softmax_loss_grad``."""
    _softmax_loss_grad(prob, label.reshape(-1), *with_ignored(ignore_label), weight, normalizer, dx, parts(dx.size))
