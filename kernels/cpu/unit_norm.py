"""Vectors of a length of 1, and the gradient through their length, along the middle axis of (outer, C, inner).

A part takes a block of columns, channel by channel, so that what is read again is still in the cache; with ``inner`` 1,
a vector is a row.
"""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array

_START = np.uintp(0)  # an unsigned index needs no check for negative values, which would keep a loop from vectorising
_BLOCK = 64  # columns at a time
_PIECE = np.uintp(1024)  # elements that are summed in the arrays' dtype; the sums of pieces are added up in float64


@kernel(fastmath=REASSOCIATE, internal=True)
def _row_product(a, b, o):
    """The inner product of two matrices' rows ``o``."""
    length, total = np.uintp(a.shape[1]), 0.0
    for first in range(_START, length, _PIECE):
        piece = a.dtype.type(0)
        for k in range(first, min(first + _PIECE, length)):
            piece += a[o, k] * b[o, k]
        total += piece
    return total


@kernel(fastmath=REASSOCIATE, internal=True)
def _row_size(a, o):
    """The sum of the magnitudes in row ``o``."""
    length, total = np.uintp(a.shape[1]), 0.0
    for first in range(_START, length, _PIECE):
        piece = a.dtype.type(0)
        for k in range(first, min(first + _PIECE, length)):
            piece += abs(a[o, k])
        total += piece
    return total


@part_kernel()
def _rows_part(part, parts, x, eps, squares, norm, z):
    low, high = share(part, parts, len(x))
    for o in range(low, high):
        length = math.sqrt(eps + _row_product(x, x, o)) if squares else eps + _row_size(x, o)
        norm[o, 0] = length
        for k in range(_START, np.uintp(x.shape[1])):
            z[o, k] = x[o, k] / norm[o, 0]


@kernel()
def _rows(x, eps, squares, norm, z, parts):
    parallel(_rows_part, parts, (x, eps, squares, norm, z))


@part_kernel()
def _columns_part(part, parts, x, eps, squares, norm, z):
    outer, _, inner = x.shape
    total = np.empty(_BLOCK, x.dtype)
    blocks = -(-inner // _BLOCK)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, np.uintp(item % blocks * _BLOCK)
        width = np.uintp(min(_BLOCK, inner - item % blocks * _BLOCK))
        for i in range(_START, width):
            total[i] = eps
        for k in range(x.shape[1]):
            if squares:
                for i in range(_START, width):
                    total[i] += x[o, k, first + i] * x[o, k, first + i]
            else:
                for i in range(_START, width):
                    total[i] += abs(x[o, k, first + i])
        if squares:
            for i in range(_START, width):
                total[i] = math.sqrt(total[i])
        for i in range(_START, width):
            norm[o, first + i] = total[i]
        for k in range(x.shape[1]):
            for i in range(_START, width):
                z[o, k, first + i] = x[o, k, first + i] / total[i]


@kernel()
def _columns(x, eps, squares, norm, z, parts):
    parallel(_columns_part, parts, (x, eps, squares, norm, z))


@part_kernel()
def _rows_grad_part(part, parts, z, norm, dz, squares, dnorm, counts, dx):
    low, high = share(part, parts, len(z))
    for o in range(low, high):
        along = z.dtype.type(_row_product(z, dz, o))
        weight = dnorm[o, 0] if counts else z.dtype.type(0)
        for k in range(_START, np.uintp(z.shape[1])):
            g = z[o, k] if squares else np.sign(z[o, k])
            dx[o, k] = (dz[o, k] - g * along) / norm[o, 0] + g * weight


@kernel()
def _rows_grad(z, norm, dz, squares, dnorm, counts, dx, parts):
    parallel(_rows_grad_part, parts, (z, norm, dz, squares, dnorm, counts, dx))


@part_kernel()
def _columns_grad_part(part, parts, z, norm, dz, squares, dnorm, counts, dx):
    outer, _, inner = z.shape
    along, weight = np.empty(_BLOCK, z.dtype), np.empty(_BLOCK, z.dtype)
    blocks = -(-inner // _BLOCK)
    low, high = share(part, parts, outer * blocks)
    for item in range(low, high):
        o, first = item // blocks, np.uintp(item % blocks * _BLOCK)
        width = np.uintp(min(_BLOCK, inner - item % blocks * _BLOCK))
        for i in range(_START, width):
            along[i] = 0
            weight[i] = dnorm[o, first + i] if counts else z.dtype.type(0)
        for k in range(z.shape[1]):
            for i in range(_START, width):
                along[i] += z[o, k, first + i] * dz[o, k, first + i]
        for k in range(z.shape[1]):
            for i in range(_START, width):
                g = z[o, k, first + i] if squares else np.sign(z[o, k, first + i])
                straight = (dz[o, k, first + i] - g * along[i]) / norm[o, first + i]
                dx[o, k, first + i] = straight + g * weight[i]


@kernel()
def _columns_grad(z, norm, dz, squares, dnorm, counts, dx, parts):
    parallel(_columns_grad_part, parts, (z, norm, dz, squares, dnorm, counts, dx))


@capturable
def unit_norm(x: Array, eps: float, power: int, norm: Array, z: Array) -> None:
    """See ``reference.unit_norm``."""
    eps, squares = x.dtype.type(eps), power == 2
    if x.shape[2] == 1:
        rows = x.shape[:2]
        _rows(x.reshape(rows), eps, squares, norm, z.reshape(rows), parts(x.size))
    else:
        _columns(x, eps, squares, norm, z, parts(x.size))


@capturable
def unit_norm_grad(z: Array, norm: Array, dz: Array, power: int, dnorm: Array | None, dx: Array) -> None:
    """See ``reference.unit_norm_grad``."""
    squares, counts, weights = power == 2, dnorm is not None, norm if dnorm is None else dnorm
    if z.shape[2] == 1:
        rows = z.shape[:2]
        arrays = z.reshape(rows), norm, dz.reshape(rows)
        _rows_grad(*arrays, squares, weights, counts, dx.reshape(rows), parts(z.size))
    else:
        _columns_grad(z, norm, dz, squares, weights, counts, dx, parts(z.size))
