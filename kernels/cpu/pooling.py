"""Max, average and stochastic pooling of planes (H, W), which are divided among the threads."""

from __future__ import annotations

import functools

import numpy as np

from minicaffe.kernels.cpu.runtime.address import load, quotient, size_of, store
from minicaffe.kernels.cpu.runtime.capture import capturable, parts_of_replay
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, called, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.memory import WIDTH, fill_row
from minicaffe.kernels.cpu.simd.pool_largest import (
    largest_along,
    largest_down,
    largest_of_squares,
    largest_two_apart,
)
from minicaffe.kernels.cpu.simd.pool_windows import gather_max, gather_sum, known, scatter_max, scatter_sum
from minicaffe.kernels.reference import FLT_MAX, Array
from minicaffe.kernels.window import Window

_STRIP = 4096
"""Elements of a plane that are gone through twice while they are in the L1 cache."""

_LEAST = 1 << 10  # elements: to pool so many takes longer than two threads take to meet


def _planes(*arrays: Array) -> list[Array]:
    """Arrays (N, C, H, W) as (N * C, H, W)."""
    return [a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]) for a in arrays]


def _parts(a: Array) -> int:
    """Into how many parts to divide the planes of ``a``, each of which is in one."""
    return parts_of_replay(a.size, _LEAST)


def _pixels(*arrays: Array) -> list[Array]:
    """Arrays (N, C, H, W) as (N * C, H * W)."""
    return [a.reshape(a.shape[0] * a.shape[1], a.shape[2] * a.shape[3]) for a in arrays]


@kernel(inline=True)
def _clip(first, extent, size):
    """The pixels [low, high) of an axis of ``size`` pixels that are in a window starting at ``first``."""
    return max(first, 0), min(first + extent, size)


@part_kernel()
def _max_pool_part(part, parts, x, y, mask, kernel, stride, pad, taps, step):
    least = x.dtype.type(-FLT_MAX)
    size = size_of(least)
    planes, height, width = x.shape
    rows, columns = y.shape[1:]
    source, target, places = x.ctypes.data, y.ctypes.data, mask.ctypes.data
    lanes = WIDTH // size
    low, high = share(part, parts, planes)
    for p in range(low, high):
        pixels = source + p * height * width * size
        for i in range(rows):
            top, bottom = _clip(i * stride[0] - pad[0], kernel[0], height)
            at = (p * rows + i) * columns
            if columns <= lanes:  # what depends on the column only is then hoisted out of the loop over rows
                gather_max(
                    target + at * size, places + at * 4, pixels, top, bottom,
                    -pad[1], kernel[1], stride[1], width, columns, least, taps, step,
                )  # fmt: skip
            else:
                for j in range(0, columns, lanes):
                    gather_max(
                        target + (at + j) * size, places + (at + j) * 4, pixels, top, bottom,
                        j * stride[1] - pad[1], kernel[1], stride[1], width, columns - j, least, taps, step,
                    )  # fmt: skip


@kernel()
def _max_pool(kernel, stride, pad, taps, step, parts, x, y, mask):
    parallel(_max_pool_part, parts, (x, y, mask, kernel, stride, pad, taps, step))


@called
def _largest_or_nan(x, y, height, width, rows, columns, kernel, stride, pad, least):
    """The largest of ``least`` and a window's pixels, for a plane that is not finite; NaN is above all numbers."""
    size = size_of(least)
    for i in range(rows):
        top, bottom = _clip(i * stride[0] - pad[0], kernel[0], height)
        for j in range(columns):
            left, right = _clip(j * stride[1] - pad[1], kernel[1], width)
            best = least
            for h in range(top, bottom):
                for w in range(left, right):
                    pixel = load(x + (h * width + w) * size, least)
                    if pixel > best or pixel != pixel:
                        best = pixel
            store(y + (i * columns + j) * size, best)


@part_kernel()
def _largest_part(part, parts, x, y, kernel, stride, pad, taps, step):
    least = x.dtype.type(-FLT_MAX)
    size = size_of(least)
    lanes = WIDTH // size
    planes, height, width = x.shape
    rows, columns = y.shape[1:]
    reach = lanes * stride[1] + kernel[1] + lanes if len(step) else 0  # see ``largest_along``
    pitch = max(pad[1] + width + lanes, columns * stride[1] + reach)
    # of rows of columns' largest pixels, which so stay in the L1 cache
    block = min(rows, max(1, quotient(_STRIP, pitch)))
    strip = np.empty(block * pitch, x.dtype)
    source, target = x.ctypes.data, y.ctypes.data
    fill_row(strip.ctypes.data, least, block * pitch)
    low, high = share(part, parts, planes)
    for p in range(low, high):
        finite, lines = True, strip.ctypes.data  # asked for here, or the memory would be given back before
        for first in range(0, rows, block):
            last = min(first + block, rows)
            for i in range(first, last):
                top, bottom = _clip(i * stride[0] - pad[0], kernel[0], height)
                pixels, line = source + (p * height + top) * width * size, lines + (i - first) * pitch * size
                finite &= largest_down(
                    line + pad[1] * size, pixels, width * size, max(bottom - top, 0), width, least, taps
                )
            for i in range(first, last):
                line, at = lines + (i - first) * pitch * size, target + (p * rows + i) * columns * size
                for j in range(0, columns, lanes):
                    start = j * stride[1]
                    largest_along(
                        at + j * size, line + start * size,
                        kernel[1], stride[1], pitch - start, columns - j, least, taps, step,
                    )  # fmt: skip
        if not finite:
            image, out = source + p * height * width * size, target + p * rows * columns * size
            _largest_or_nan(image, out, height, width, rows, columns, kernel, stride, pad, least)


