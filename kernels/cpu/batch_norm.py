"""Batch normalisation, scaling and rectification of channels, fused into as few passes over memory as possible.

Arrays are (N, C, inner).  A part works channel by channel, so that a channel that is read again is still in the cache.
Results pass through a buffer, so that loops are vectorised even if an output is one of the inputs.  ``below`` is what
values that are not above 0 are multiplied by (leaky ReLU); 1 leaves them alone.
"""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels import reference
from minicaffe.kernels.cpu.runtime.capture import capturable, not_capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, difference, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array

_PIECE = np.uintp(1024)  # elements that are summed in the arrays' dtype; the sums of pieces are added up in float64
_START = np.uintp(0)  # an unsigned index needs no check for negative values, which would keep a loop from vectorising


@kernel(fastmath=REASSOCIATE)
def _moments(x, c):
    """Mean and variance of a channel."""
    n, inner = x.shape[0], np.uintp(x.shape[2])
    total, squares = 0.0, 0.0
    for r in range(n):
        for first in range(_START, inner, _PIECE):
            piece = x.dtype.type(0)
            for i in range(first, min(first + _PIECE, inner)):
                piece += x[r, c, i]
            total += piece
    mean = x.dtype.type(total / (n * inner))
    for r in range(n):
        for first in range(_START, inner, _PIECE):
            piece = x.dtype.type(0)
            for i in range(first, min(first + _PIECE, inner)):
                piece += difference(x[r, c, i], mean) * difference(x[r, c, i], mean)
            squares += piece
    return mean, x.dtype.type(squares / (n * inner))


@kernel(fastmath=REASSOCIATE)
def _sums(x, dy, y, c, mean, below):
    """Sums over a channel of g, the gradient before the rectifier, and of g (x - mean)."""
    n, inner, zero = x.shape[0], np.uintp(x.shape[2]), x.dtype.type(0)
    total, product = 0.0, 0.0
    for r in range(n):
        for first in range(_START, inner, _PIECE):
            piece, product_piece = zero, zero
            for i in range(first, min(first + _PIECE, inner)):
                g = dy[r, c, i] if y[r, c, i] > zero else dy[r, c, i] * below
                piece += g
                product_piece += g * difference(x[r, c, i], mean)
            total += piece
            product += product_piece
    return total, product


@part_kernel()
def _standardize_part(part, parts, x, eps, mean, variance, factor, y, kept, copies, v, b, below):
    buffer = np.empty(_PIECE, x.dtype)
    n, channels, inner, zero = x.shape[0], x.shape[1], np.uintp(x.shape[2]), x.dtype.type(0)
    low, high = share(part, parts, channels)
    for c in range(low, high):
        mean[c], variance[c] = _moments(x, c)
        factor[c] = x.dtype.type(1) / math.sqrt(variance[c] + eps)
        centre, slope, level = mean[c], factor[c] * v[c], b[c]
        for r in range(n):
            for first in range(_START, inner, _PIECE):
                count = min(_PIECE, inner - first)
                if copies:
                    for i in range(_START, count):
                        kept[r, c, first + i] = x[r, c, first + i]
                for i in range(_START, count):
                    z = (x[r, c, first + i] - centre) * slope + level
                    buffer[i] = z if z > zero else z * below
                for i in range(_START, count):
                    y[r, c, first + i] = buffer[i]


@kernel()
def _standardize(x, eps, mean, variance, factor, y, kept, copies, v, b, below, parts):
    parallel(_standardize_part, parts, (x, eps, mean, variance, factor, y, kept, copies, v, b, below))


@part_kernel()
def _standardize_grad_part(part, parts, x, dy, mean, factor, dy_mean, dot_mean, dx, y, v, below, dv, db):
    buffer = np.empty(_PIECE, x.dtype)
    n, channels, inner, zero = x.shape[0], x.shape[1], np.uintp(x.shape[2]), x.dtype.type(0)
    low, high = share(part, parts, channels)
    for c in range(low, high):
        centre, slope, outer_slope = mean[c], factor[c], factor[c] * v[c]
        total, product = _sums(x, dy, y, c, centre, below)
        dv[c] += product * slope
        db[c] += total
        dy_mean[c], dot_mean[c] = total / (n * inner), product * slope / (n * inner)
        level, dot = dy_mean[c], dot_mean[c]
        for r in range(n):
            for first in range(_START, inner, _PIECE):
                count = min(_PIECE, inner - first)
                for i in range(_START, count):
                    g = dy[r, c, first + i] if y[r, c, first + i] > zero else dy[r, c, first + i] * below
                    buffer[i] = (g - level - (x[r, c, first + i] - centre) * slope * dot) * outer_slope
                for i in range(_START, count):
                    dx[r, c, first + i] = buffer[i]


@kernel()
def _standardize_grad(x, dy, mean, factor, dy_mean, dot_mean, dx, y, v, below, dv, db, parts):
    parallel(_standardize_grad_part, parts, (x, dy, mean, factor, dy_mean, dot_mean, dx, y, v, below, dv, db))


