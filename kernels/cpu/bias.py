"""Adding a bias per channel, and its gradient."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from minicaffe.kernels.cpu.jit import REASSOCIATE, kernel, parallel, share
from minicaffe.kernels.reference import Array


@kernel(fastmath=REASSOCIATE)
def row_sum(x):
    """Sum of a vector; long ones are summed in pieces, so that the rounding error does not grow with the length."""
    total = 0.0
    for first in range(0, x.size, 1024):
        piece = x[first : first + 1024]
        partial = x.dtype.type(0)
        for i in range(piece.size):
            partial += piece[i]
        total += partial
    return total


@kernel()
def _add_part(part, parts, y, bias):
    n, c, inner = y.shape
    if inner == 1:
        low, high = share(part, parts, n)
        for i in range(low, high):
            row = y[i, :, 0]
            for k in range(c):
                row[k] += bias[k]
    else:
        low, high = share(part, parts, n * c)
        for r in range(low, high):
            row, b = y[r // c, r % c], bias[r % c]
            for k in range(inner):
                row[k] += b


@kernel()
def _grad_part(part, parts, dy, dbias):
    n, c, inner = dy.shape
    low, high = share(part, parts, c)
    total = np.zeros(high - low)
    for i in range(n):
        if inner == 1:
            row = dy[i, low:high, 0]
            for k in range(row.size):
                total[k] += row[k]
        else:
            for k in range(high - low):
                total[k] += row_sum(dy[i, low + k])
    for k in range(high - low):
        dbias[low + k] += total[k]


@kernel()
def _add(y, bias, threads):
    parallel(_add_part, threads, (y, bias))


@kernel()
def _grad(dy, dbias, threads):
    parallel(_grad_part, threads, (dy, dbias))


def bias_add(y: Array, bias: Array) -> None:
    """See ``reference.bias_add``."""
    _add(y, bias, get_num_threads())


def bias_grad(dy: Array, dbias: Array) -> None:
    """See ``reference.bias_grad``."""
    _grad(dy, dbias, get_num_threads())