@part_kernel()
def _largest_of_squares_part(part, parts, x, y, pad, taps):
    """Windows of ``len(taps)`` rows and columns, a pixel apart."""
    least = x.dtype.type(-FLT_MAX)
    size = size_of(least)
    planes, height, width = x.shape
    rows, columns = y.shape[1:]
    block = max(1, quotient(_STRIP, width))  # rows of y: their pixels stay in the L1 cache for the next columns
    low, high = share(part, parts, planes)
    for p in range(low, high):
        finite = True
        image, out = x.ctypes.data + p * height * width * size, y.ctypes.data + p * rows * columns * size
        for i in range(0, rows, block):
            first = max(i - pad[0], 0)
            for j in range(0, columns, WIDTH // size):
                finite &= largest_of_squares(
                    out + i * columns * size, image + first * width * size, height - first, width,
                    min(block, rows - i), columns, j, first + pad[0] - i, pad[1], least, taps,
                )  # fmt: skip
        if not finite:
            square = len(taps), len(taps)
            _largest_or_nan(image, out, height, width, rows, columns, square, (1, 1), pad, least)


@kernel()
def _largest_of_squares(pad, taps, parts, x, y):
    parallel(_largest_of_squares_part, parts, (x, y, pad, taps))


@part_kernel()
def _largest_two_apart_part(part, parts, x, y, kernel, stride, pad, taps):
    """Windows of ``len(taps)`` rows and columns, with two columns from one to the next."""
    least = x.dtype.type(-FLT_MAX)
    size = size_of(least)
    planes, height, width = x.shape
    rows, columns = y.shape[1:]
    low, high = share(part, parts, planes)
    for p in range(low, high):
        finite = True
        image, out = x.ctypes.data + p * height * width * size, y.ctypes.data + p * rows * columns * size
        for i in range(rows):
            top, bottom = _clip(i * stride[0] - pad[0], kernel[0], height)
            line = out + i * columns * size
            if top < bottom:
                finite &= largest_two_apart(
                    line, image + top * width * size, width * size, bottom - top, width, columns, -pad[1], least, taps
                )
            else:
                fill_row(line, least, columns)
        if not finite:
            _largest_or_nan(image, out, height, width, rows, columns, kernel, stride, pad, least)


@kernel()
def _largest_two_apart(kernel, stride, pad, taps, parts, x, y):
    parallel(_largest_two_apart_part, parts, (x, y, kernel, stride, pad, taps))


@kernel()
def _largest(kernel, stride, pad, taps, step, parts, x, y):
    parallel(_largest_part, parts, (x, y, kernel, stride, pad, taps, step))


@part_kernel()
def _max_pool_grad_part(part, parts, dy, mask, dx, kernel, stride, pad, taps, step, met):
    zero = dx.dtype.type(0)
    size = size_of(zero)
    planes, height, width = dx.shape
    rows, columns = dy.shape[1:]
    lanes, outer = WIDTH // size, pad[1] // stride[1]  # this many windows start in the padding
    blocks = (width + pad[1] - outer * stride[1] - 1) // (lanes * stride[1]) + 1
    source, target, named = dy.ctypes.data, dx.ctypes.data, mask.ctypes.data
    low, high = share(part, parts, planes)
    for p in range(low, high):
        values, places = source + p * rows * columns * size, named + p * rows * columns * 4
        for h in range(height):
            first, last = met[h, 0], met[h, 1]
            line = target + (p * height + h) * width * size
            if blocks == 1:  # see _max_pool_part
                scatter_max(
                    line, values, places, first, last, h * width, outer * stride[1] - pad[1],
                    outer, kernel[1], stride[1], width, columns, zero, taps, step,
                )  # fmt: skip
            else:
                for block in range(blocks):
                    window = outer + block * lanes
                    scatter_max(
                        line, values, places, first, last, h * width, window * stride[1] - pad[1],
                        window, kernel[1], stride[1], width, columns, zero, taps, step,
                    )  # fmt: skip


@kernel()
def _max_pool_grad(kernel, stride, pad, taps, step, met, parts, dy, mask, dx):
    parallel(_max_pool_grad_part, parts, (dy, mask, dx, kernel, stride, pad, taps, step, met))


@part_kernel()
def _max_pool_grad_apart_part(part, parts, dy, mask, dx):
    low, high = share(part, parts, len(dx))
    for p in range(low, high):
        for i in range(np.uintp(0), np.uintp(dx.shape[1])):
            dx[p, i] = 0
        for i in range(np.uintp(0), np.uintp(dy.shape[1])):
            if mask[p, i] >= 0:
                dx[p, np.uintp(mask[p, i])] = dy[p, i]


@kernel()
def _max_pool_grad_apart(parts, dy, mask, dx):
    parallel(_max_pool_grad_apart_part, parts, (dy, mask, dx))


@kernel()
def _areas(image, pooled, kernel, stride, pad, like):
    """Pixels of each window, including padding; 0 for a window that starts beyond the padding."""
    found = np.empty(pooled, like.dtype)
    for i in range(pooled[0]):
        top = i * stride[0] - pad[0]
        tall = min(top + kernel[0], image[0] + pad[0]) - top
        for j in range(pooled[1]):
            left = j * stride[1] - pad[1]
            found[i, j] = tall * (min(left + kernel[1], image[1] + pad[1]) - left)
    return found.reshape(-1)


@part_kernel()
def _average_pool_part(part, parts, x, y, kernel, stride, pad, taps, step):
    zero = x.dtype.type(0)
    size = size_of(zero)
    planes, height, width = x.shape
    rows, columns = y.shape[1:]
    areas, means = _areas((height, width), (rows, columns), kernel, stride, pad, y), y.reshape(planes, rows * columns)
    source, target = x.ctypes.data, y.ctypes.data
    low, high = share(part, parts, planes)
    for p in range(low, high):
        pixels = source + p * height * width * size
        for i in range(rows):
            top, bottom = _clip(i * stride[0] - pad[0], kernel[0], height)
            for j in range(0, columns, WIDTH // size):
                at = (p * rows + i) * columns + j
                gather_sum(
                    target + at * size, 0, pixels, top, bottom,
                    j * stride[1] - pad[1], kernel[1], stride[1], width, columns - j, zero, taps, step,
                )  # fmt: skip
        for k in range(areas.size):
            means[p, k] /= areas[k]


@kernel()
def _average_pool(kernel, stride, pad, taps, step, parts, x, y):
    parallel(_average_pool_part, parts, (x, y, kernel, stride, pad, taps, step))


@part_kernel()
def _average_pool_grad_part(part, parts, dy, dx, kernel, stride, pad, taps, step, met):
    zero = dx.dtype.type(0)
    size = size_of(zero)
    planes, height, width = dx.shape
    rows, columns = dy.shape[1:]
    lanes, outer = WIDTH // size, pad[1] // stride[1]  # this many windows start in the padding
    blocks = (width + pad[1] - outer * stride[1] - 1) // (lanes * stride[1]) + 1
    areas, gradients = (
        _areas((height, width), (rows, columns), kernel, stride, pad, dy),
        dy.reshape(planes, rows * columns),
    )
    means = np.empty(rows * columns, dy.dtype)
    source, target = means.ctypes.data, dx.ctypes.data
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for k in range(areas.size):
            means[k] = gradients[p, k] / areas[k]
        for h in range(height):
            first, last = met[h, 0], met[h, 1]
            line = target + (p * height + h) * width * size
            for block in range(blocks):
                window = outer + block * lanes
                scatter_sum(
                    line, source, 0, first, last, 0, window * stride[1] - pad[1],
                    window, kernel[1], stride[1], width, columns, zero, taps, step,
                )  # fmt: skip


@kernel()
def _average_pool_grad(kernel, stride, pad, taps, step, met, parts, dy, dx):
    parallel(_average_pool_grad_part, parts, (dy, dx, kernel, stride, pad, taps, step, met))


@part_kernel(fastmath=REASSOCIATE)
def _mean_part(part, parts, x, y):
    low, high = share(part, parts, len(x))
    for p in range(low, high):
        total = x.dtype.type(0)
        for i in range(x.shape[1]):
            total += x[p, i]
        y[p] = total / x.dtype.type(x.shape[1])


@kernel()
def _mean(parts, x, y):
    parallel(_mean_part, parts, (x, y[:, 0]))


@part_kernel()
def _mean_grad_part(part, parts, dy, dx):
    low, high = share(part, parts, len(dx))
    for p in range(low, high):
        gradient = dy[p] / dx.dtype.type(dx.shape[1])
        for i in range(dx.shape[1]):
            dx[p, i] = gradient


@kernel()
def _mean_grad(parts, dy, dx):
    parallel(_mean_grad_part, parts, (dy[:, 0], dx))


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
                        found = running >= threshold or running != running
                        y[i, j], mask[i, j] = x[h, w], h * width + w


@part_kernel()
def _stochastic_pool_part(part, parts, x, u, y, mask, kernel, stride, pad):
    low, high = share(part, parts, len(x))
    for p in range(low, high):
        _stochastic_plane(x[p], u[p], y[p], mask[p], kernel, stride, pad)


@kernel()
def _stochastic_pool(x, u, y, mask, kernel, stride, pad, threads):
    parallel(_stochastic_pool_part, threads, (x, u, y, mask, kernel, stride, pad))


@part_kernel()
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
                y[p, i, j] = 0 if total <= 0 else squares / total


@kernel()
def _stochastic_pool_mean(x, y, kernel, stride, pad, threads):
    parallel(_stochastic_pool_mean_part, threads, (x, y, kernel, stride, pad))


@functools.lru_cache(maxsize=1024)
def _geometry(window: Window) -> tuple:
    """A window as compiled code takes it; the last two items tell the compiler its columns and stride if they are
    small.
    """
    return *window[:3], *known(window.kernel[1], window.stride[1])


@functools.lru_cache(maxsize=1024)
def _grad_geometry(window: Window, height: int, rows: int) -> tuple:
    """The same for the gradient; and for each row of pixels the range [first, last) of the windows, of so many
    ``rows``, that cover it: (height, 2).
    """
    (size, _), (step, _), (pad, _) = window[:3]
    place = np.arange(height) + pad
    return *_geometry(window), np.stack(
        [np.maximum((place - size) // step + 1, 0), np.minimum(place // step + 1, rows)], axis=1
    )


@capturable
def max_pool(x: Array, y: Array, mask: Array | None, window: Window) -> None:
    """See ``reference.max_pool``."""
    size, stride, pad, taps, step = _geometry(window)
    if mask is not None:
        _max_pool(size, stride, pad, taps, step, _parts(x), *_planes(x, y, mask))
    elif stride == (1, 1) and size == (len(taps), len(taps)) and pad[0] < size[0]:
        _largest_of_squares(pad, taps, _parts(x), *_planes(x, y))
    elif size in ((2, 2), (3, 3)) and stride[1] == 2:
        _largest_two_apart(size, stride, pad, taps, _parts(x), *_planes(x, y))
    else:
        _largest(size, stride, pad, taps, step, _parts(x), *_planes(x, y))


@functools.lru_cache(maxsize=1024)
def _are_apart(window: Window) -> bool:
    """Whether no two windows share a pixel."""
    return all(step >= size for step, size in zip(window.stride, window.kernel, strict=True))


@capturable
def max_pool_grad(dy: Array, mask: Array, dx: Array, window: Window) -> None:
    """See ``reference.max_pool_grad``."""
    if dx.shape[3] <= 16 and _are_apart(window):  # rows are shorter than a register
        _max_pool_grad_apart(_parts(dx), *_pixels(dy, mask, dx))
    else:
        _max_pool_grad(*_grad_geometry(window, dx.shape[2], dy.shape[2]), _parts(dx), *_planes(dy, mask, dx))


@functools.lru_cache(maxsize=1024)
def _is_global(pixels: tuple[int, ...], pooled: tuple[int, ...], window: Window) -> bool:
    """Whether there is one window, which covers the whole image."""
    whole = all(k >= n for k, n in zip(window.kernel, pixels[2:], strict=True))
    return pooled[2:] == (1, 1) and whole and not any(window.pad)


@capturable
def average_pool(x: Array, y: Array, window: Window) -> None:
    """See ``reference.average_pool``."""
    if _is_global(x.shape, y.shape, window):
        _mean(_parts(x), *_pixels(x, y))
    else:
        _average_pool(*_geometry(window), _parts(x), *_planes(x, y))


@capturable
def average_pool_grad(dy: Array, dx: Array, window: Window) -> None:
    """See ``reference.average_pool_grad``."""
    if _is_global(dx.shape, dy.shape, window):
        _mean_grad(_parts(dx), *_pixels(dy, dx))
    else:
        _average_pool_grad(*_grad_geometry(window, dx.shape[2], dy.shape[2]), _parts(dx), *_planes(dy, dx))


def stochastic_pool(x: Array, u: Array, y: Array, mask: Array, window: Window) -> None:
    """See ``reference.stochastic_pool``."""
    _stochastic_pool(*_planes(x, u, y, mask), *window[:3], parts(x.size))


def stochastic_pool_mean(x: Array, y: Array, window: Window) -> None:
    """See ``reference.stochastic_pool_mean``."""
    _stochastic_pool_mean(*_planes(x, y), *window[:3], parts(x.size))
