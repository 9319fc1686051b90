"""Vectorised sums: of rows, over the channels of an image, and of the partial sums of several threads."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.scratch import scratch_array
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array

_START = np.uintp(0)  # an unsigned index needs no check for negative values, which would keep a loop from vectorising


@kernel(fastmath=REASSOCIATE)
def row_sum(x):
    """Sum of a vector; a long one is summed in pieces, so that the rounding error does not grow with its length."""
    total = 0.0
    for first in range(0, x.size, 1024):
        piece = x[first : first + 1024]
        partial = x.dtype.type(0)
        for i in range(piece.size):
            partial += piece[i]
        total += partial
    return total


@part_kernel()
def _sum_channels_part(part, parts, x, partial):
    n, c, _ = x.shape
    low, high = share(part, parts, n * c)
    partial[part] = 0
    for r in range(low, high):
        partial[part, r % c] += row_sum(x[r // c, r % c])


@part_kernel()
def add_partial_sums_part(part, parts, partial, out):
    """Add ``partial`` (part, C), summed over the parts, to out (C,)."""
    for k in range(out.size):
        total = 0.0
        for i in range(len(partial)):
            total += partial[i, k]
        out[k] += total


@kernel()
def _sum_channels(x, out, parts, partial):
    parallel(_sum_channels_part, parts, (x, partial))
    parallel(add_partial_sums_part, 1, (partial, out))


@part_kernel()
def _sum_columns_part(part, parts, x, out):
    """For x (N, C), whose rows run along the channels."""
    low, high = share(part, parts, x.shape[1])
    first, count = np.uintp(low), np.uintp(high - low)
    total = np.zeros(high - low)
    for r in range(len(x)):
        for k in range(_START, count):
            total[k] += x[r, first + k]
    for k in range(_START, count):
        out[first + k] += total[k]


@kernel()
def _sum_columns(x, out, parts):
    parallel(_sum_columns_part, parts, (x, out))


def add_channel_sums(x: Array, out: Array) -> None:
    """Adds x (N, C, ...), summed over all axes but the channels, to out (C,)."""
    shared = parts(x.size)
    if x.size == len(x) * len(out):
        _sum_columns(x.reshape(x.shape[:2]), out, shared)
    else:
        planes = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        _sum_channels(planes, out, shared, scratch_array((shared, len(out))))
