"""Depthwise convolutions, with one input channel a group: no matrix product, but a window slid over each channel.

Windows of 3 x 3 are read where they lie (``depthwise_3x3``).  For others every thread pads one channel at a time
(``tables``), so that for each tap the pixels of a register of neighbouring output positions are neighbours in memory,
whatever the stride.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv import depthwise_3x3
from minicaffe.kernels.cpu.conv.depthwise_tables import GradientTables, gradient_tables
from minicaffe.kernels.cpu.conv.packing import pad_image, unpad_image
from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Axes,
    Problem,
    Solver,
    then_bias_grad,
    three_axes,
)
from minicaffe.kernels.cpu.conv.tables import window_tables
from minicaffe.kernels.cpu.runtime.address import LINE, align, load, quotient, size_of, store
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, queue_length, share
from minicaffe.kernels.cpu.simd.memory import WIDTH, fill_row
from minicaffe.kernels.cpu.simd.taps import add_row_products, correlate_rows

_BAND = 1 << 14
"""Bytes of the padded rows of an image that are in the L1 cache together with what is made of them."""


class _Tables(NamedTuple):
    """A window over one channel, or over a band of its rows, as compiled code takes it; offsets in bytes."""

    layout: NDArray
    """The ``table`` of the padded image."""
    channel: int
    """Elements of a channel of it."""
    taps: NDArray
    """Offset of each tap."""
    rows: NDArray
    """For each row of the output, the offset of the pixel under its first position, and of that position: (rows, 2)."""
    width: int
    """Positions in such a row."""
    height: int
    """Rows of the padded image, if it is a band."""


@functools.lru_cache(maxsize=1024)
def _tables(problem: Problem) -> _Tables:
    """Those of whole channels."""
    return _window_tables(problem, three_axes(problem.x_shape), three_axes(problem.y_shape))


@functools.lru_cache(maxsize=1024)
def _band_tables(problem: Problem) -> _Tables:
    """Those of as many rows of the output as make a band; of all, where that is not a part of a larger image."""
    (depth, _, width), out = three_axes(problem.x_shape), three_axes(problem.y_shape)
    window = problem.window.with_axes(AXES)
    (_, extent, _), (_, stride, _), (_, pad, _) = window.extent, window.stride, window.pad
    rows = (_BAND // ((width + 2 * window.pad[2]) * problem.dtype.itemsize) - extent) // stride + 1
    padded = (rows - 1) * stride + extent
    if max(depth, out[0]) > 1 or rows >= out[1] or rows < 1 or padded <= 2 * pad:
        return _tables(problem)
    return _window_tables(problem, (depth, padded - 2 * pad, width), (out[0], rows, out[2]))


def _window_tables(problem: Problem, pixels: Axes, out: Axes) -> _Tables:
    size, window = problem.dtype.itemsize, problem.window.with_axes(AXES)
    image, taps, positions = window_tables(pixels, out, window, 1, split=True)
    sources = positions[:: out[-1]]
    rows = np.stack([sources, np.arange(sources.size) * out[-1]], axis=1)
    return _Tables(image.table, image.channel, taps * size, rows * size, out[-1], pixels[1] + 2 * window.pad[1])


@kernel(internal=True)
def _pad_band(image, first, height, rows, padded, layout, band, like):
    """Pad the rows from number ``first`` on, which may be outside the image of ``height`` rows; what is outside is 0.

    ``rows`` is how many the padded band has, ``band`` a copy of its ``layout`` to work with.
    """
    size = size_of(like)
    low, high = max(first, 0), max(min(first + rows, height), 0)
    step, phases, row = layout[2, 1], layout[3, 1], layout[4, 2]
    parts, phase = layout[3, 2], layout[4, 1] * row
    for r in range(rows):
        if (r < low - first or r >= high - first) and r % step < phases:
            for p in range(parts):
                place = ((r % step * parts + p) * phase + r // step * row) * size
                fill_row(padded + place, like, row)
    if low < high:
        band[0, 1], band[1, 1] = high - low, low - first
        pad_image(image + low * layout[0, 2] * size, padded, 1, band, like)


@part_kernel()
def _convolve_part(part, parts, worker, x, w, bias, y, slope, memory, scratch_per_worker, tables):
    layout, channel, taps, rows, width, height = tables
    like = x.dtype.type(0)
    size = size_of(like)
    window, at_rows, at_taps = taps.size, rows.ctypes.data, taps.ctypes.data
    n, c, pixels = x.shape
    filters, positions = y.shape[1] // c, y.shape[2]
    padded, band = memory + worker * scratch_per_worker, layout.copy()
    fill_row(padded, like, channel + WIDTH // size)
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        image = x.ctypes.data + item * pixels * size
        for first in range(0, positions // width, len(rows)):
            count = min(len(rows), positions // width - first)
            if len(rows) * width == positions:
                pad_image(image, padded, 1, layout, like)
            else:
                above = first * layout[2, 1] - layout[1, 1]
                _pad_band(image, above, pixels // layout[0, 2], height, padded, layout, band, like)
            for f in range(filters):
                channel_of_y = item % c * filters + f
                weights = w.ctypes.data + channel_of_y * window * size
                target = y.ctypes.data + ((item * filters + f) * positions + first * width) * size
                start = bias[channel_of_y]
                correlate_rows(target, padded, at_rows, count, width, at_taps, weights, window, start, slope)


@part_kernel()
def _data_grad_part(part, parts, worker, dy, w, dx, memory, scratch_per_worker, tables):
    layout, channel, planes_layout, planes_channel, phases, taps, order, rows = tables
    like = dy.dtype.type(0)
    size = size_of(like)
    n, c, pixels = dx.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    padded = memory + worker * scratch_per_worker
    weights = align(padded + (filters * channel + WIDTH // size) * size)
    planes = align(weights + order.size * size)
    fill_row(padded, like, filters * channel + WIDTH // size)
    fill_row(planes, like, planes_channel)
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        pad_image(dy.ctypes.data + item * filters * positions * size, padded, filters, layout, like)
        own = w.ctypes.data + item % c * quotient(w.size, c) * size  # not all taps need reach a pixel
        for t in range(order.size):
            store(weights + t * size, load(own + order[t] * size, like))
        image = dx.ctypes.data + item * pixels * size
        target = planes if planes_channel else image
        for p in range(len(phases)):
            tap, window, row, number, width = phases[p]
            at_rows, at_taps, factors = rows[row:].ctypes.data, taps[tap:].ctypes.data, weights + tap * size
            correlate_rows(target, padded, at_rows, number, width, at_taps, factors, window, like, dy.dtype.type(1))
        if planes_channel:
            unpad_image(image, planes, 1, planes_layout, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, x, dy, dw, accumulate, memory, scratch_per_worker, tables):
    layout, channel, taps, rows, width, _ = tables
    like = x.dtype.type(0)
    size = size_of(like)
    window = taps.size
    n, c, pixels = x.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    padded = memory + worker * scratch_per_worker
    fill_row(padded, like, channel + WIDTH // size)
    totals = np.empty((filters, window))
    low, high = share(part, parts, c)
    for k in range(low, high):
        totals[:] = 0
        for i in range(n):
            pad_image(x.ctypes.data + (i * c + k) * pixels * size, padded, 1, layout, like)
            for f in range(filters):
                gradients = dy.ctypes.data + ((i * c + k) * filters + f) * positions * size
                sums, at_rows, at_taps = totals[f].ctypes.data, rows.ctypes.data, taps.ctypes.data
                add_row_products(sums, gradients, padded, at_rows, len(rows), width, at_taps, window, like)
        for f in range(filters):
            for t in range(window):
                before = dw[k * filters + f, t] if accumulate else like
                dw[k * filters + f, t] = before + totals[f, t]


@kernel(inline=True)
def _planes(x):
    """x (N, C, ...) as (N, C, pixels)."""
    return x.reshape(x.shape[0], x.shape[1], -1)


@kernel()
def _convolve(scratch_per_worker, parts, threads, tables, x, w, bias, y, memory, slope):
    base = align(memory.ctypes.data)
    arguments = _planes(x), w, bias, _planes(y), x.dtype.type(slope), base, scratch_per_worker, tables
    parallel_queue(_convolve_part, parts, threads, arguments)


@kernel()
def _data_grad(scratch_per_worker, parts, threads, tables, dy, w, dx, memory):
    base = align(memory.ctypes.data)
    parallel_queue(_data_grad_part, parts, threads, (_planes(dy), w, _planes(dx), base, scratch_per_worker, tables))


@kernel()
def _weight_grad(scratch_per_worker, parts, threads, tables, x, dy, dw, memory, accumulate):
    weights, base = dw.reshape(dw.shape[0], -1), align(memory.ctypes.data)
    arguments = _planes(x), _planes(dy), weights, accumulate, base, scratch_per_worker, tables
    parallel_queue(_weight_grad_part, parts, threads, arguments)


_KERNELS = {FORWARD: _convolve, DATA_GRAD: _data_grad, WEIGHT_GRAD: _weight_grad}
_TABLES: dict[str, Callable[[Problem], _Tables | GradientTables]] = {
    FORWARD: _band_tables,
    DATA_GRAD: gradient_tables,
    WEIGHT_GRAD: _tables,
}


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; nothing else is faster if every channel is a group, so that no estimate is made."""
    solves = problem.is_compiled and not problem.accumulate
    return 0.0 if problem.x_shape[1] == problem.group > 1 and solves else None


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    return 0 if depthwise_3x3.fits(problem) else (problem.threads + 1) * _scratch_per_worker(problem)


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    if depthwise_3x3.fits(problem):
        return depthwise_3x3.bind(problem)
    scratch, threads = _scratch_per_worker(problem) * problem.dtype.itemsize, problem.threads
    tables = _TABLES[problem.kind](problem._replace(kind=FORWARD, threads=1))
    solver = functools.partial(_KERNELS[problem.kind], scratch, queue_length(threads), threads, tables)
    return then_bias_grad(solver) if problem.kind == WEIGHT_GRAD else solver


def _scratch_per_worker(problem: Problem) -> int:
    """In elements: what a part fills, a register behind what it reads in whole registers, and room to align each of
    these, which may be more than a register.
    """
    tables = _TABLES[problem.kind](problem._replace(kind=FORWARD, threads=1))
    itemsize = problem.dtype.itemsize
    if isinstance(tables, GradientTables):
        filled = problem.filters * tables.channel + tables.order.size + tables.planes_channel
    else:
        filled = tables.channel
    return filled + (WIDTH + 3 * LINE) // itemsize
