"""Local response normalisation across channels, a block of pixels at a time, in float64 within the block."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from minicaffe.kernels.cpu.jit import kernel, share
from minicaffe.kernels.reference import Array

_BLOCK = 256  # pixels worked on at a time: the planes of a window stay in the L2 cache


@kernel()
def _sum_planes(planes, first, last, total):
    """Sum of the planes ``first`` .. ``last`` - 1 of (C, width), those that exist."""
    total[:] = 0
    for c in range(max(first, 0), min(last, len(planes))):
        plane = planes[c]
        for i in range(total.size):
            total[i] += plane[i]


@kernel()
def _power(base, exponent):
    """``base ** exponent``; roots, which are what nets use, are much faster than the general power."""
    if exponent == -0.75:
        for i in range(base.size):
            root = np.sqrt(base[i])
            base[i] = 1 / (root * np.sqrt(root))
    elif exponent == -0.5:
        for i in range(base.size):
            base[i] = 1 / np.sqrt(base[i])
    else:
        for i in range(base.size):
            base[i] = base[i] ** exponent


@kernel(parallel=True)
def _lrn(x, scale, y, half, factor, beta, k, threads):
    n, c, inner = x.shape
    blocks = -(-inner // _BLOCK)
    for t in prange(threads):
        squares, total = np.empty((c, _BLOCK)), np.empty(_BLOCK)
        low, high = share(t, threads, n * blocks)
        for item in range(low, high):
            image, first = item // blocks, item % blocks * _BLOCK
            last = min(first + _BLOCK, inner)
            width = last - first
            for j in range(c):
                source, square = x[image, j, first:last], squares[j, :width]
                for i in range(width):
                    square[i] = np.float64(source[i]) * source[i]
            for j in range(c):
                part = total[:width]
                _sum_planes(squares, j - half, j + half + 1, part)
                source, kept, out = x[image, j, first:last], scale[image, j, first:last], y[image, j, first:last]
                for i in range(width):
                    part[i] = k + factor * part[i]
                    kept[i] = part[i]
                _power(part, -beta)
                for i in range(width):
                    out[i] = source[i] * part[i]


@kernel(parallel=True)
def _lrn_grad(x, y, scale, dy, dx, half, factor, beta, threads):
    n, c, inner = x.shape
    blocks = -(-inner // _BLOCK)
    for t in prange(threads):
        ratios, total, power = np.empty((c, _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK)
        low, high = share(t, threads, n * blocks)
        for item in range(low, high):
            image, first = item // blocks, item % blocks * _BLOCK
            last = min(first + _BLOCK, inner)
            width = last - first
            for j in range(c):
                top, slope, kept = y[image, j, first:last], dy[image, j, first:last], scale[image, j, first:last]
                ratio = ratios[j, :width]
                for i in range(width):
                    ratio[i] = np.float64(slope[i]) * top[i] / kept[i]
            for j in range(c):
                part, damping = total[:width], power[:width]
                _sum_planes(ratios, j - half, j + half + 1, part)
                damping[:] = scale[image, j, first:last]
                _power(damping, -beta)
                source, slope, out = x[image, j, first:last], dy[image, j, first:last], dx[image, j, first:last]
                for i in range(width):
                    out[i] = slope[i] * damping[i] - factor * source[i] * part[i]


def lrn(x: Array, scale: Array, y: Array, size: int, alpha: float, beta: float, k: float) -> None:
    """See ``reference.lrn``."""
    half = (size - 1) // 2
    _lrn(x, scale, y, half, float(alpha / size), float(beta), float(k), get_num_threads())


def lrn_grad(x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float) -> None:
    """See ``reference.lrn_grad``."""
    half = (size - 1) // 2
    _lrn_grad(x, y, scale, dy, dx, half, float(2 * alpha * beta / size), float(beta), get_num_threads())
