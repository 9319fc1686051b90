"""Convolution and its gradients as matrix products whose panels are gathered from the image, never im2col as a whole.

All three split their work so that each number is summed by one thread in a fixed order: a result depends on nothing but
the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import config, get_num_threads

from minicaffe.kernels import reference
from minicaffe.kernels.cpu.im2col import AXES
from minicaffe.kernels.cpu.jit import kernel, parallel, share
from minicaffe.kernels.cpu.layout import Axes, Plan, column_plan, row_plan
from minicaffe.kernels.cpu.simd import (
    CHUNK,
    WIDTH,
    add_chunk,
    align,
    copy_chunk,
    copy_part,
    copy_register,
    copy_row,
    fill_row,
    load,
    size_of,
    store,
    transpose,
)
from minicaffe.kernels.cpu.tile import DEPTH, LONGEST_TILE, PANEL, multiplier, multiply, panel_depth, panel_vectors
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window

_IN, _OUT = np.bool_(False), np.bool_(True)  # not Python's: Numba would compile a function for each of those
_L2 = 1 << 19  # bytes
_ROWS = 60  # rows of a product worked on before they are scattered: a multiple of the tile heights 4, 5 and 6


# --- moving pixels ----------------------------------------------------------------------------------------------


@kernel()
def _move_image(image, target, channels, frame, outward, like):
    """Copy an image's channels (address ``image``) into their frames (``target``), or back if ``outward``."""
    size = size_of(like)
    depth, height, width = frame[0]
    front, top, left = frame[1]
    d_phases, h_phases, w_phases = frame[2]
    d_size, h_size, w_size = frame[3]
    phase = d_size * h_size * w_size
    if front + top + left == 0 and d_phases * h_phases * w_phases == 1:
        _move_row(target, image, channels * depth * height * width, outward, like)
        return
    for c in range(channels):
        for z in range(depth):
            d = z + front
            for y in range(height):
                h = y + top
                line = ((c * d_phases + d % d_phases) * h_phases + h % h_phases) * w_phases * phase
                line += (d // d_phases * h_size + h // h_phases) * w_size
                pixels = image + ((c * depth + z) * height + y) * width * size
                if w_phases == 1:
                    _move_row(target + (line + left) * size, pixels, width, outward, like)
                else:
                    for x in range(width):
                        w = x + left
                        inside, outside = (
                            target + (line + w % w_phases * phase + w // w_phases) * size,
                            pixels + x * size,
                        )
                        if outward:
                            store(outside, load(inside, like))
                        else:
                            store(inside, load(outside, like))


@kernel(inline=True)
def _move_row(inside, outside, count, outward, like):
    if outward:
        copy_row(outside, inside, count, like)
    else:
        copy_row(inside, outside, count, like)


@kernel()
def _move_columns(panel, row, y, places, m, first, last, outward, like):
    """Copy columns [first, last) of some images' y (N, group, m, positions) into a panel, or back if ``outward``.

    ``places`` holds the first image, the group, the number of groups and the number of positions.
    """
    size = size_of(like)
    first_image, g, group, positions = places
    column = first
    while column < last:
        i, p = column // positions, column % positions
        count = min(positions - p, last - column)
        for r in range(m):
            outside = y + ((((first_image + i) * group + g) * m + r) * positions + p) * size
            _move_row(panel + r * row + (column - first) * size, outside, count, outward, like)
        column += count


@kernel()
def _gather(panel, row, frames, offsets, runs, like):
    """Rows of a panel, ``row`` bytes each: the runs of pixels at each offset into the frames.

    Run by run for all rows.  A short run is copied as a whole chunk, and what is too much is overwritten by the next run; but
    what lies behind the end of the row must be left alone.
    """
    size = size_of(like)
    for j in range(len(runs)):
        source, target, count = frames + runs[j, 0], panel + runs[j, 1], runs[j, 2]
        if count * size == WIDTH:
            for i in range(offsets.size):
                copy_register(target + i * row, source + offsets[i], like)
        elif runs[j, 1] + CHUNK <= row:
            for i in range(offsets.size):
                copy_chunk(target + i * row, source + offsets[i], like)
        else:
            for i in range(offsets.size):
                copy_part(target + i * row, source + offsets[i], count, like)


@kernel()
def _scatter(frames, product, row, offsets, runs, like):
    """Add the rows of a product, ``row`` bytes each, to the pixels that ``_gather`` would fill them with."""
    size = size_of(like)
    for j in range(len(runs)):
        for chunk in range(0, runs[j, 2] * size, CHUNK):
            target, source, count = (
                frames + runs[j, 0] + chunk,
                product + runs[j, 1] + chunk,
                runs[j, 2] - chunk // size,
            )
            for i in range(offsets.size):
                add_chunk(target + offsets[i], source + i * row, count, like)


@kernel()
def _transpose_weights_part(part, parts, w, wt, blocks, like):
    """w (group, m, c, taps) -> wt (group, block of c, taps, c in block, m), at an address."""
    group, m, c, taps = w.shape
    size = size_of(like)
    low, high = share(part, parts, c)
    for g in range(group):
        for block in range(blocks):
            first, last = share(block, blocks, c)
            for channel in range(max(first, low), min(last, high)):
                target = wt + ((g * c + first) * taps + channel - first) * m * size
                source = w.ctypes.data + (g * m * c + channel) * taps * size
                transpose(target, (last - first) * m * size, source, c * taps * size, m, taps, like)


@kernel(inline=True)
def _panels_at_a_time(m):
    """How many panels of m rows fit into the L2 cache, beside what they are multiplied with."""
    return max(1, _L2 // (m * PANEL))


# --- the three products -----------------------------------------------------------------------------------------


@kernel()
def _convolve_part(
    part, parts, code, x, w, bias, y, base, stride, like, frame, channel, together, taps, offsets, panels, runs
):
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, k = w.shape[1:]
    positions, width = offsets.size, PANEL // size
    image, frames_image = x[0, 0].size * size, c * channel * size
    frames = base + part * stride
    panel = align(frames + together * frames_image + CHUNK)
    product = align(panel + DEPTH * PANEL + CHUNK)
    count, step = panels.size - 1, _panels_at_a_time(m)
    scratch = product + min(count, step) * m * PANEL
    fill_row(frames, like, (product - frames) // size)

    low, high = share(part, parts, -(-n // together) * group * count)
    for batch in range(low // count, -(-high // count)):
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        for i in range(images):
            pixels = x.ctypes.data + ((first_image + i) * group + g) * image
            _move_image(pixels, frames + i * frames_image, c, frame, _IN, like)
        low_p, high_p = max(low - batch * count, 0), min(high - batch * count, -(-images * positions // width))
        for first_p in range(low_p, high_p, step):
            last_p = min(first_p + step, high_p)
            for first_k in range(0, k, DEPTH):
                depth = min(DEPTH, k - first_k)
                weights = w.ctypes.data + (g * m * k + first_k) * size
                for p in range(first_p, last_p):
                    vectors = panel_vectors(min(width, together * positions - p * width), WIDTH // size)
                    row, out = vectors * WIDTH, product + (p - first_p) * m * PANEL
                    if first_k == 0:
                        for i in range(m):
                            fill_row(out + i * row, bias[g, i], row // size)
                    _gather(panel, row, frames, taps[first_k : first_k + depth], runs[panels[p] : panels[p + 1]], like)
                    multiply(code, m, row // size, depth, weights, k * size, size, panel, vectors, out, row, True, scratch)
            for p in range(first_p, last_p):
                first, last = p * width, min((p + 1) * width, images * positions)
                row = panel_vectors(min(width, together * positions - first), WIDTH // size) * WIDTH
                out = product + (p - first_p) * m * PANEL
                _move_columns(out, row, y.ctypes.data, (first_image, g, group, positions), m, first, last, _OUT, like)


@kernel()
def _data_grad_part(
    part, parts, code, dy, wt, dx, blocks, base, stride, like, frame, channel, together, taps, offsets, panels, runs
):
    size = size_of(like)
    n, group, c = dx.shape[:3]
    m = dy.shape[2]
    positions, width = offsets.size, PANEL // size
    image, frames_image = dx[0, 0].size * size, c * channel * size
    frames = base + part * stride
    panel = align(frames + together * frames_image + CHUNK)
    product = align(panel + min(panels.size - 1, _panels_at_a_time(m)) * m * PANEL + CHUNK)
    scratch = product + _ROWS * PANEL
    row_offsets = np.empty(taps.size, np.int64)
    fill_row(panel, like, (product - panel) // size)

    low, high = share(part, parts, -(-n // together) * group * blocks)
    for item in range(low, high):
        batch, block = item // blocks, item % blocks
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first_channel, last_channel = share(block, blocks, c)
        channels = last_channel - first_channel
        window = taps.size // c
        k = window * channels
        weights = wt + (g * c + first_channel) * window * m * size
        for tap in range(window):
            for i in range(channels):
                row_offsets[tap * channels + i] = taps[tap] + i * channel * size
        for i in range(together):
            fill_row(frames + i * frames_image, like, channels * channel)
        step, count = _panels_at_a_time(m), -(-images * positions // width)
        for first_p in range(0, count, step):
            last_p = min(first_p + step, count)
            for p in range(first_p, last_p):
                first, last = p * width, min((p + 1) * width, images * positions)
                row = panel_vectors(min(width, together * positions - first), WIDTH // size) * WIDTH
                block = panel + (p - first_p) * m * PANEL
                _move_columns(block, row, dy.ctypes.data, (first_image, g, group, positions), m, first, last, _IN, like)
            for first_k in range(0, k, _ROWS):
                rows = min(_ROWS, k - first_k)
                for p in range(first_p, last_p):
                    vectors = panel_vectors(min(width, together * positions - p * width), WIDTH // size)
                    row = vectors * WIDTH
                    for r in range(0, m, panel_depth(vectors)):
                        depth = min(panel_depth(vectors), m - r)
                        a, b = weights + (first_k * m + r) * size, panel + (p - first_p) * m * PANEL + r * row
                        multiply(code, rows, row // size, depth, a, m * size, size, b, vectors, product, row, r > 0, scratch)
                    ks = row_offsets[first_k : first_k + rows]
                    _scatter(frames, product, row, ks, runs[panels[p] : panels[p + 1]], like)
        for i in range(images):
            pixels = dx.ctypes.data + ((first_image + i) * group + g) * image + first_channel * (image // c)
            _move_image(pixels, frames + i * frames_image, channels, frame, _OUT, like)


@kernel()
def _weight_grad_part(
    part,
    parts,
    panel_parts,
    code,
    x,
    dy,
    sums,
    base,
    stride,
    like,
    frame,
    channel,
    together,
    taps,
    offsets,
    panels,
    runs,
):
    """Products summed over some images, for some panels of all groups; panel p's lies at ``sums + p * m * PANEL``."""
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, positions = dy.shape[2:]
    image, width = x[0, 0].size * size, PANEL // size
    count, window = panels.size - 1, taps.size // c
    pointwise = taps.size == c and positions * c * size == image
    direct = pointwise and frame[1].sum() == 0 and offsets[positions - 1] == (positions - 1) * size  # frames would be copies
    low, high = share(part % panel_parts, panel_parts, group * count)
    first_image, last_image = share(part // panel_parts, parts // panel_parts, n)
    sums += part // panel_parts * group * count * m * PANEL
    frames = base + part * stride
    panel = align(frames + c * channel * size + CHUNK)
    scratch = align(panel + DEPTH * PANEL + CHUNK)
    fill_row(frames, like, (scratch - frames) // size)
    fill_row(sums + low * m * PANEL, like, (high - low) * m * width)
    for item in range(low, high):
        g, p = item // count, item % count
        first, last = p * width // window, -(-min((p + 1) * width, taps.size) // window)
        vectors = panel_vectors(min(width, taps.size - p * width), WIDTH // size)
        row, out = vectors * WIDTH, sums + item * m * PANEL
        for i in range(first_image, last_image):
            pixels = x.ctypes.data + (i * group + g) * image + first * (image // c)
            if not direct:
                _move_image(pixels, frames + first * channel * size, last - first, frame, _IN, like)
            for k in range(0, positions, panel_depth(vectors)):
                depth = min(panel_depth(vectors), positions - k)
                if direct:
                    transpose(panel, row, pixels + k * size, positions * size, last - first, depth, like)
                else:
                    _gather(panel, row, frames, offsets[k : k + depth], runs[panels[p] : panels[p + 1]], like)
                a = dy.ctypes.data + ((i * group + g) * m * positions + k) * size
                multiply(code, m, row // size, depth, a, positions * size, size, panel, vectors, out, row, True, scratch)


@kernel()
def _sum_part(part, parts, sums, image_parts, dw, like, panels):
    """Add up the products of ``_weight_grad_part`` in the order of the images."""
    size = size_of(like)
    group, m, k = dw.shape
    count = panels.size - 1
    low, high = share(part, parts, group * count * m)
    for item in range(low, high):
        g, p, i = item // m // count, item // m % count, item % m
        columns = min(PANEL // size, k - p * (PANEL // size))
        row = panel_vectors(columns, WIDTH // size) * WIDTH
        out = dw[g, i, p * (PANEL // size) :]
        for images in range(image_parts):
            source = sums + ((images * group * count + g * count + p) * m) * PANEL + i * row
            for j in range(columns):
                out[j] += load(source + j * size, like)


# --- parallel loops ---------------------------------------------------------------------------------------------


@kernel()
def _convolve(code, x, w, bias, y, memory, stride, threads, frame, channel, together, taps, offsets, panels, runs):
    plan = (frame, channel, together, taps, offsets, panels, runs)
    parallel(_convolve_part, threads, (code, x, w, bias, y, align(memory.ctypes.data), stride, x.dtype.type(0), *plan))


@kernel()
def _data_grad(code, dy, w, dx, blocks, memory, stride, threads, frame, channel, together, taps, offsets, panels, runs):
    plan = (frame, channel, together, taps, offsets, panels, runs)
    like = dy.dtype.type(0)
    wt = memory.ctypes.data
    base = align(wt + w.size * w.itemsize)
    parallel(_transpose_weights_part, threads, (w, wt, blocks, like))
    parallel(_data_grad_part, threads, (code, dy, wt, dx, blocks, base, stride, like, *plan))


@kernel()
def _weight_grad(
    code, x, dy, dw, panel_parts, image_parts, memory, stride, frame, channel, together, taps, offsets, panels, runs
):
    plan = (frame, channel, together, taps, offsets, panels, runs)
    like = dy.dtype.type(0)
    sums = align(memory.ctypes.data)
    base = sums + image_parts * dw.shape[0] * (panels.size - 1) * dw.shape[1] * PANEL
    threads = panel_parts * image_parts
    parallel(_weight_grad_part, threads, (panel_parts, code, x, dy, sums, base, stride, like, *plan))
    parallel(_sum_part, threads, (sums, image_parts, dw, like, panels))


# --- the ops ----------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """What the convolutions of one shape need."""

    images: int
    columns: Plan
    rows: Plan
    panels: int
    """Panels that the columns of the weights fill, over all groups."""
    weights: int
    """Elements of the weights."""
    panel: int
    """Elements of such a panel's product."""
    area: int
    """Elements of scratch memory for each thread."""

    def parts(self, threads: int) -> tuple[int, int]:
        """Into how many parts to split panels and images so that the threads finish soonest; rather panels than images."""
        splits = [(p, threads // p) for p in range(threads, 0, -1)]
        return min(splits, key=lambda split: -(-self.panels // split[0]) * -(-self.images // split[1]))


def _spatial(shape: Axes) -> Axes:
    return (1,) * (AXES + 2 - len(shape)) + shape[2:]


@functools.lru_cache(maxsize=1024)
def _job(x_shape: Axes, y_shape: Axes, window: Window, group: int, itemsize: int) -> _Job:
    n, c, m = x_shape[0], x_shape[1] // group, y_shape[1] // group
    window, pixels, out = window.with_axes(AXES), _spatial(x_shape), _spatial(y_shape)
    columns = column_plan(c, pixels, out, window, n, itemsize)
    rows = row_plan(c, pixels, out, window, itemsize)
    width = PANEL // itemsize
    frames = max(columns.together * columns.channel, rows.channel) * c
    block = min(columns.panels.size - 1, max(1, _L2 // (m * PANEL))) * m
    panel, product = max(DEPTH, block) * width, max(_ROWS, block) * width
    slack = 4 * (64 + CHUNK) // itemsize  # to align each of the areas, and to copy their last chunk whole
    return _Job(
        n,
        columns,
        rows,
        group * -(-c * window.taps // width),
        group * m * c * window.taps,
        m * width,
        frames + panel + product + LONGEST_TILE * width + slack,
    )


def convolution_workspace(x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
    """See ``reference.convolution_workspace``; enough for as many threads as Numba can use."""
    if len(x_shape) > AXES + 2:
        return reference.convolution_workspace(x_shape, y_shape, window, group)
    needed = 0
    for itemsize in (4, 8):
        job = _job(tuple(x_shape), tuple(y_shape), window, group, itemsize)
        for threads in range(1, config.NUMBA_NUM_THREADS + 1):
            sums = job.parts(threads)[1] * job.panels * job.panel
            needed = max(needed, max(sums, job.weights) + threads * job.area + 2 * 64)
    return needed


def convolve(x: Array, w: Array, bias: Array | None, y: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve``."""
    if x.ndim > AXES + 2:
        reference.convolve(x, w, bias, y, window, group, workspace)
        return
    job = _job(x.shape, y.shape, window, group, x.itemsize)
    n, c, m = len(x), x.shape[1] // group, len(w) // group
    if bias is None:
        bias = np.zeros(len(w), w.dtype)
    _convolve(
        multiplier(w.dtype).address,
        x.reshape(n, group, c, -1),
        w.reshape(group, m, -1),
        bias.reshape(group, m),
        y,
        workspace,
        job.area * x.itemsize,
        get_num_threads(),
        *job.columns,
    )


def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve_data_grad``."""
    if dx.ndim > AXES + 2:
        reference.convolve_data_grad(dy, w, dx, window, group, workspace)
        return
    job = _job(dx.shape, dy.shape, window, group, dx.itemsize)
    n, c, m = len(dx), dx.shape[1] // group, len(w) // group
    threads = get_num_threads()
    # few images: channels are shared out, too
    blocks = min(c, -(-threads // max(1, n // job.columns.together * group)))
    _data_grad(
        multiplier(w.dtype).address,
        dy.reshape(n, group, m, -1),
        w.reshape(group, m, c, -1),
        dx.reshape(n, group, c, -1),
        blocks,
        workspace,
        job.area * dx.itemsize,
        threads,
        *job.columns,
    )


def convolve_weight_grad(x: Array, dy: Array, dw: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve_weight_grad``."""
    if x.ndim > AXES + 2:
        reference.convolve_weight_grad(x, dy, dw, window, group, workspace)
        return
    job = _job(x.shape, dy.shape, window, group, x.itemsize)
    n, c, m = len(x), x.shape[1] // group, len(dw) // group
    panel_parts, image_parts = job.parts(get_num_threads())
    _weight_grad(
        multiplier(dw.dtype).address,
        x.reshape(n, group, c, -1),
        dy.reshape(n, group, m, -1),
        dw.reshape(group, m, -1),
        panel_parts,
        image_parts,
        workspace,
        job.area * x.itemsize,
        *job.rows,
    )
