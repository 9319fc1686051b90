"""Convolutions with stride 1 as products of transformed tiles (``tile_transforms``): a half to a quarter of the multiplications.

Pixels are turned to channels last, so that a SIMD register holds neighbouring channels: tiles of any place and size are then
transformed alike.  For each of a tile's transformed numbers, a matrix product over the channels makes that of all tiles.
Results do not depend on anything but the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import config
from numpy.typing import NDArray

from minicaffe.kernels.cpu.jit import kernel, parallel, parallel_queue, queue_length, share
from minicaffe.kernels.cpu.layout import Axes
from minicaffe.kernels.cpu.simd import WIDTH, align, fill_row, load, size_of, store, transpose
from minicaffe.kernels.cpu.tile import DEPTH, LONGEST_TILE, PANEL, multiplier, multiply, panel_depth, panel_vectors
from minicaffe.kernels.cpu.tile_transforms import FILTER, FILTER_SLOPE, INPUT, OUTPUT, SLOPE, apply, transform
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window

_OUTPUTS = {3: 2, 5: 2}
"""Outputs of a tile along an axis, by the taps of the window."""
_FEWEST = 16
"""Least channels and filters that make up for the transforms."""
_SMALL = 1 << 20  # bytes of sums that are made once more without much ado
_TILES = 48
"""Tiles worked on at a time, at least: so often is a transformed weight used once it is in the cache."""


class _Plan(NamedTuple):
    """A convolution as compiled code takes it; offsets in bytes, of pixels whose channels lie side by side."""

    pixels: NDArray
    """Offset of each pixel of each tile, (tiles, side^2); those outside the image have that of an empty one behind its last."""
    outputs: NDArray
    """Offset of each output of each tile, (tiles, outputs^2); those outside, likewise."""
    blocks: NDArray
    """Of each block: its tiles, the pixels they read and the outputs they make, as first and last + 1: (blocks, 6)."""
    together: int
    """Images whose tiles are worked on together; above 1 if each of them is one block."""
    most: int
    """Tiles of the largest block of so many images."""
    taps: NDArray
    """Offsets of the taps of a window in an array of registers."""
    taps_backward: NDArray
    tile: NDArray
    """Offsets of a tile's transformed numbers among those of the inputs: (side^2,)."""
    products: NDArray
    """The same among the products."""
    slopes: NDArray
    """The same among the transformed gradients of the outputs."""
    weights: NDArray
    """The same among the transformed weights, and the sums of their gradient."""


class _Job(NamedTuple):
    """What ``convolve`` needs for one shape, or ``weight_grad``."""

    plan: _Plan
    outputs: int
    taps: int
    area: int
    """Bytes of scratch memory for each worker."""
    weights: int
    """Bytes of the transformed weights of all groups."""


def applies(x_shape: Axes, y_shape: Axes, window: Window, group: int, itemsize: int) -> bool:
    """Whether a convolution of single precision is one of those that the transforms make faster."""
    return (
        itemsize == 4
        and len(x_shape) == 4
        and window.kernel in ((3, 3), (5, 5))
        and max(window.stride + window.dilation) == 1
        and max(window.pad) < window.kernel[0]
        and min(x_shape[1], y_shape[1]) // group >= _FEWEST
        and min(x_shape[2:] + y_shape[2:]) > 0
    )


