"""Depthwise convolutions, with one input channel a group: no matrix product, but a window slid over each channel.

Every thread pads one channel at a time (``tables``), so that for each tap the pixels of a register of neighbouring
output positions are neighbours in memory, whatever the stride.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv.packing import pad_image, unpad_image
from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Problem,
    Solver,
    then_bias_grad,
    three_axes,
)
from minicaffe.kernels.cpu.conv.tables import window_tables
from minicaffe.kernels.cpu.runtime.address import LINE, align, load, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, queue_length, share
from minicaffe.kernels.cpu.simd.memory import WIDTH, add_products, add_scaled, correlate, fill_row
from minicaffe.kernels.cpu.simd.rectify import rectify_rows


class _Tables(NamedTuple):
    """A window over one channel, as compiled code takes it; offsets in bytes."""

    layout: NDArray
    """The ``table`` of the padded image."""
    channel: int
    """Elements of a channel of it."""
    taps: NDArray
    """Offset of each tap."""
    rows: NDArray
    """Offset of the first position of each row of the output."""
    width: int
    """Positions in such a row."""


@functools.lru_cache(maxsize=1024)
def _tables(problem: Problem) -> _Tables:
    out, size = three_axes(problem.y_shape), problem.dtype.itemsize
    window = problem.window.with_axes(AXES)
    image, taps, positions = window_tables(three_axes(problem.x_shape), out, window, 1, split=True)
    return _Tables(image.table, image.channel, taps * size, positions[:: out[-1]] * size, out[-1])


@part_kernel()
def _convolve_part(part, parts, worker, x, w, bias, y, slope, memory, scratch_per_worker, tables):
    layout, channel, taps, rows, width = tables
    like = x.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = x.shape
    filters, positions = y.shape[1] // c, y.shape[2]
    padded = memory + worker * scratch_per_worker
    fill_row(padded, like, channel + lanes)
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        pad_image(x.ctypes.data + item * pixels * size, padded, 1, layout, like)
        for f in range(filters):
            weights = w.ctypes.data + (item % c * filters + f) * window * size
            target, start = y.ctypes.data + (item * filters + f) * positions * size, bias[item % c * filters + f]
            for r in range(rows.size):
                for j in range(0, width, lanes):
                    place, source = target + (r * width + j) * size, padded + rows[r] + j * size
                    correlate(place, source, taps.ctypes.data, weights, window, start, min(lanes, width - j))
            if slope != 1:
                rectify_rows(target, 0, 1, positions, slope)


@part_kernel()
def _data_grad_part(part, parts, worker, dy, w, dx, memory, scratch_per_worker, tables):
    layout, channel, taps, rows, width = tables
    like = dy.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = dx.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    padded = memory + worker * scratch_per_worker
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        fill_row(padded, like, channel)
        for f in range(filters):
            weights = w.ctypes.data + (item % c * filters + f) * window * size
            gradients = dy.ctypes.data + (item * filters + f) * positions * size
            # tap by tap over the whole channel, so that no addition has to wait for the previous one to be stored
            for t in range(window):
                factor = load(weights + t * size, like)
                for r in range(rows.size):
                    for j in range(0, width, lanes):
                        target = padded + taps[t] + rows[r] + j * size
                        add_scaled(target, gradients + (r * width + j) * size, factor, min(lanes, width - j))
        unpad_image(dx.ctypes.data + item * pixels * size, padded, 1, layout, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, x, dy, dw, accumulate, memory, scratch_per_worker, tables):
    layout, channel, taps, rows, width = tables
    like = x.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = x.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    sums = memory + worker * scratch_per_worker
    padded = align(sums + window * WIDTH)
    fill_row(padded, like, channel + lanes)
    totals = np.empty((filters, window))
    low, high = share(part, parts, c)
    for k in range(low, high):
        totals[:] = 0
        for i in range(n):
            pad_image(x.ctypes.data + (i * c + k) * pixels * size, padded, 1, layout, like)
            for f in range(filters):
                fill_row(sums, like, window * lanes)
                gradients = dy.ctypes.data + ((i * c + k) * filters + f) * positions * size
                for r in range(rows.size):
                    for j in range(0, width, lanes):
                        factors, source = gradients + (r * width + j) * size, padded + rows[r] + j * size
                        add_products(sums, factors, source, taps.ctypes.data, window, min(lanes, width - j), like)
                for t in range(window):
                    for lane in range(lanes):
                        totals[f, t] += load(sums + t * WIDTH + lane * size, like)
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


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; nothing else is faster if every channel is a group, so that no estimate is made."""
    return 0.0 if problem.x_shape[1] == problem.group > 1 and problem.is_compiled else None


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    return (problem.threads + 1) * _scratch_per_worker(problem)


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    scratch, threads = _scratch_per_worker(problem) * problem.dtype.itemsize, problem.threads
    arguments = scratch, queue_length(threads), threads, _tables(problem._replace(kind=FORWARD, threads=1))
    solver = functools.partial(_KERNELS[problem.kind], *arguments)
    return then_bias_grad(solver) if problem.kind == WEIGHT_GRAD else solver


def _scratch_per_worker(problem: Problem) -> int:
    """In elements: a padded channel and a register behind it, a register for each tap, and room to align both, which
    may be more than a register.
    """
    tables = _tables(problem._replace(kind=FORWARD, threads=1))
    itemsize = problem.dtype.itemsize
    return tables.channel + (tables.taps.size + 1) * (WIDTH // itemsize) + 2 * LINE // itemsize
