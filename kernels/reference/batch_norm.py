"""Batch normalisation, scaling and rectification of channels."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def _rectified(z: Array, slope: float) -> Array:
    return np.where(z > 0, z, z * z.dtype.type(slope))


def standardize(
    x: Array,
    eps: float,
    mean: Array,
    variance: Array,
    factor: Array,
    y: Array,
    kept: Array | None,
    v: Array | None = None,
    b: Array | None = None,
    slope: float = 1.0,
) -> None:
    """``y = r((x - mean) factor v + b)``, ``factor = 1 / sqrt(variance + eps)``, with each channel's own mean and
    variance.

    x, y (N, C, inner); mean, variance and factor (C,) are outputs, too.  v and b (C,) default to 1 and 0; both or
    neither must be given.  ``r(z)`` is z if z > 0, else ``slope z``.  ``kept`` gets a copy of x if it is not None; y
    may be x.
    """
    if kept is not None:
        kept[...] = x
    mean[...] = x.mean(axis=(0, 2), dtype=np.float64)
    variance[...] = np.square(x - mean[:, None]).mean(axis=(0, 2), dtype=np.float64)
    factor[...] = 1 / np.sqrt(variance + eps)
    z = (x - mean[:, None]) * factor[:, None]
    if v is not None and b is not None:
        z = z * v[:, None] + b[:, None]
    y[...] = _rectified(z, slope)


def standardize_grad(
    x: Array,
    dy: Array,
    mean: Array,
    factor: Array,
    dy_mean: Array,
    dot_mean: Array,
    dx: Array,
    y: Array | None = None,
    v: Array | None = None,
    dv: Array | None = None,
    db: Array | None = None,
    slope: float = 1.0,
) -> None:
    """Gradients of ``standardize``: ``dx = (g - mean(g) - z mean(g z)) factor v`` with ``z = (x - mean) factor``.

    g is dy where y > 0, else ``slope dy``; y may be None if the slope is 1.  x, dy, y, dx (N, C, inner), the others
    (C,). v defaults to 1.  Accumulates g z and g, summed over N and inner, into dv and db if v and they are not
    None. ``dy_mean`` and ``dot_mean`` get the means of g and g z.  dx may be dy.
    """
    z = (x - mean[:, None]) * factor[:, None]
    g = dy if y is None else np.where(y > 0, dy, dy * dy.dtype.type(slope))
    dy_mean[...] = g.mean(axis=(0, 2), dtype=np.float64)
    dot_mean[...] = (g * z).mean(axis=(0, 2), dtype=np.float64)
    if v is not None:  # before dx is written, which may be dy
        for total, values in ((dv, g * z), (db, g)):
            if total is not None:
                total += values.sum(axis=(0, 2), dtype=np.float64)
    dx[...] = (g - dy_mean[:, None] - z * dot_mean[:, None]) * factor[:, None]
    if v is not None:
        dx *= v[:, None]


def scale(
    x: Array,
    v: Array,
    b: Array | None,
    y: Array,
    kept: Array | None,
    centre: Array | None = None,
    slope: float = 1.0,
) -> None:
    """``y = r((x - centre) v + b)``: x, y (N, C, inner), v, b and centre (C,).

    b and centre default to 0; with a centre, b must be given.  ``r(z)`` is z if z > 0, else ``slope z``.  ``kept`` gets
    a copy of x if it is not None; y may be x.
    """
    if kept is not None:
        kept[...] = x
    z = (x if centre is None else x - centre[:, None]) * v[:, None]
    if b is not None:
        z += b[:, None]
    y[...] = _rectified(z, slope)


def scale_grad(x: Array, dy: Array, v: Array, dx: Array | None, dv: Array | None, db: Array | None) -> None:
    """Gradients of ``y = x v + b``: ``dx = dy v``; accumulates dy x and dy, summed over N and inner, into dv and db.

    Those that are None are not computed; dx may be dy.
    """
    if dv is not None:
        dv += (x * dy).sum(axis=(0, 2), dtype=np.float64)
    if db is not None:
        db += dy.sum(axis=(0, 2), dtype=np.float64)
    if dx is not None:
        np.multiply(dy, v[:, None], out=dx)