def _registers(numbers: int, itemsize: int) -> int:
    return -(-numbers * itemsize // WIDTH)


def _row(numbers: int, itemsize: int) -> int:
    """Bytes of a row of whole registers, laid out in panels."""
    rest = numbers * itemsize % PANEL
    return numbers * itemsize // PANEL * PANEL + (PANEL if rest > 2 * WIDTH else -(-rest // WIDTH) * WIDTH)


@functools.lru_cache(maxsize=1024)
def _job(c: int, m: int, pixels: Axes, out: Axes, taps: int, pad: Axes, images: int, least: int, itemsize: int) -> _Job:
    """``least`` tiles are to be worked on at a time, if there are so many."""
    outputs = _OUTPUTS[taps]
    side = outputs + taps - 1
    rows, columns = (-(-size // outputs) for size in out)
    channel_row, filter_row = _registers(c, itemsize) * WIDTH, _row(m, itemsize)

    def table(size: Axes, first: Axes, count: int, row: int) -> NDArray:
        """Offsets of the ``count`` x ``count`` pixels of each tile in an image of some size."""
        at = [
            np.arange(tiles)[:, None] * outputs + np.arange(count) - start
            for tiles, start in zip((rows, columns), first, strict=True)
        ]
        inside = [(0 <= place) & (place < length) for place, length in zip(at, size, strict=True)]
        place = at[0][:, None, :, None] * size[1] + at[1][None, :, None, :]
        within = inside[0][:, None, :, None] & inside[1][None, :, None, :]
        return np.where(within, place, size[0] * size[1]).reshape(rows * columns, count * count) * row

    together = max(1, min(images, least // (rows * columns)))
    tile_rows = rows if together > 1 else min(rows, -(-least // columns))
    blocks = []
    for first in range(0, rows, tile_rows):
        last = min(first + tile_rows, rows)
        high = max(0, first * outputs - pad[0])
        low = max(high, min(pixels[0], (last - 1) * outputs - pad[0] + side))
        tiles, read = (first * columns, last * columns), (high * pixels[1], low * pixels[1])
        blocks.append((*tiles, *read, first * outputs * out[1], min(last * outputs, out[0]) * out[1]))
    most = together * tile_rows * columns
    squares = np.arange(side**2)
    register_taps = np.arange(taps**2) * WIDTH
    plan = _Plan(
        table(pixels, pad, side, channel_row),
        table(out, (0, 0), outputs, filter_row),
        np.array(blocks),
        together,
        most,
        register_taps,
        register_taps[::-1].copy(),
        squares * most * channel_row,
        squares * most * filter_row,
        squares * most * filter_row,
        squares * c * filter_row,
    )
    frames = together * ((pixels[0] * pixels[1] + 1) * channel_row + (out[0] * out[1] + 1) * filter_row)
    tiles = side**2 * most * (channel_row + filter_row)
    return _Job(plan, outputs, taps, frames + tiles + LONGEST_TILE * PANEL + 5 * 64, side**2 * c * filter_row)


# --- weights ------------------------------------------------------------------------------------------------------


@kernel()
def _transform_weights_part(part, parts, code, w, u, m, c, filter_step, channel_step, row, window, offsets, like, plan):
    """w, some filters' windows at an address, -> u (group, side^2, panel of filters, c, filter in panel)."""
    size = size_of(like)
    lanes = WIDTH // size
    squares, group_size = plan.weights.size, w.size * size
    weights = np.empty(window * lanes, w.dtype)
    taps = weights.ctypes.data
    groups = w.size // (m * c * window)
    low, high = share(part, parts, groups * c)
    for item in range(low, high):
        g, k = item // c, item % c
        source = w.ctypes.data + (g * m * c * window + k * channel_step) * size
        target = u + g * squares * c * row
        for first in range(0, row // size, lanes):
            count = max(0, min(lanes, m - first))
            if count < lanes:
                fill_row(taps, like, window * lanes)
            transpose(taps, WIDTH, source + first * filter_step * size, filter_step * size, count, window, like)
            panel, inside = first * size // PANEL, first * size % PANEL
            width = min(PANEL, row - panel * PANEL)
            place = target + panel * PANEL * c + k * width + inside
            apply(code, place, plan.weights.ctypes.data, taps, offsets, 1, 0)


@kernel()
def _weight_slopes_part(part, parts, code, sums, image_parts, stride, dw, row, like, plan):
    """Add up what all parts of the images summed, and add its transform to dw (group, m, c, taps)."""
    size = size_of(like)
    lanes = WIDTH // size
    group, m, c, window = dw.shape
    squares = plan.weights.size
    weights, total = np.empty(window * lanes, dw.dtype), np.empty(squares * lanes, dw.dtype)
    squares_at = np.arange(squares) * WIDTH
    low, high = share(part, parts, group * c)
    for item in range(low, high):
        g, k = item // c, item % c
        for first in range(0, m, lanes):
            panel, inside = first * size // PANEL, first * size % PANEL
            width = min(PANEL, row - panel * PANEL)
            place = sums + g * squares * c * row + panel * PANEL * c + k * width + inside
            for i in range(squares):
                for lane in range(lanes):
                    total[i * lanes + lane] = load(place + plan.weights[i] + lane * size, like)
                for p in range(1, image_parts):
                    for lane in range(lanes):
                        total[i * lanes + lane] += load(place + p * stride + plan.weights[i] + lane * size, like)
            apply(code, weights.ctypes.data, plan.taps.ctypes.data, total.ctypes.data, squares_at.ctypes.data, 1, 0)
            for lane in range(min(lanes, m - first)):
                for tap in range(window):
                    dw[g, first + lane, k, tap] += weights[tap * lanes + lane]


# --- tiles --------------------------------------------------------------------------------------------------------


@kernel()
def _turn_pixels(frames, images, low, high, row, x, first_image, g, like):
    """Pixels [low, high) of some images x (n, group, c, pixels), channels last, into their frames."""
    size = size_of(like)
    group, c, pixels = x.shape[1:]
    for i in range(images):
        source = x.ctypes.data + (((first_image + i) * group + g) * c * pixels + low) * size
        transpose(frames + (i * (pixels + 1) + low) * row, row, source, pixels * size, c, high - low, like)


@kernel()
def _transform_tiles(code, target, target_table, row, frames, frame, table, images, first, last, registers):
    """Tiles [first, last) of each frame, one row of numbers after the other."""
    square = table.shape[1] * 8
    for i in range(images):
        for tile in range(first, last):
            place = target + (i * (last - first) + tile - first) * row
            apply(code, place, target_table.ctypes.data, frames + i * frame, table.ctypes.data + tile * square, registers, 0)


@kernel()
def _convolve_part(part, parts, worker, codes, x, u, bias, y, memory, stride, like, plan):
    code, into, out_of = codes
    size = size_of(like)
    n, group, c, pixels = x.shape
    m, positions = y.shape[2:]
    channel_row, row = plan.tile[1] // plan.most, plan.products[1] // plan.most
    squares, together, count = plan.tile.size, plan.together, len(plan.blocks)
    frame, out_frame = (pixels + 1) * channel_row, (positions + 1) * row
    frames = memory + worker * stride
    out_frames = align(frames + together * frame)
    tiles = align(out_frames + together * out_frame)
    products = align(tiles + squares * plan.most * channel_row)
    scratch = align(products + squares * plan.most * row)
    start = np.zeros(row // size, x.dtype)
    fill_row(frames, like, together * frame // size)

    low, high = share(part, parts, -(-n // together) * group * count)
    turned = 0
    for item in range(low, high):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, low_pixel, high_pixel, low_position, high_position = plan.blocks[block]
        turned = max(turned, low_pixel) if block > 0 and item > low else low_pixel
        _turn_pixels(frames, images, turned, high_pixel, channel_row, x, first_image, g, like)
        turned = high_pixel
        _transform_tiles(into, tiles, plan.tile, channel_row, frames, frame, plan.pixels, images, first, last, channel_row // WIDTH)
        rows = images * (last - first)
        for square in range(squares):
            a, out = tiles + plan.tile[square], products + plan.products[square]
            weights = u + g * squares * c * row + plan.weights[square]
            for panel in range(0, row, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                for k in range(0, c, panel_depth(vectors)):
                    depth = min(panel_depth(vectors), c - k)
                    b = weights + panel * c + k * vectors * WIDTH
                    multiply(code, rows, vectors * WIDTH // size, depth, a + k * size, channel_row, size, b, vectors, out + panel, row, k > 0, scratch)
        for i in range(m):
            start[i] = bias[g, i]
        for i in range(images):
            for tile in range(first, last):
                source, table = products + (i * (last - first) + tile - first) * row, plan.outputs.ctypes.data + tile * plan.outputs.shape[1] * 8
                apply(out_of, out_frames + i * out_frame, table, source, plan.products.ctypes.data, row // WIDTH, start.ctypes.data)
            source = out_frames + i * out_frame + low_position * row
            target = y.ctypes.data + (((first_image + i) * group + g) * m * positions + low_position) * size
            transpose(target, positions * size, source, row, high_position - low_position, m, like)


@kernel()
def _weight_grad_part(part, parts, worker, codes, x, dy, sums, memory, stride, like, plan):
    """The transformed gradient of the weights, summed over some of the images."""
    code, into, slopes_into = codes
    size = size_of(like)
    n, group, c, pixels = x.shape
    m, positions = dy.shape[2:]
    channel_row, row = plan.tile[1] // plan.most, plan.slopes[1] // plan.most
    squares, together, count = plan.tile.size, plan.together, len(plan.blocks)
    frame, out_frame = (pixels + 1) * channel_row, (positions + 1) * row
    frames = memory + worker * stride
    out_frames = align(frames + together * frame)
    tiles = align(out_frames + together * out_frame)
    slopes = align(tiles + squares * plan.most * channel_row)
    scratch = align(slopes + squares * plan.most * row)
    fill_row(frames, like, together * frame // size)
    fill_row(out_frames, like, together * out_frame // size)
    fill_row(sums + part * group * squares * c * row, like, group * squares * c * row // size)

    batches = -(-n // together)
    low, high = share(part, parts, batches)
    for item in range(low * group * count, high * group * count):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, low_pixel, high_pixel, low_position, high_position = plan.blocks[block]
        low_pixel = max(low_pixel, plan.blocks[block - 1, 3]) if block > 0 else low_pixel
        _turn_pixels(frames, images, low_pixel, high_pixel, channel_row, x, first_image, g, like)
        _turn_pixels(out_frames, images, low_position, high_position, row, dy, first_image, g, like)
        rows = images * (last - first)
        _transform_tiles(into, tiles, plan.tile, channel_row, frames, frame, plan.pixels, images, first, last, channel_row // WIDTH)
        for panel in range(0, row, PANEL):
            width = min(PANEL, row - panel)
            _transform_tiles(slopes_into, slopes + panel * plan.most, plan.slopes, width, out_frames + panel, out_frame, plan.outputs, images, first, last, width // WIDTH)
        for square in range(squares):
            a, b = tiles + plan.tile[square], slopes + plan.slopes[square]
            out = sums + (part * group + g) * squares * c * row + plan.weights[square]
            for panel in range(0, row, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                for k in range(0, rows, panel_depth(vectors)):
                    depth = min(panel_depth(vectors), rows - k)
                    multiply(code, c, vectors * WIDTH // size, depth, a + k * channel_row, size, channel_row,
                             b + panel * plan.most + k * vectors * WIDTH, vectors, out + panel * c, vectors * WIDTH, True, scratch)


# --- parallel loops -----------------------------------------------------------------------------------------------


@kernel()
def _convolve(filter_code, codes, x, w, bias, y, filter_step, channel_step, offsets, memory, stride, parts, threads, plan):
    like = x.dtype.type(0)
    u = align(memory.ctypes.data)
    group, c, m = x.shape[1], x.shape[2], y.shape[2]
    row = plan.products[1] // plan.most
    base = align(u + group * plan.weights.size * c * row)
    window = plan.taps.size
    parallel(_transform_weights_part, threads, (filter_code, w, u, m, c, filter_step, channel_step, row, window, offsets.ctypes.data, like, plan))
    parallel_queue(_convolve_part, parts, threads, (codes, x, u, bias, y, base, stride, like, plan))


@kernel()
def _weight_grad(codes, filter_code, x, dy, dw, image_parts, memory, stride, threads, plan):
    like = x.dtype.type(0)
    sums = align(memory.ctypes.data)
    row = plan.slopes[1] // plan.most
    size = dw.shape[0] * plan.weights.size * dw.shape[2] * row
    base = align(sums + image_parts * size)
    parallel_queue(_weight_grad_part, image_parts, threads, (codes, x, dy, sums, base, stride, like, plan))
    parallel(_weight_slopes_part, threads, (filter_code, sums, image_parts, size, dw, row, like, plan))


# --- ops ----------------------------------------------------------------------------------------------------------


def _forward_job(x_shape: Axes, y_shape: Axes, group: int, taps: int, pad: Axes) -> _Job:
    return _job(x_shape[1] // group, y_shape[1] // group, x_shape[2:], y_shape[2:], taps, pad, x_shape[0], _TILES, 4)


def _gradient_job(x_shape: Axes, y_shape: Axes, group: int, taps: int, pad: Axes) -> _Job:
    return _job(x_shape[1] // group, y_shape[1] // group, x_shape[2:], y_shape[2:], taps, pad, x_shape[0], DEPTH, 4)


def _image_parts(images: int, job: _Job, group: int, threads: int) -> int:
    """Into how many parts to split the images for the gradient of the weights: each makes sums as large as these."""
    batches = -(-images // job.plan.together)
    return min(batches, queue_length(threads) if group * job.weights < _SMALL else threads)


def _turned_pad(window: Window) -> Axes:
    return tuple(k - 1 - p for k, p in zip(window.kernel, window.pad, strict=True))


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory that the three ops take with as many threads as Numba can use."""
    taps, needed = window.kernel[0], 0
    forward = _forward_job(x_shape, y_shape, group, taps, window.pad)
    data_grad = _forward_job(y_shape, x_shape, group, taps, _turned_pad(window))
    weight_grad = _gradient_job(x_shape, y_shape, group, taps, window.pad)
    for threads in range(1, config.NUMBA_NUM_THREADS + 1):
        for job in (forward, data_grad):
            needed = max(needed, group * job.weights + threads * job.area)
        sums = _image_parts(x_shape[0], weight_grad, group, threads) * group * weight_grad.weights
        needed = max(needed, sums + threads * weight_grad.area)
    return needed // 4 + 64


def _run(job: _Job, x: Array, w: Array, bias: Array, y: Array, steps: tuple[int, int], offsets: NDArray, memory: Array, parts: int, threads: int) -> None:
    group, dtype = bias.shape[0], x.dtype
    codes = multiplier(dtype).address, _code(INPUT, job, dtype), _code(OUTPUT, job, dtype)
    n = len(x)
    _convolve(_code(FILTER, job, dtype), codes, x.reshape(n, group, x.shape[1] // group, -1), w, bias, y.reshape(n, group, y.shape[1] // group, -1), *steps, offsets, memory, job.area, parts, threads, job.plan)


def _code(kind: int, job: _Job, dtype: Any) -> int:
    return transform(kind, job.outputs, job.taps, dtype).address


def convolve(x: Array, w: Array, bias: Array, y: Array, window: Window, memory: Array, threads: int) -> None:
    """The convolution; ``bias`` is (group, m)."""
    taps = window.kernel[0]
    job = _forward_job(x.shape, y.shape, len(bias), taps, window.pad)
    steps = w[0].size, taps**2
    _run(job, x, w, bias, y, steps, job.plan.taps, memory, queue_length(threads), threads)


def convolve_data_grad(dy: Array, w: Array, dx: Array, zeros: Array, window: Window, memory: Array, threads: int) -> None:
    """The gradient of the data: the convolution of dy with weights that are turned round; ``zeros`` is (group, c)."""
    taps = window.kernel[0]
    job = _forward_job(dy.shape, dx.shape, len(zeros), taps, _turned_pad(window))
    steps = taps**2, w[0].size
    _run(job, dy, w, zeros, dx, steps, job.plan.taps_backward, memory, queue_length(threads), threads)


def convolve_weight_grad(x: Array, dy: Array, dw: Array, window: Window, group: int, memory: Array, threads: int) -> None:
    """Add the gradient of the weights to dw."""
    taps, n, dtype = window.kernel[0], len(x), x.dtype
    job = _gradient_job(x.shape, dy.shape, group, taps, window.pad)
    codes = multiplier(dtype).address, _code(INPUT, job, dtype), _code(SLOPE, job, dtype)
    m, c = dy.shape[1] // group, x.shape[1] // group
    _weight_grad(codes, _code(FILTER_SLOPE, job, dtype), x.reshape(n, group, c, -1), dy.reshape(n, group, m, -1), dw.reshape(group, m, c, -1), _image_parts(n, job, group, threads), memory, job.area, threads, job.plan)
