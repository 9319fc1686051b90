"""Sums of rows, vectorised, and sums over the threads that made partial ones."""

from __future__ import annotations

from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel


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


@part_kernel()
def add_sums_part(part, parts, partial, dbias):
    """Add to dbias (C,) the sums over parts of dy, ``partial`` (part, C)."""
    for k in range(dbias.size):
        total = 0.0
        for i in range(len(partial)):
            total += partial[i, k]
        dbias[k] += total
