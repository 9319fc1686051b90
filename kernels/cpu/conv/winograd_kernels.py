"""The compiled code of ``winograd``: weights, tiles and their products, and the loops over the parts of the work.

Images are brought from NCHW to NHWC, so that a SIMD register holds neighbouring channels: tiles of any place and size
are then transformed alike.
"""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.conv.winograd_transforms import apply
from minicaffe.kernels.cpu.matmul.microkernel import PANEL, macro_kernel, panel_kc
from minicaffe.kernels.cpu.runtime.address import align, load, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import WIDTH, fill_row, transpose
from minicaffe.kernels.cpu.simd.rectify import rectify_rows

# --- weights ------------------------------------------------------------------------------------------------------


@kernel(inline=True)
def _panel_offset(first, k, depth, row, size):
    """The offset in bytes of element ``first`` of row k in a matrix of ``depth`` rows that is laid out in panels."""
    panel = first * size // PANEL * PANEL
    return panel * depth + k * min(PANEL, row - panel) + first * size - panel


@kernel(inline=True)
def _registers(count):
    """The places of so many registers, one behind the other."""
    places = np.empty(count, np.int64)
    for i in range(count):
        places[i] = i * WIDTH
    return places


@part_kernel()
def _transform_weights_part(part, parts, code, w, made_axis, u, row, like, tiling):
    """w (group, m, c, taps) -> u (group, side^2, panel, depth, columns of a panel), at an address.

    ``made_axis`` of w becomes the columns of the panels: 1 in the forward pass, 2 in the data gradient.
    """
    size = size_of(like)
    lanes, window = WIDTH // size, w.shape[3]
    weights, taps = np.empty(window * lanes, w.dtype), _registers(window)
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
            target = u + g * tiling.weights.size * tiling.weights[1] + _panel_offset(first, k, depth, row, size)
            apply(code, target, tiling.weights.ctypes.data, weights.ctypes.data, taps.ctypes.data, 1, 0)


@part_kernel()
def _untransform_weights_part(part, parts, code, sums, image_parts, dw, accumulate, row, like, tiling):
    """Add up the sums of all parts of the images, and write their transform to dw (group, m, c, taps), or add it to dw
    if ``accumulate``.
    """
    size = size_of(like)
    lanes = WIDTH // size
    group, m, c, window = dw.shape
    squares = tiling.weights.size
    weights, taps = np.empty(window * lanes, dw.dtype), _registers(window)
    total, square_taps = np.empty(squares * lanes, dw.dtype), _registers(squares)
    low, high = share(part, parts, group * c)
    for item in range(low, high):
        g, k = item // c, item % c
        for first in range(0, m, lanes):
            total[:] = 0
            for p in range(image_parts):
                source = sums + (p * group + g) * squares * tiling.weights[1] + _panel_offset(first, k, c, row, size)
                for i in range(squares):
                    for lane in range(lanes):
                        total[i * lanes + lane] += load(source + tiling.weights[i] + lane * size, like)
            apply(code, weights.ctypes.data, taps.ctypes.data, total.ctypes.data, square_taps.ctypes.data, 1, 0)
            for lane in range(min(lanes, m - first)):
                for tap in range(window):
                    before = dw[g, first + lane, k, tap] if accumulate else like
                    dw[g, first + lane, k, tap] = before + weights[tap * lanes + lane]


# --- tiles --------------------------------------------------------------------------------------------------------


@kernel(internal=True)
def _nchw_to_nhwc(nhwc, images, low, high, row, x, first_image, g, like):
    """Copy pixels [low, high) of some images x (n, group, c, pixels), channels last."""
    size = size_of(like)
    group, c, pixels = x.shape[1:]
    for i in range(images):
        source = x.ctypes.data + (((first_image + i) * group + g) * c * pixels + low) * size
        transpose(nhwc + (i * (pixels + 1) + low) * row, row, source, pixels * size, c, high - low, like)


@kernel(internal=True)
def _nhwc_to_nchw(nhwc, images, low, high, row, y, first_image, g, first_channel, last_channel, like):
    """Copy some channels of pixels [low, high) of some images y (n, group, m, pixels) back, channels first."""
    size = size_of(like)
    group, m, pixels = y.shape[1:]
    for i in range(images):
        target = y.ctypes.data + ((((first_image + i) * group + g) * m + first_channel) * pixels + low) * size
        source = nhwc + (i * (pixels + 1) + low) * row + first_channel * size
        transpose(target, pixels * size, source, row, high - low, last_channel - first_channel, like)


