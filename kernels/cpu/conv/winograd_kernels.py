"""Convolutions with stride 1 as products of transformed tiles (``winograd_transforms``): a half to a quarter of the
multiplications.

Pixels are turned to channels last, so that a SIMD register holds neighbouring channels: tiles of any place and size are
then transformed alike.  For each of a tile's transformed numbers, a matrix product over the channels makes that of all
tiles. Results do not depend on anything but the number of threads.
"""

from __future__ import annotations

import functools

import numpy as np

from minicaffe.kernels.cpu.conv import winograd
from minicaffe.kernels.cpu.conv.problem import FORWARD, WEIGHTS, Problem, Way
from minicaffe.kernels.cpu.conv.winograd_transforms import apply
from minicaffe.kernels.cpu.matmul.microkernel import PANEL, multiplier, multiply, panel_depth
from minicaffe.kernels.cpu.runtime.address import align, load, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import WIDTH, fill_row, transpose

# --- weights ------------------------------------------------------------------------------------------------------


@kernel(inline=True)
def _place(first, k, depth, row, size):
    """Where number ``first`` of row k lies among rows that are laid out in panels."""
    panel = first * size // PANEL * PANEL
    return panel * depth + k * min(PANEL, row - panel) + first * size - panel


@part_kernel()
def _transform_weights_part(part, parts, code, w, made_axis, u, row, like, plan):
    """w (group, m, c, taps) -> u (group, side^2, panel, depth, numbers of a panel), at an address; ``made_axis`` goes
    into the panels.
    """
    size = size_of(like)
    lanes, window = WIDTH // size, w.shape[3]
    weights, taps = np.empty(window * lanes, w.dtype), np.arange(window) * WIDTH
    depth, made = w.shape[3 - made_axis], w.shape[made_axis]
    step, depth_step = (w.shape[2] * window, window) if made_axis == 1 else (window, w.shape[2] * window)
    low, high = share(part, parts, w.shape[0] * depth)
    for item in range(low, high):
        g, k = item // depth, item % depth
        source = w[g].ctypes.data + k * depth_step * size
        for first in range(0, row // size, lanes):
            count = max(0, min(lanes, made - first))
            if count < lanes:
                fill_row(weights.ctypes.data, like, weights.size)
            transpose(weights.ctypes.data, WIDTH, source + first * step * size, step * size, count, window, like)
            target = u + g * plan.weights.size * plan.weights[1] + _place(first, k, depth, row, size)
            apply(code, target, plan.weights.ctypes.data, weights.ctypes.data, taps.ctypes.data, 1, 0)


@part_kernel()
def _weight_slopes_part(part, parts, code, sums, image_parts, dw, accumulate, row, like, plan):
    """Add up what all parts of the images summed; its transform, added to dw (group, m, c, taps) if ``accumulate``."""
    size = size_of(like)
    lanes = WIDTH // size
    group, m, c, window = dw.shape
    squares = plan.weights.size
    weights, taps = np.empty(window * lanes, dw.dtype), np.arange(window) * WIDTH
    total, square_taps = np.empty(squares * lanes, dw.dtype), np.arange(squares) * WIDTH
    low, high = share(part, parts, group * c)
    for item in range(low, high):
        g, k = item // c, item % c
        for first in range(0, m, lanes):
            total[:] = 0
            for p in range(image_parts):
                source = sums + (p * group + g) * squares * plan.weights[1] + _place(first, k, c, row, size)
                for i in range(squares):
                    for lane in range(lanes):
                        total[i * lanes + lane] += load(source + plan.weights[i] + lane * size, like)
            apply(code, weights.ctypes.data, taps.ctypes.data, total.ctypes.data, square_taps.ctypes.data, 1, 0)
            for lane in range(min(lanes, m - first)):
                for tap in range(window):
                    before = dw[g, first + lane, k, tap] if accumulate else like
                    dw[g, first + lane, k, tap] = before + weights[tap * lanes + lane]


# --- tiles --------------------------------------------------------------------------------------------------------


@kernel(internal=True)
def _turn_pixels(frames, images, low, high, row, x, first_image, g, like):
    """Pixels [low, high) of some images x (n, group, c, pixels), channels last, into their frames."""
    size = size_of(like)
    group, c, pixels = x.shape[1:]
    for i in range(images):
        source = x.ctypes.data + (((first_image + i) * group + g) * c * pixels + low) * size
        transpose(frames + (i * (pixels + 1) + low) * row, row, source, pixels * size, c, high - low, like)


@kernel(internal=True)
def _turn_pixels_back(frames, images, low, high, row, y, first_image, g, like):
    """The way back."""
    size = size_of(like)
    group, m, pixels = y.shape[1:]
    for i in range(images):
        target = y.ctypes.data + (((first_image + i) * group + g) * m * pixels + low) * size
        transpose(target, pixels * size, frames + (i * (pixels + 1) + low) * row, row, high - low, m, like)


@kernel(internal=True)
def _transform_tiles(code, target, offsets, row, frames, frame, table, images, first, last):
    """Tiles [first, last) of each frame to rows of ``row`` bytes, those of each transformed number by themselves."""
    for i in range(images):
        for tile in range(first, last):
            pixels = table[tile].ctypes.data
            apply(code, target, offsets.ctypes.data, frames + i * frame, pixels, row // WIDTH, 0)
            target += row


@part_kernel()
def _product_part(part, parts, worker, codes, x, u, bias, y, rows_of_pixels, adds, memory, stride, like, plan):
    """The convolution of x with transformed weights u; if its tiles add to each other (``adds``), image by image."""
    code, into, out_of = codes
    source_row, row = rows_of_pixels
    size = size_of(like)
    n, group, depth, pixels = x.shape
    made, out_pixels = y.shape[2:]
    squares, together, count = plan.tiles.size, plan.together, len(plan.blocks)
    frame, out_frame = (pixels + 1) * source_row, (out_pixels + 1) * row
    frames = memory + worker * stride
    out_frames = align(frames + together * frame)
    tiles = align(out_frames + together * out_frame)
    products = align(tiles + squares * plan.tiles[1])
    scratch = align(products + squares * plan.products[1])
    start = np.zeros(row // size, x.dtype)
    fill_row(frames, like, together * frame // size)

    blocks = -(-n // together) * group * count
    low, high = share(part, parts, blocks // count if adds else blocks)
    if adds:
        low, high = low * count, high * count
    turned = 0
    for item in range(low, high):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, first_pixel, last_pixel, first_out, last_out = plan.blocks[block]
        if adds and block == 0:
            fill_row(out_frames, like, images * out_frame // size)
        if block > 0 and item > low:
            first_pixel = max(first_pixel, turned)
        _turn_pixels(frames, images, first_pixel, last_pixel, source_row, x, first_image, g, like)
        turned = last_pixel
        _transform_tiles(into, tiles, plan.tiles, source_row, frames, frame, plan.sources, images, first, last)
        rows = images * (last - first)
        weights = u + g * squares * plan.weights[1]
        for square in range(squares):
            a, b, out = tiles + plan.tiles[square], weights + plan.weights[square], products + plan.products[square]
            for panel in range(0, row, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                width = vectors * WIDTH
                for k in range(0, depth, panel_depth(vectors)):
                    multiply(
                        code,
                        rows,
                        width // size,
                        min(panel_depth(vectors), depth - k),
                        a + k * size,
                        source_row,
                        size,
                        b + panel * depth + k * width,
                        vectors,
                        out + panel if k > 0 else 0,
                        row,
                        out + panel,
                        row,
                        scratch,
                    )
        for i in range(made):
            start[i] = bias[g, i]
        source = products
        for i in range(images):
            for tile in range(first, last):
                target, table = out_frames + i * out_frame, plan.targets[tile].ctypes.data
                apply(out_of, target, table, source, plan.products.ctypes.data, row // WIDTH, start.ctypes.data)
                source += row
        _turn_pixels_back(out_frames, images, first_out, last_out, row, y, first_image, g, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, codes, x, dy, rows_of_pixels, sums, memory, stride, like, plan):
    """The transformed gradient of the weights, summed over some of the images."""
    code, into, slopes_into = codes
    source_row, row = rows_of_pixels
    size = size_of(like)
    n, group, c, pixels = x.shape
    positions = dy.shape[3]
    squares, together, count = plan.tiles.size, plan.together, len(plan.blocks)
    frame, slope_frame = (pixels + 1) * source_row, (positions + 1) * row
    frames = memory + worker * stride
    slope_frames = align(frames + together * frame)
    tiles = align(slope_frames + together * slope_frame)
    slopes = align(tiles + squares * plan.tiles[1])
    scratch = align(slopes + squares * plan.products[1])
    fill_row(frames, like, (slope_frames - frames) // size + together * slope_frame // size)
    sums += part * group * squares * plan.weights[1]

    low, high = share(part, parts, -(-n // together))
    for item in range(low * group * count, high * group * count):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, first_pixel, last_pixel, first_position, last_position = plan.blocks[block]
        if block > 0:
            first_pixel = max(first_pixel, plan.blocks[block - 1, 3])
        _turn_pixels(frames, images, first_pixel, last_pixel, source_row, x, first_image, g, like)
        _turn_pixels(slope_frames, images, first_position, last_position, row, dy, first_image, g, like)
        rows = images * (last - first)
        _transform_tiles(into, tiles, plan.tiles, source_row, frames, frame, plan.sources, images, first, last)
        for panel in range(0, row, PANEL):
            width = min(PANEL, row - panel)
            _transform_tiles(
                slopes_into,
                slopes + panel * rows,
                plan.products,
                width,
                slope_frames + panel,
                slope_frame,
                plan.targets,
                images,
                first,
                last,
            )
        begun = item >= (low + 1) * group * count or block > 0
        for square in range(squares):
            a, b = tiles + plan.tiles[square], slopes + plan.products[square]
            out = sums + g * squares * plan.weights[1] + plan.weights[square]
            for panel in range(0, row, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                width = vectors * WIDTH
                for k in range(0, rows, panel_depth(vectors)):
                    multiply(
                        code,
                        c,
                        width // size,
                        min(panel_depth(vectors), rows - k),
                        a + k * source_row,
                        size,
                        source_row,
                        b + panel * rows + k * width,
                        vectors,
                        out + panel * c if begun or k > 0 else 0,
                        width,
                        out + panel * c,
                        width,
                        scratch,
                    )


# --- parallel loops -----------------------------------------------------------------------------------------------


@kernel()
def _product(codes, weight_code, rows_of_pixels, stride, parts, threads, plan, made_axis, x, w, bias, y, memory):
    like = x.dtype.type(0)
    u = align(memory.ctypes.data)
    base = align(u + len(w) * plan.weights.size * plan.weights[1])
    parallel(_transform_weights_part, threads, (weight_code, w, made_axis, u, rows_of_pixels[1], like, plan))
    parallel_queue(
        _product_part,
        parts,
        threads,
        (codes, x, u, bias, y, rows_of_pixels, made_axis == 2, base, stride, like, plan),
    )


@kernel()
def _weight_grad(codes, weight_code, rows_of_pixels, stride, image_parts, threads, plan, x, dy, dw, memory, accumulate):
    like = x.dtype.type(0)
    sums = align(memory.ctypes.data)
    base = align(sums + image_parts * len(dw) * plan.weights.size * plan.weights[1])
    parallel_queue(
        _weight_grad_part, image_parts, threads, (codes, x, dy, rows_of_pixels, sums, base, stride, like, plan)
    )
    parallel(
        _weight_slopes_part,
        threads,
        (weight_code, sums, image_parts, dw, accumulate, rows_of_pixels[1], like, plan),
    )


# --- the op -------------------------------------------------------------------------------------------------------


def way(problem: Problem) -> Way | None:
    """How to solve a problem, given arrays by group, if this is the fastest way."""
    kind, x_shape, y_shape, window, group, dtype, threads = problem
    job = winograd.job(kind, x_shape, y_shape, window, group, dtype.itemsize, threads)
    if job is None:
        return None
    first, second, of_weights = job.codes
    codes, rows = (multiplier(dtype).address, first, second), (job.source_row, job.target_row)
    arguments = codes, of_weights, rows, job.area, job.parts, threads, job.plan
    if kind == FORWARD:
        return functools.partial(_product, *arguments, 1)
    if kind == WEIGHTS:
        return functools.partial(_weight_grad, *arguments)
    zeros = np.zeros((group, x_shape[1] // group), dtype)
    return lambda dy, w, dx, workspace: _product(*arguments, 2, dy, w, zeros, dx, workspace)
