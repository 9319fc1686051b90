"""Inner products, and what a solver's step multiplies the gradients by."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.reference.arrays import Array

LARGEST_LOSS_SCALE = 2.0**32
"""A loss scale that adapts itself grows no further: in bfloat16 nothing would stop it."""


def dot(a: Array, b: Array, out: Array) -> None:
    """Accumulates the inner product of two arrays of equal size into the scalar ``out``."""
    out += np.dot(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))


def rescale(x: Array, scale: Array, inverse: bool) -> None:
    """``x *= scale[0]``, or ``x /= scale[0]`` if ``inverse``; ``scale`` is a float64 array."""
    number = x.dtype.type(scale[0])
    x[...] = x / number if inverse else x * number


def gradient_scale(g: Array, limit: float, scale: float, loss_scale: Array | None, norm: Array, factor: Array) -> None:
    """What a solver's step has to multiply the gradients g by, into the float64 scalar ``factor``: ``scale``, and
    ``limit / norm`` where their L2 norm, which goes into the scalar ``norm``, is above ``limit``; a negative ``limit``
    is none.

    ``loss_scale``, if there is any, holds four float64: the number S that g is too large by; how many steps it has
    served; after how many it doubles (0: it stays as it is); how many were left out.  A norm that is not finite leaves
    the step out, by a ``factor`` of NaN, and halves an S that may change; unless S is 1, for then it is not to blame.
    """
    flat = g.reshape(-1).astype(np.float64)
    norm[...], factor[...] = scales_of(float(flat @ flat), limit, scale, loss_scale)


def scales_of(squares: float, limit: float, scale: float, loss_scale: Array | None) -> tuple[float, float]:
    """Norm and factor of gradients, from the sum of their ``squares``: see ``gradient_scale``."""
    norm, factor = math.sqrt(squares) if squares >= 0 else math.nan, scale
    if loss_scale is not None:
        s, served, interval, _ = map(float, loss_scale)
        norm, factor = norm / s, factor / s
        if not math.isfinite(norm) and s > 1:
            loss_scale[:2] = s / 2 if interval else s, 0
            loss_scale[3] += 1
            return norm, math.nan
        doubled = interval > 0 and served + 1 >= interval
        loss_scale[:2] = (min(2 * s, LARGEST_LOSS_SCALE), 0) if doubled else (s, served + 1)
    return norm, factor * limit / norm if norm > limit >= 0 else factor
