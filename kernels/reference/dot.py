"""Inner products, and gradient clipping by the L2 norm."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def dot(a: Array, b: Array, out: Array) -> None:
    """Accumulates the inner product of two arrays of equal size into the scalar ``out``."""
    out += np.dot(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))


def clip_by_norm(g: Array, limit: float, norm: Array) -> None:
    """Scales g so that its L2 norm is at most ``limit``; the norm it had goes into the scalar ``norm``."""
    flat = g.reshape(-1).astype(np.float64)
    norm[...] = np.sqrt(flat @ flat)
    if norm > limit:
        g *= limit / norm
