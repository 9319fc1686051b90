"""Adding a bias per channel, and its gradient."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def bias_add(y: Array, bias: Array) -> None:
    """Adds bias (C,) to y (N, C, ...) along axis 1."""
    y += bias.reshape(-1, *(1,) * (y.ndim - 2))


def bias_grad(dy: Array, dbias: Array) -> None:
    """Accumulates dy (N, C, ...), summed over all axes but axis 1, into dbias (C,)."""
    dbias += dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64)
