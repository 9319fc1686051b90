"""Local response normalisation, across channels and within them; intermediate results stay in the cache."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.address import quotient, size_of
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import called, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.damping import REAL_SIZE, damp_row, square_row
from minicaffe.kernels.cpu.simd.mathlib import exp, log
from minicaffe.kernels.reference import Array

_BLOCK = 512  # pixels at a time: so many of all channels of a window stay in the L2 cache


@kernel(internal=True)
def _power(base, exponent):
    """``base ** exponent``; the exponents that nets use are made of square roots, much faster than a general power."""
    one = base.dtype.type(1)
    if exponent == -0.75:
        for i in range(base.size):
            root = np.sqrt(base[i])
            base[i] = one / (root * np.sqrt(root))
    elif exponent == -0.5:
        for i in range(base.size):
            base[i] = one / np.sqrt(base[i])
    else:
        for i in range(base.size):
            base[i] = exp(exponent * log(base[i]))


# --- across channels ------------------------------------------------------------------------------------------------


@kernel(internal=True)
def _sum_planes(planes, first, last, total):
    """Sum of the channels ``first`` .. ``last`` - 1 of (C, width), as far as they exist."""
    total[:] = 0
    for c in range(max(first, 0), min(last, len(planes))):
        plane = planes[c]
        for i in range(total.size):
            total[i] += plane[i]


@called
def _damp_any(x, image, channel, first, scale, keeps, y, total, half, factor, exponent, k):
    """A channel's pixels from ``first`` on, as many as there are totals, whatever the exponent and the sums."""
    total[:] = 0
    last = first + total.size
    for c in range(max(channel - half, 0), min(channel + half + 1, x.shape[1])):
        plane = x[image, c, first:last]
        for i in range(total.size):
            total[i] += np.float64(plane[i]) * plane[i]
    source, out = x[image, channel, first:last], y[image, channel, first:last]
    kept = scale[image, channel, first:last] if keeps else out
    for i in range(total.size):
        total[i] = k + factor * total[i]
        kept[i] = total[i]
    _power(total, exponent)
    for i in range(total.size):
        out[i] = source[i] * total[i]


@part_kernel()
def _lrn_part(part, parts, x, scale, keeps, y, half, factor, exponent, k):
    n, c, inner = x.shape
    like, total = x.dtype.type(0), np.empty(_BLOCK)
    size, blocks = size_of(like), quotient(inner + _BLOCK - 1, _BLOCK)
    half = min(half, c)  # a window that reaches further holds no more
    rows, row = half + 1 + half, _BLOCK * REAL_SIZE
    memory = np.empty(rows * _BLOCK)
    source, kept, target = x.ctypes.data, scale.ctypes.data, y.ctypes.data
    low, high = share(part, parts, n * blocks)
    for item in range(low, high):
        ring = memory.ctypes.data  # asked for here, or the memory would be given back before
        image = quotient(item, blocks)
        first = (item - image * blocks) * _BLOCK
        count = min(_BLOCK, inner - first)
        place = 0  # of a channel's squares in the ring, which holds those of a window; beyond all channels they are 0
        for last in range(-half, c + half):
            at, middle = ((image * c + last) * inner + first) * size, last - half
            square_row(ring + place * row, source + at, count if 0 <= last < c else 0, count, like)
            place = place + 1 if place + 1 < rows else 0
            if middle >= 0:
                at -= half * inner * size
                to = kept + at if keeps else 0
                if exponent != -0.75 or not damp_row(
                    target + at, to, source + at, ring, row, rows, count, factor, k, like
                ):
                    _damp_any(x, image, middle, first, scale, keeps, y, total[:count], half, factor, exponent, k)


@kernel()
def _lrn(x, scale, keeps, y, half, factor, exponent, k, parts):
    parallel(_lrn_part, parts, (x, scale, keeps, y, half, factor, exponent, k))


