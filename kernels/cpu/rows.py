"""Rows of a matrix by index."""

from __future__ import annotations

from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array


@part_kernel()
def _gather_part(part, parts, x, index, y):
    low, high = share(part, parts, index.size)
    for m in range(low, high):
        row = int(index[m])
        if 0 <= row < len(x):
            y[m] = x[row]
        else:
            y[m] = 0


@kernel()
def _gather(x, index, y, parts):
    parallel(_gather_part, parts, (x, index, y))


@part_kernel()
def _scatter_part(part, parts, y, index, x):
    low, high = share(part, parts, x.shape[1])  # split by columns: the same index may occur twice
    for m in range(index.size):
        row = int(index[m])
        if 0 <= row < len(x):
            source, target = y[m, low:high], x[row, low:high]
            for k in range(target.size):
                target[k] += source[k]


@kernel()
def _scatter(y, index, x, parts):
    parallel(_scatter_part, parts, (y, index, x))


def gather_rows(x: Array, index: Array, y: Array) -> None:
    """See ``reference.gather_rows``."""
    _gather(x, index, y, parts(y.size))


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """See ``reference.scatter_rows``."""
    _scatter(y, index, x, parts(y.size))
