"""Rows of a matrix by index."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def gather_rows(x: Array, index: Array, y: Array) -> None:
    """``y[m] = x[index[m]]``: x (R, K), index (M,) truncated to integers, y (M, K); 0 where there is no such row."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    y[...] = np.where(inside[:, None], x[np.where(inside, row, 0)], 0)


def copy_columns(x: Array, x_start: int, y: Array, y_start: int) -> None:
    """Copy as many columns of x (R, K), from ``x_start`` on, to those of y (R, L) from ``y_start`` on as both have."""
    count = min(x.shape[1] - x_start, y.shape[1] - y_start)
    y[:, y_start : y_start + count] = x[:, x_start : x_start + count]


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """Accumulates ``x[index[m]] += y[m]``, the transpose of ``gather_rows``."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    np.add.at(x, row[inside], y[inside])
