"""Max, average and stochastic pooling of planes (H, W), shared out over the threads plane by plane."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from minicaffe.kernels.cpu.im2col import tap_range
from minicaffe.kernels.cpu.jit import kernel, parallel, share
from minicaffe.kernels.reference import FLT_MAX, Array
from minicaffe.kernels.window import Window

# Windows are taken row by row of the output and, within that, tap by tap: the innermost loop then runs along the row
# and is vectorised.  A stride known when compiling turns its strided loads into shuffles.


@kernel(inline=True)
def _max_row(pixels, place, stride, best, where):
    """One tap: keep ``pixels[j * stride]``, whose place is ``place + j * stride``, where it is above ``best[j]``."""
    for j in range(best.size):
        pixel = pixels[j * stride]
        above = pixel > best[j]
        best[j] = pixel if above else best[j]
        where[j] = np.int32(place + j * stride) if above else where[j]


@kernel(inline=True)
def _add_row(pixels, stride, total):
    for j in range(total.size):
        total[j] += pixels[j * stride]


@kernel(inline=True)
def _spread_row(values, stride, pixels):
    for j in range(values.size):
        pixels[j * stride] += values[j]


@kernel()
def _max_plane(x, y, mask, kernel, stride, pad):
    height, width = x.shape
    flat = x.reshape(-1)
    for i in range(y.shape[0]):
        y[i] = -FLT_MAX
        mask[i] = -1
        top = i * stride[0] - pad[0]
        for h in range(max(top, 0), min(top + kernel[0], height)):
            for c in range(kernel[1]):
                first = c - pad[1]
                low, high = tap_range(first, stride[1], width, y.shape[1])
                place = h * width + first + low * stride[1]
                pixels, best, where = flat[place:], y[i, low:high], mask[i, low:high]
                if stride[1] == 2:
                    _max_row(pixels, place, 2, best, where)
                else:
                    _max_row(pixels, place, stride[1], best, where)


@kernel()
def _max_plane_2x2(x, y, mask, best, where):
    """Windows of 2x2 side by side, even sizes: first the larger of each column of two, then of each pair of columns."""
    height, width = x.shape
    flat = x.reshape(-1)
    for i in range(height // 2):
        upper, lower = flat[2 * i * width :][:width], flat[(2 * i + 1) * width :][:width]
        value, place = best[i * width :][:width], where[i * width :][:width]
        for j in range(width):
            first = np.int32(2 * i * width + j)
            above = upper[j] > x.dtype.type(-FLT_MAX)
            v = upper[j] if above else x.dtype.type(-FLT_MAX)
            p = first if above else np.int32(-1)
            above = lower[j] > v
            value[j] = lower[j] if above else v
            place[j] = first + np.int32(width) if above else p
    y, mask = y.reshape(-1), mask.reshape(-1)
    for j in range(y.size):
        v, u = best[2 * j], best[2 * j + 1]
        p, q = where[2 * j], where[2 * j + 1]
        # of equal pixels the first in raster order wins
        second = u > v or (u == v and q < p)
        y[j] = u if second else v
        mask[j] = q if second else p


@kernel()
def _max_pool_part(part, parts, x, y, mask, kernel, stride, pad):
    planes, height, width = x.shape
    side_by_side = kernel == stride == (2, 2) and pad == (0, 0) and (height, width) == (2 * y.shape[1], 2 * y.shape[2])
    low, high = share(part, parts, planes)
    if side_by_side:
        best, where = np.empty(height * width // 2, x.dtype), np.empty(height * width // 2, np.int32)
        for p in range(low, high):
            _max_plane_2x2(x[p], y[p], mask[p], best, where)
    else:
        for p in range(low, high):
            _max_plane(x[p], y[p], mask[p], kernel, stride, pad)


@kernel()
def _max_pool(x, y, mask, kernel, stride, pad, threads):
    parallel(_max_pool_part, threads, (x, y, mask, kernel, stride, pad))


@kernel()
def _max_pool_grad_part(part, parts, dy, mask, dx):
    low, high = share(part, parts, len(dx))
    for p in range(low, high):
        pixels, values, where = dx[p], dy[p], mask[p]
        pixels[:] = 0
        for i in range(values.size):
            if where[i] >= 0:
                pixels[where[i]] += values[i]


@kernel()
def _max_pool_grad(dy, mask, dx, threads):
    parallel(_max_pool_grad_part, threads, (dy, mask, dx))


@kernel(inline=True)
def _area(i, j, kernel, stride, pad, height, width):
    """Pixels of window (i, j), those of the padding included; 0 for one that starts where the padding ends."""
    top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
    rows = min(top + kernel[0], height + pad[0]) - top
    columns = min(left + kernel[1], width + pad[1]) - left
    return rows * columns


@kernel()
def _average_plane(x, y, kernel, stride, pad):
    height, width = x.shape
    for i in range(y.shape[0]):
        y[i] = 0
        top = i * stride[0] - pad[0]
        for h in range(max(top, 0), min(top + kernel[0], height)):
            for c in range(kernel[1]):
                first = c - pad[1]
                low, high = tap_range(first, stride[1], width, y.shape[1])
                pixels, total = x[h, max(0, first + low * stride[1]) :], y[i, low:high]
                if stride[1] == 2:
                    _add_row(pixels, 2, total)
                else:
                    _add_row(pixels, stride[1], total)
        for j in range(y.shape[1]):
            y[i, j] /= _area(i, j, kernel, stride, pad, height, width)


@kernel()
def _average_plane_grad(dy, dx, share_of_row, kernel, stride, pad):
    height, width = dx.shape
    dx[:] = 0
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            share_of_row[j] = dy[i, j] / _area(i, j, kernel, stride, pad, height, width)
        top = i * stride[0] - pad[0]
        for h in range(max(top, 0), min(top + kernel[0], height)):
            for c in range(kernel[1]):
                first = c - pad[1]
                low, high = tap_range(first, stride[1], width, dy.shape[1])
                pixels, values = dx[h, max(0, first + low * stride[1]) :], share_of_row[low:high]
                if stride[1] == 2:
                    _spread_row(values, 2, pixels)
                else:
                    _spread_row(values, stride[1], pixels)


@kernel()
def _average_pool_part(part, parts, x, y, kernel, stride, pad):
    low, high = share(part, parts, len(x))
    for p in range(low, high):
        _average_plane(x[p], y[p], kernel, stride, pad)


@kernel()
def _average_pool(x, y, kernel, stride, pad, threads):
    parallel(_average_pool_part, threads, (x, y, kernel, stride, pad))


@kernel()
def _average_pool_grad_part(part, parts, dy, dx, kernel, stride, pad):
    share_of_row = np.empty(dy.shape[2], dy.dtype)
    low, high = share(part, parts, len(dx))
    for p in range(low, high):
        _average_plane_grad(dy[p], dx[p], share_of_row, kernel, stride, pad)


@kernel()
def _average_pool_grad(dy, dx, kernel, stride, pad, threads):
    parallel(_average_pool_grad_part, threads, (dy, dx, kernel, stride, pad))


@kernel()
def _stochastic_plane(x, u, y, mask, kernel, stride, pad):
    height, width = x.shape
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
            rows = range(max(top, 0), min(top + kernel[0], height))
            columns = range(max(left, 0), min(left + kernel[1], width))
            y[i, j], mask[i, j] = 0, -1
            if len(rows) == 0 or len(columns) == 0:
                continue
            total = x.dtype.type(0)
            for h in rows:
                for w in columns:
                    total += x[h, w]
            threshold, running, found = u[i, j] * total, x.dtype.type(0), False
            for h in rows:
                for w in columns:
                    if not found:
                        running += x[h, w]
                        found = running >= threshold
                        y[i, j], mask[i, j] = x[h, w], h * width + w


@kernel()
def _stochastic_pool_part(part, parts, x, u, y, mask, kernel, stride, pad):
    low, high = share(part, parts, len(x))
    for p in range(low, high):
        _stochastic_plane(x[p], u[p], y[p], mask[p], kernel, stride, pad)


@kernel()
def _stochastic_pool(x, u, y, mask, kernel, stride, pad, threads):
    parallel(_stochastic_pool_part, threads, (x, u, y, mask, kernel, stride, pad))


@kernel()
def _stochastic_pool_mean_part(part, parts, x, y, kernel, stride, pad):
    planes, height, width = x.shape
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
                total, squares = x.dtype.type(0), x.dtype.type(0)
                for h in range(max(top, 0), min(top + kernel[0], height)):
                    for w in range(max(left, 0), min(left + kernel[1], width)):
                        total += x[p, h, w]
                        squares += x[p, h, w] * x[p, h, w]
                y[p, i, j] = squares / total if total > 0 else 0


@kernel()
def _stochastic_pool_mean(x, y, kernel, stride, pad, threads):
    parallel(_stochastic_pool_mean_part, threads, (x, y, kernel, stride, pad))


def _planes(array: Array) -> Array:
    """(N, C, H, W) as (N * C, H, W)."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _geometry(window: Window) -> tuple:
    return window.kernel, window.stride, window.pad


