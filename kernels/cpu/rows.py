"""Rows of a matrix by index."""

from __future__ import annotations

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.memory import copy_row
from minicaffe.kernels.reference import Array


@part_kernel()
def _gather_part(part, parts, x, index, y):
    low, high = share(part, parts, index.size)
    columns = y.shape[1]
    size = columns * y.itemsize
    for m in range(low, high):
        row = int(index[m])
        if 0 <= row < len(x):
            copy_row(y.ctypes.data + m * size, x.ctypes.data + row * size, columns, y.dtype.type(0))
        else:
            y[m] = 0


@part_kernel()
def _copy_columns_part(part, parts, x, x_start, y, y_start, count):
    rows = len(x)
    low, high = share(part, parts, rows * count)
    size = x.itemsize
    for row in range(low // count, -(-high // count)):
        first, last = max(low - row * count, 0), min(high - row * count, count)
        source = x.ctypes.data + (row * x.shape[1] + x_start + first) * size
        copy_row(y.ctypes.data + (row * y.shape[1] + y_start + first) * size, source, last - first, x[0, 0])


@kernel()
def _copy_columns(x, x_start, y, y_start, count, parts):
    parallel(_copy_columns_part, parts, (x, x_start, y, y_start, count))


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


@capturable
def copy_columns(x: Array, x_start: int, y: Array, y_start: int) -> None:
    """See ``reference.copy_columns``."""
    count = min(x.shape[1] - x_start, y.shape[1] - y_start)
    if len(x) and count:
        _copy_columns(x, x_start, y, y_start, count, parts(len(x) * count))


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """See ``reference.scatter_rows``."""
    _scatter(y, index, x, parts(y.size))