@part_kernel()
def _scale_part(part, parts, x, centre, v, b, y, kept, copies, below):
    buffer = np.empty(_PIECE, x.dtype)
    n, channels, inner, zero = x.shape[0], x.shape[1], np.uintp(x.shape[2]), x.dtype.type(0)
    low, high = share(part, parts, n * channels)
    for row in range(low, high):
        r, c = row // channels, row % channels
        origin, slope, level = centre[c], v[c], b[c]
        for first in range(_START, inner, _PIECE):
            count = min(_PIECE, inner - first)
            if copies:
                for i in range(_START, count):
                    kept[r, c, first + i] = x[r, c, first + i]
            for i in range(_START, count):
                z = (x[r, c, first + i] - origin) * slope + level
                buffer[i] = z if z > zero else z * below
            for i in range(_START, count):
                y[r, c, first + i] = buffer[i]


@kernel()
def _scale(x, centre, v, b, y, kept, copies, below, parts):
    parallel(_scale_part, parts, (x, centre, v, b, y, kept, copies, below))


@part_kernel(fastmath=REASSOCIATE)
def _scale_grad_part(part, parts, x, dy, v, dx, dv, db, wanted):
    buffer = np.empty(_PIECE, dy.dtype)
    n, channels, inner = dy.shape[0], dy.shape[1], np.uintp(dy.shape[2])
    low, high = share(part, parts, channels)
    for c in range(low, high):
        slope, total, product = v[c], 0.0, 0.0
        for r in range(n):
            for first in range(_START, inner, _PIECE):
                count = min(_PIECE, inner - first)
                piece, product_piece = dy.dtype.type(0), dy.dtype.type(0)
                if wanted[1]:
                    for i in range(_START, count):
                        product_piece += dy[r, c, first + i] * x[r, c, first + i]
                if wanted[2]:
                    for i in range(_START, count):
                        piece += dy[r, c, first + i]
                if wanted[0]:
                    for i in range(_START, count):
                        buffer[i] = dy[r, c, first + i] * slope
                    for i in range(_START, count):
                        dx[r, c, first + i] = buffer[i]
                product += product_piece
                total += piece
        if wanted[1]:
            dv[c] += product
        if wanted[2]:
            db[c] += total


@kernel()
def _scale_grad(x, dy, v, dx, dv, db, wanted, parts):
    parallel(_scale_grad_part, parts, (x, dy, v, dx, dv, db, wanted))


def _filled(like: Array, number: float) -> Array:
    """A stand-in for an optional array that was not given."""
    return np.full_like(like, number)


@capturable
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
    """See ``reference.standardize``."""
    if x.shape[2] == 1 or not x.size:
        not_capturable()
        reference.standardize(x, eps, mean, variance, factor, y, kept, v, b, slope)
        return
    memory, eps, slope = y if kept is None else kept, x.dtype.type(eps), x.dtype.type(slope)
    v, b = _filled(mean, 1) if v is None else v, _filled(mean, 0) if b is None else b
    _standardize(x, eps, mean, variance, factor, y, memory, kept is not None, v, b, slope, parts(x.size))


@capturable
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
    """See ``reference.standardize_grad``."""
    if x.shape[2] == 1 or not x.size:
        not_capturable()
        reference.standardize_grad(x, dy, mean, factor, dy_mean, dot_mean, dx, y, v, dv, db, slope)
        return
    y, slope = (x, 1.0) if y is None else (y, slope)
    v = _filled(mean, 1) if v is None else v
    dv, db = (_filled(mean, 0) if total is None else total for total in (dv, db))
    _standardize_grad(x, dy, mean, factor, dy_mean, dot_mean, dx, y, v, x.dtype.type(slope), dv, db, parts(x.size))


@capturable
def scale(
    x: Array,
    v: Array,
    b: Array | None,
    y: Array,
    kept: Array | None,
    centre: Array | None = None,
    slope: float = 1.0,
) -> None:
    """See ``reference.scale``."""
    if x.shape[2] == 1:
        not_capturable()
        reference.scale(x, v, b, y, kept, centre, slope)
        return
    origin, level = (_filled(v, 0) if a is None else a for a in (centre, b))
    memory = y if kept is None else kept
    _scale(x, origin, v, level, y, memory, kept is not None, x.dtype.type(slope), parts(x.size))


@capturable
def scale_grad(x: Array, dy: Array, v: Array, dx: Array | None, dv: Array | None, db: Array | None) -> None:
    """See ``reference.scale_grad``."""
    if x.shape[2] == 1:
        not_capturable()
        reference.scale_grad(x, dy, v, dx, dv, db)
    else:
        wanted = (dx is not None, dv is not None, db is not None)
        results = dy if dx is None else dx, v if dv is None else dv, v if db is None else db
        _scale_grad(x, dy, v, *results, wanted, parts(dy.size))
