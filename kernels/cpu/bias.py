"""Adding a bias per channel, and its gradient."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.sums import add_channel_sums
from minicaffe.kernels.reference import Array

_START = np.uintp(0)  # an unsigned index needs no check for negative values, which would keep a loop from vectorising


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
    parallel(_add_part, parts, (y, bias))


@part_kernel()
def _add_rows_part(part, parts, y, bias):
    """For y (N, C), whose rows run along the channels."""
    low, high = share(part, parts, len(y))
    for r in range(low, high):
        for k in range(_START, np.uintp(y.shape[1])):
            y[r, k] += bias[k]


@kernel()
def _add_rows(y, bias, parts):
    parallel(_add_rows_part, parts, (y, bias))


@capturable
def bias_add(y: Array, bias: Array) -> None:
    """See ``reference.bias_add``."""
    if y.size == len(y) * len(bias):
        _add_rows(y.reshape(y.shape[:2]), bias, parts(y.size))
    else:
        _add(y.reshape(*y.shape[:2], math.prod(y.shape[2:])), bias, parts(y.size))


@capturable
def bias_grad(dy: Array, dbias: Array) -> None:
    """See ``reference.bias_grad``."""
    add_channel_sums(dy, dbias)
