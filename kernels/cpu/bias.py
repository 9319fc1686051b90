"""Adding a bias per channel, and its gradient."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.scratch import scratch_array
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.sums import add_sums_part, row_sum
from minicaffe.kernels.reference import Array

_START = np.uintp(0)  # unsigned places need no check whether they count from the end, which would keep loops from SIMD


@part_kernel()
def _add_part(part, parts, y, bias):
    n, c, inner = y.shape[0], y.shape[1], np.uintp(y.shape[2])
    low, high = share(part, parts, n * c)
    for r in range(low, high):
        b = bias[r % c]
        for k in range(_START, inner):
            y[r // c, r % c, k] += b


@kernel()
def _add(y, bias, parts):
    parallel(_add_part, parts, (y.reshape(y.shape[0], y.shape[1], -1), bias))


@part_kernel()
def _add_rows_part(part, parts, y, bias):
    """For y (N, C): a row runs along the channels."""
    low, high = share(part, parts, len(y))
    for r in range(low, high):
        for k in range(_START, np.uintp(y.shape[1])):
            y[r, k] += bias[k]


@kernel()
def _add_rows(y, bias, parts):
    parallel(_add_rows_part, parts, (y.reshape(y.shape[0], y.shape[1]), bias))


@part_kernel()
def _grad_part(part, parts, dy, partial):
    n, c, _ = dy.shape
    low, high = share(part, parts, n * c)
    partial[part] = 0
    for r in range(low, high):
        partial[part, r % c] += row_sum(dy[r // c, r % c])


@kernel()
def _grad(dy, dbias, parts, partial):
    parallel(_grad_part, parts, (dy.reshape(dy.shape[0], dy.shape[1], -1), partial))
    parallel(add_sums_part, 1, (partial, dbias))


@part_kernel()
def _grad_rows_part(part, parts, dy, dbias):
    """For dy (N, C): a row runs along the channels."""
    low, high = share(part, parts, dy.shape[1])
    first, count = np.uintp(low), np.uintp(high - low)
    total = np.zeros(high - low)
    for r in range(len(dy)):
        for k in range(_START, count):
            total[k] += dy[r, first + k]
    for k in range(_START, count):
        dbias[first + k] += total[k]


@kernel()
def _grad_rows(dy, dbias, parts):
    parallel(_grad_rows_part, parts, (dy.reshape(dy.shape[0], dy.shape[1]), dbias))


def bias_add(y: Array, bias: Array) -> None:
    """See ``reference.bias_add``."""
    add = _add_rows if y.size == len(y) * len(bias) else _add
    add(y, bias, parts(y.size))


def bias_grad(dy: Array, dbias: Array) -> None:
    """See ``reference.bias_grad``."""
    shared = parts(dy.size)
    if dy.size == len(dy) * len(dbias):
        _grad_rows(dy, dbias, shared)
    else:
        _grad(dy, dbias, shared, scratch_array((shared, len(dbias))))
