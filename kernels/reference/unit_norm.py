"""Vectors of a length of 1, and the gradient through their length."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def unit_norm(x: Array, eps: float, power: int, norm: Array, z: Array) -> None:
    """``z = x / norm`` with ``norm = (eps + sum |x|^power)^(1 / power)`` over the middle axis; ``power`` is 1 or 2.

    x and z (outer, C, inner), norm (outer, inner).
    """
    sums = eps + (np.abs(x) ** power).sum(axis=1, dtype=np.float64)
    norm[...] = np.sqrt(sums) if power == 2 else sums
    np.divide(x, norm[:, None], out=z)


def unit_norm_grad(z: Array, norm: Array, dz: Array, power: int, dnorm: Array | None, dx: Array) -> None:
    """``dx = (dz - g sum(z dz)) / norm + dnorm g``, g being the gradient of norm: z, or its sign if ``power`` is 1.

    ``dnorm`` (outer, inner) is 0 where it is None.  Source: the derivative of ``unit_norm``.
    """
    g = z if power == 2 else np.sign(z)
    along = (z * dz).sum(axis=1, keepdims=True, dtype=np.float64)
    found = (dz - g * along) / norm[:, None]
    dx[...] = found if dnorm is None else found + g * dnorm[:, None]
