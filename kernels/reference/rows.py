"""Rows of a matrix by index."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def gather_rows(x: Array, index: Array, y: Array) -> None:
    """``y[m] = x[index[m]]``: x (R, K), index (M,) truncated to integers, y (M, K); 0 where there is no such row."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    y[...] = np.where(inside[:, None], x[np.where(inside, row, 0)], 0)


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """Accumulates ``x[index[m]] += y[m]``, the transpose of ``gather_rows``."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    np.add.at(x, row[inside], y[inside])
