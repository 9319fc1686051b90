"""Max, average and stochastic pooling of planes (H, W), shared out over the threads.

Max and average pooling take as many planes at a time as a chunk has numbers, transposed so that a chunk holds the same pixel of
each plane: every window, whatever its size and stride, is then a few SIMD instructions a pixel.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from minicaffe.kernels.cpu.jit import kernel, parallel, share
from minicaffe.kernels.cpu.simd import CHUNK, size_of, transpose, window_max, window_mean, window_spread
from minicaffe.kernels.reference import FLT_MAX, Array
from minicaffe.kernels.window import Window


@kernel(inline=True)
def _clip(first, extent, size):
    """The pixels [low, high) of an axis of ``size`` pixels that a window starting at ``first`` holds."""
    return max(first, 0), min(first + extent, size)


@kernel()
def _max_planes(pixels, largest, where, image, pooled, kernel, stride, pad, like):
    width, lanes = image[1], CHUNK // size_of(like)
    least = type(like)(-FLT_MAX)
    for i in range(pooled[0]):
        top, bottom = _clip(i * stride[0] - pad[0], kernel[0], image[0])
        for j in range(pooled[1]):
            left, right = _clip(j * stride[1] - pad[1], kernel[1], width)
            place = top * width + left
            window_max(largest, where, pixels + place * CHUNK, bottom - top, right - left, width, least, place, like)
            largest += CHUNK
            where += lanes * 4


@kernel()
def _max_pool_part(part, parts, x, y, mask, kernel, stride, pad):
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = CHUNK // size
    image, pooled = x.shape[1:], y.shape[1:]
    area, pooled_area = image[0] * image[1], pooled[0] * pooled[1]
    pixels, largest = np.empty((area, lanes), x.dtype), np.empty((pooled_area, lanes), x.dtype)
    where = np.empty((pooled_area, lanes), np.int32)
    low, high = share(part, parts, len(x))
    for p in range(low, high, lanes):
        planes = min(lanes, high - p)
        transpose(pixels.ctypes.data, CHUNK, x[p].ctypes.data, area * size, planes, area, like)
        _max_planes(
            pixels.ctypes.data, largest.ctypes.data, where.ctypes.data, image, pooled, kernel, stride, pad, like
        )
        transpose(y[p].ctypes.data, pooled_area * size, largest.ctypes.data, CHUNK, pooled_area, planes, like)
        transpose(mask[p].ctypes.data, pooled_area * 4, where.ctypes.data, lanes * 4, pooled_area, planes, np.int32(0))


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
def _area(i, j, kernel, stride, pad, image):
    """Pixels of window (i, j), those of the padding included; 0 for one that starts where the padding ends."""
    top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
    return (min(top + kernel[0], image[0] + pad[0]) - top) * (min(left + kernel[1], image[1] + pad[1]) - left)


@kernel()
def _average_planes(pixels, mean, image, pooled, kernel, stride, pad, backward, like):
    """Forward from the pixels to the windows' means, or backward from the gradients of these to those of the pixels."""
    width = image[1]
    for i in range(pooled[0]):
        top, bottom = _clip(i * stride[0] - pad[0], kernel[0], image[0])
        for j in range(pooled[1]):
            left, right = _clip(j * stride[1] - pad[1], kernel[1], width)
            first = pixels + (top * width + left) * CHUNK
            area = type(like)(_area(i, j, kernel, stride, pad, image))
            if backward:
                window_spread(mean, first, bottom - top, right - left, width, area, like)
            else:
                window_mean(mean, first, bottom - top, right - left, width, area, like)
            mean += CHUNK


@kernel()
def _average_part(part, parts, x, y, kernel, stride, pad, backward):
    like = x.dtype.type(0)
    size = size_of(like)
    lanes = CHUNK // size
    image, pooled = x.shape[1:], y.shape[1:]
    area, pooled_area = image[0] * image[1], pooled[0] * pooled[1]
    pixels, mean = np.empty((area, lanes), x.dtype), np.empty((pooled_area, lanes), x.dtype)
    low, high = share(part, parts, len(x))
    for p in range(low, high, lanes):
        planes = min(lanes, high - p)
        if backward:
            pixels[:] = 0
            transpose(mean.ctypes.data, CHUNK, y[p].ctypes.data, pooled_area * size, planes, pooled_area, like)
        else:
            transpose(pixels.ctypes.data, CHUNK, x[p].ctypes.data, area * size, planes, area, like)
        _average_planes(pixels.ctypes.data, mean.ctypes.data, image, pooled, kernel, stride, pad, backward, like)
        if backward:
            transpose(x[p].ctypes.data, area * size, pixels.ctypes.data, CHUNK, area, planes, like)
        else:
            transpose(y[p].ctypes.data, pooled_area * size, mean.ctypes.data, CHUNK, pooled_area, planes, like)


@kernel()
def _average(x, y, kernel, stride, pad, backward, threads):
    parallel(_average_part, threads, (x, y, kernel, stride, pad, backward))


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
    _average(_planes(x), _planes(y), *_geometry(window), False, get_num_threads())


def average_pool_grad(dy: Array, dx: Array, window: Window) -> None:
    """See ``reference.average_pool_grad``."""
    _average(_planes(dx), _planes(dy), *_geometry(window), True, get_num_threads())


def stochastic_pool(x: Array, u: Array, y: Array, mask: Array, window: Window) -> None:
    """See ``reference.stochastic_pool``."""
    _stochastic_pool(_planes(x), _planes(u), _planes(y), _planes(mask), *_geometry(window), get_num_threads())


def stochastic_pool_mean(x: Array, y: Array, window: Window) -> None:
    """See ``reference.stochastic_pool_mean``."""
    _stochastic_pool_mean(_planes(x), _planes(y), *_geometry(window), get_num_threads())