@kernel(internal=True)
def _transform_tiles(code, target, offsets, row, nhwc, image, table, images, first, last):
    """Transform tiles [first, last) of some images into rows of ``row`` bytes: a matrix for each element of a tile."""
    for i in range(images):
        for tile in range(first, last):
            pixels = table[tile].ctypes.data
            apply(code, target, offsets.ctypes.data, nhwc + i * image, pixels, row // WIDTH, 0)
            target += row


@part_kernel()
def _product_part(
    part, parts, worker, panel_parts, codes, x, u, bias, y, slope, rows_of_pixels, overlap, memory, scratch_per_worker,
    like, tiling,
):  # fmt: skip
    """The convolution of x with transformed weights u; image by image if tiles of its result overlap (``overlap``).

    ``panel_parts`` parts have the same tiles, and some panels of u each.
    """
    code, into, out_of = codes
    source_row, row = rows_of_pixels
    size = size_of(like)
    n, group, depth, pixels = x.shape
    made, out_pixels = y.shape[2:]
    squares, together, count = tiling.tiles.size, tiling.together, len(tiling.blocks)
    image, y_image = (pixels + 1) * source_row, (out_pixels + 1) * row
    nhwc = memory + worker * scratch_per_worker
    y_nhwc = align(nhwc + together * image)
    tiles = align(y_nhwc + together * y_image)
    products = align(tiles + squares * tiling.tiles[1])
    scratch = align(products + squares * tiling.products[1])
    start = np.zeros(row // size, x.dtype)
    if depth * size < source_row:
        fill_row(nhwc, like, together * image // size)
    for i in range(together):  # the pixel that those outside the image are read from
        fill_row(nhwc + (i + 1) * image - source_row, like, source_row // size)

    low, high = share(part % panel_parts, panel_parts, -(-row // PANEL))
    first_byte, last_byte = low * PANEL, min(high * PANEL, row)
    first_channel, last_channel = first_byte // size, min(last_byte // size, made)
    blocks = -(-n // together) * group * count
    low, high = share(part // panel_parts, parts // panel_parts, blocks // count if overlap else blocks)
    if overlap:
        low, high = low * count, high * count
    copied = 0
    for item in range(low, high):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, first_pixel, last_pixel, first_out, last_out = tiling.blocks[block]
        if overlap and block == 0:
            fill_row(y_nhwc, like, images * y_image // size)
        if block > 0 and item > low:
            first_pixel = max(first_pixel, copied)
        _nchw_to_nhwc(nhwc, images, first_pixel, last_pixel, source_row, x, first_image, g, like)
        copied = last_pixel
        _transform_tiles(into, tiles, tiling.tiles, source_row, nhwc, image, tiling.sources, images, first, last)
        rows = images * (last - first)
        weights = u + g * squares * tiling.weights[1]
        for square in range(squares):
            a, b, out = (
                tiles + tiling.tiles[square],
                weights + tiling.weights[square],
                products + tiling.products[square],
            )
            for panel in range(first_byte, last_byte, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                width = vectors * WIDTH
                kc = panel_kc(vectors)
                for k in range(0, depth, kc):
                    ahead = b + panel * depth + (k + kc) * width
                    if k + kc >= depth:
                        ahead = b + (panel + PANEL) * depth
                        if panel + PANEL >= last_byte:
                            ahead = weights + tiling.weights[min(square + 1, squares - 1)] + first_byte * depth
                    macro_kernel(
                        code, rows, width // size, min(kc, depth - k), a + k * size, source_row, size,
                        b + panel * depth + k * width, width, vectors, out + panel if k > 0 else 0, row, out + panel,
                        row, scratch, 0, 0, ahead, min(kc, depth) * width, 0, 0,
                    )  # fmt: skip
        for i in range(made):
            start[i] = bias[g, i]
        source = products + first_byte
        for i in range(images):
            target = y_nhwc + i * y_image + first_byte
            for tile in range(first, last):
                table, registers = tiling.targets[tile].ctypes.data, (last_byte - first_byte) // WIDTH
                begin = start.ctypes.data + first_byte
                apply(out_of, target, table, source, tiling.products.ctypes.data, registers, begin)
                source += row
            if slope != 1:
                written = target + first_out * row
                rectify_rows(written, row, last_out - first_out, (last_byte - first_byte) // size, slope)
        _nhwc_to_nchw(y_nhwc, images, first_out, last_out, row, y, first_image, g, first_channel, last_channel, like)


@part_kernel()
def _weight_grad_part(
    part, parts, worker, codes, x, dy, rows_of_pixels, sums, memory, scratch_per_worker, like, tiling
):
    """The transformed gradient of the weights, summed over some of the images."""
    code, into, dy_into = codes
    source_row, row = rows_of_pixels
    size = size_of(like)
    n, group, c, pixels = x.shape
    positions = dy.shape[3]
    squares, together, count = tiling.tiles.size, tiling.together, len(tiling.blocks)
    image, dy_image = (pixels + 1) * source_row, (positions + 1) * row
    nhwc = memory + worker * scratch_per_worker
    dy_nhwc = align(nhwc + together * image)
    tiles = align(dy_nhwc + together * dy_image)
    gradients = align(tiles + squares * tiling.tiles[1])
    scratch = align(gradients + squares * tiling.products[1])
    fill_row(nhwc, like, (dy_nhwc - nhwc) // size + together * dy_image // size)
    sums += part * group * squares * tiling.weights[1]

    low, high = share(part, parts, -(-n // together))
    for item in range(low * group * count, high * group * count):
        batch, block = item // count, item % count
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first, last, first_pixel, last_pixel, first_position, last_position = tiling.blocks[block]
        if block > 0:
            first_pixel = max(first_pixel, tiling.blocks[block - 1, 3])
        _nchw_to_nhwc(nhwc, images, first_pixel, last_pixel, source_row, x, first_image, g, like)
        _nchw_to_nhwc(dy_nhwc, images, first_position, last_position, row, dy, first_image, g, like)
        rows = images * (last - first)
        _transform_tiles(into, tiles, tiling.tiles, source_row, nhwc, image, tiling.sources, images, first, last)
        for panel in range(0, row, PANEL):
            width = min(PANEL, row - panel)
            _transform_tiles(
                dy_into,
                gradients + panel * rows,
                tiling.products,
                width,
                dy_nhwc + panel,
                dy_image,
                tiling.targets,
                images,
                first,
                last,
            )
        started = item >= (low + 1) * group * count or block > 0
        for square in range(squares):
            a, b = tiles + tiling.tiles[square], gradients + tiling.products[square]
            out = sums + g * squares * tiling.weights[1] + tiling.weights[square]
            for panel in range(0, row, PANEL):
                vectors = min(PANEL, row - panel) // WIDTH
                width = vectors * WIDTH
                for k in range(0, rows, panel_kc(vectors)):
                    macro_kernel(
                        code, c, width // size, min(panel_kc(vectors), rows - k), a + k * source_row, size, source_row,
                        b + panel * rows + k * width, width, vectors, out + panel * c if started or k > 0 else 0,
                        width, out + panel * c, width, scratch, 0, 0, 0, 0, 0, 0,
                    )  # fmt: skip


# --- all parts ----------------------------------------------------------------------------------------------------


@kernel()
def transform_weights(weight_code, rows_of_pixels, threads, tiling, w, u):
    """Weights as ``convolve`` multiplies with them, into u, which begins at a cache line."""
    arguments = weight_code, w, 1, u.ctypes.data, rows_of_pixels[1], w.dtype.type(0), tiling
    parallel(_transform_weights_part, threads, arguments)


@kernel()
def convolve(
    codes, weight_code, rows_of_pixels, scratch_per_worker, parts, threads, tiling, panel_parts, made_axis, transformed,
    x, w, bias, y, memory, slope,
):  # fmt: skip
    """The weights were ``transformed`` already to memory at this address; or, if it is 0, are now."""
    like = x.dtype.type(0)
    u, base = transformed, align(memory.ctypes.data)
    if u == 0:
        u, base = base, align(base + len(w) * tiling.weights.size * tiling.weights[1])
        parallel(_transform_weights_part, threads, (weight_code, w, made_axis, u, rows_of_pixels[1], like, tiling))
    overlap, factor = made_axis == 2, x.dtype.type(slope)
    parallel_queue(
        _product_part,
        parts,
        threads,
        (panel_parts, codes, x, u, bias, y, factor, rows_of_pixels, overlap, base, scratch_per_worker, like, tiling),
    )


@kernel()
def weight_grad(
    codes, weight_code, rows_of_pixels, scratch_per_worker, image_parts, threads, tiling, x, dy, dw, memory, accumulate
):
    like = x.dtype.type(0)
    sums = align(memory.ctypes.data)
    base = align(sums + image_parts * len(dw) * tiling.weights.size * tiling.weights[1])
    parallel_queue(
        _weight_grad_part,
        image_parts,
        threads,
        (codes, x, dy, rows_of_pixels, sums, base, scratch_per_worker, like, tiling),
    )
    parallel(
        _untransform_weights_part,
        threads,
        (weight_code, sums, image_parts, dw, accumulate, rows_of_pixels[1], like, tiling),
    )