@part_kernel()
def _lrn_grad_part(part, parts, x, y, scale, dy, dx, half, factor, exponent):
    n, c, inner = x.shape
    blocks = -(-inner // _BLOCK)
    ratios, totals, powers = np.empty((c, _BLOCK), x.dtype), np.empty(_BLOCK, x.dtype), np.empty(_BLOCK, x.dtype)
    low, high = share(part, parts, n * blocks)
    for item in range(low, high):
        image, first = item // blocks, item % blocks * _BLOCK
        last = min(first + _BLOCK, inner)
        for j in range(c):
            top, gradient, kept = y[image, j, first:last], dy[image, j, first:last], scale[image, j, first:last]
            ratio = ratios[j, : last - first]
            for i in range(ratio.size):
                ratio[i] = gradient[i] * top[i] / kept[i]
        for j in range(c):
            total, damping = totals[: last - first], powers[: last - first]
            _sum_planes(ratios, j - half, j + half + 1, total)
            kept = scale[image, j, first:last]
            for i in range(damping.size):
                damping[i] = kept[i]
            _power(damping, exponent)
            source, gradient, out = x[image, j, first:last], dy[image, j, first:last], dx[image, j, first:last]
            for i in range(total.size):
                out[i] = gradient[i] * damping[i] - factor * source[i] * total[i]


@kernel()
def _lrn_grad(x, y, scale, dy, dx, half, factor, exponent, parts):
    parallel(_lrn_grad_part, parts, (x, y, scale, dy, dx, half, factor, exponent))


@capturable
def lrn(x: Array, scale: Array | None, y: Array, size: int, alpha: float, beta: float, k: float) -> None:
    """See ``reference.lrn``.

    Squares, sums and the power -3/4 are of float64, and y is rounded once: nets with several LRN layers are sensitive
    to the rounding errors of these sums and roots.
    """
    memory, half = y if scale is None else scale, (size - 1) // 2
    _lrn(x, memory, scale is not None, y, half, float(alpha / size), float(-beta), float(k), parts(x.size))


@capturable
def lrn_grad(x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float) -> None:
    """See ``reference.lrn_grad``."""
    real, half = x.dtype.type, (size - 1) // 2
    _lrn_grad(x, y, scale, dy, dx, half, real(2 * alpha * beta / size), real(-beta), parts(x.size))


# --- within channels ------------------------------------------------------------------------------------------------


@kernel()
def _sum_boxes(padded, across, total, size, pitch):
    """Sums of the ``size`` x ``size`` boxes that start at each pixel of a padded plane with rows of ``pitch`` pixels.

    ``total`` has no sums for the last ``size - 1`` rows.
    """
    for i in range(across.size):
        across[i] = padded[i]
    for offset in range(1, size):
        shifted = padded[offset:]
        for i in range(shifted.size):
            across[i] += shifted[i]
    for i in range(total.size):
        total[i] = across[i]
    for offset in range(1, size):
        shifted = across[offset * pitch :]
        for i in range(total.size):
            total[i] += shifted[i]


@part_kernel()
def _within_part(part, parts, x, scale, keeps, y, size, factor, exponent):
    planes, height, width = x.shape
    half, pitch = size // 2, width + size - 1
    padded, across = np.zeros((height + size - 1) * pitch, x.dtype), np.empty((height + size - 1) * pitch, x.dtype)
    total = np.empty(height * pitch, x.dtype)
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for h in range(height):
            start = np.uintp((h + half) * pitch + half)
            for w in range(width):
                padded[start + np.uintp(w)] = x[p, h, w] * x[p, h, w]
        _sum_boxes(padded, across, total, size, pitch)
        for i in range(total.size):
            total[i] = x.dtype.type(1) + factor * total[i]
        for h in range(height):
            start = np.uintp(h * pitch)
            for w in range(width if keeps else 0):
                scale[p, h, w] = total[start + np.uintp(w)]
        _power(total, exponent)
        for h in range(height):
            start = np.uintp(h * pitch)
            for w in range(width):
                y[p, h, w] = x[p, h, w] * total[start + np.uintp(w)]


@kernel()
def _within(x, scale, keeps, y, size, factor, exponent, parts):
    parallel(_within_part, parts, (x, scale, keeps, y, size, factor, exponent))


@part_kernel()
def _within_grad_part(part, parts, x, y, scale, dy, dx, size, factor, exponent):
    planes, height, width = x.shape
    half, pitch = size // 2, width + size - 1
    padded, across = np.zeros((height + size - 1) * pitch, x.dtype), np.empty((height + size - 1) * pitch, x.dtype)
    total, damping = np.empty(height * pitch, x.dtype), np.ones(height * pitch, x.dtype)
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for h in range(height):
            start, row = np.uintp((h + half) * pitch + half), np.uintp(h * pitch)
            for w in range(width):
                padded[start + np.uintp(w)] = dy[p, h, w] * y[p, h, w] / scale[p, h, w]
                damping[row + np.uintp(w)] = scale[p, h, w]
        _sum_boxes(padded, across, total, size, pitch)
        _power(damping, exponent)
        for h in range(height):
            row = np.uintp(h * pitch)
            for w in range(width):
                at = row + np.uintp(w)
                dx[p, h, w] = dy[p, h, w] * damping[at] - factor * x[p, h, w] * total[at]


@kernel()
def _within_grad(x, y, scale, dy, dx, size, factor, exponent, parts):
    parallel(_within_grad_part, parts, (x, y, scale, dy, dx, size, factor, exponent))


def _planes(array: Array) -> Array:
    """(N, C, H, W) as (N * C, H, W)."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


@capturable
def lrn_within(x: Array, scale: Array | None, y: Array, size: int, alpha: float, beta: float) -> None:
    """See ``reference.lrn_within``."""
    real, memory = x.dtype.type, y if scale is None else scale
    x, memory, y = map(_planes, (x, memory, y))
    _within(x, memory, scale is not None, y, size, real(alpha / size**2), real(-beta), parts(x.size))


@capturable
def lrn_within_grad(
    x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float
) -> None:
    """See ``reference.lrn_within_grad``."""
    real, arrays = x.dtype.type, map(_planes, (x, y, scale, dy, dx))
    _within_grad(*arrays, size, real(2 * alpha * beta / size**2), real(-beta), parts(x.size))