def max_pool(x: Array, y: Array, mask: Array, window: Window) -> None:
    """See ``reference.max_pool``."""
    _max_pool(_planes(x), _planes(y), _planes(mask), *_geometry(window), get_num_threads())


def max_pool_grad(dy: Array, mask: Array, dx: Array, window: Window) -> None:
    """See ``reference.max_pool_grad``."""
    planes = dx.shape[0] * dx.shape[1]
    _max_pool_grad(dy.reshape(planes, -1), mask.reshape(planes, -1), dx.reshape(planes, -1), get_num_threads())


def average_pool(x: Array, y: Array, window: Window) -> None:
    """See ``reference.average_pool``."""
    _average_pool(_planes(x), _planes(y), *_geometry(window), get_num_threads())


def average_pool_grad(dy: Array, dx: Array, window: Window) -> None:
    """See ``reference.average_pool_grad``."""
    _average_pool_grad(_planes(dy), _planes(dx), *_geometry(window), get_num_threads())


def stochastic_pool(x: Array, u: Array, y: Array, mask: Array, window: Window) -> None:
    """See ``reference.stochastic_pool``."""
    _stochastic_pool(_planes(x), _planes(u), _planes(y), _planes(mask), *_geometry(window), get_num_threads())


def stochastic_pool_mean(x: Array, y: Array, window: Window) -> None:
    """See ``reference.stochastic_pool_mean``."""
    _stochastic_pool_mean(_planes(x), _planes(y), *_geometry(window), get_num_threads())
