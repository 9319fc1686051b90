"""Rows of a matrix by index."""

from __future__ import annotations

from numba import prange

from minicaffe.kernels.cpu.jit import kernel, share
from minicaffe.kernels.cpu.threads import parts
from minicaffe.kernels.reference import Array


@kernel(parallel=True)
def _gather(x, index, y, threads):
    for t in prange(threads):
        low, high = share(t, threads, index.size)
        for m in range(low, high):
            row = int(index[m])
            if 0 <= row < len(x):
                y[m] = x[row]
            else:
                y[m] = 0


@kernel(parallel=True)
def _scatter(y, index, x, threads):
    for t in prange(threads):
        low, high = share(t, threads, x.shape[1])  # columns: an index may come twice
        for m in range(index.size):
            row = int(index[m])
            if 0 <= row < len(x):
                source, target = y[m, low:high], x[row, low:high]
                for k in range(target.size):
                    target[k] += source[k]


def gather_rows(x: Array, index: Array, y: Array) -> None:
    """See ``reference.gather_rows``."""
    _gather(x, index, y, parts(y.size))


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """See ``reference.scatter_rows``."""
    _scatter(y, index, x, parts(y.size))
