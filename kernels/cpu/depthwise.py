"""Convolutions with one input channel a group: no matrix product, but a window slid over each channel by itself.

Every thread frames one channel at a time (``layout``), so that a register of neighbouring output positions finds the
pixels of each tap in one piece of memory, whatever the stride.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import config
from numpy.typing import NDArray

from minicaffe.kernels.cpu.frames import frame_to_image, image_to_frame
from minicaffe.kernels.cpu.im2col import AXES
from minicaffe.kernels.cpu.jit import kernel, part_kernel
from minicaffe.kernels.cpu.launch import parallel_queue, queue_length, share
from minicaffe.kernels.cpu.layout import Axes, window_tables
from minicaffe.kernels.cpu.problem import DATA, FORWARD, WEIGHTS, Problem, Way
from minicaffe.kernels.cpu.simd import LINE, WIDTH, add_products, add_scaled, align, correlate, fill_row, load, size_of
from minicaffe.kernels.window import Window


class _Plan(NamedTuple):
    """A window over one channel, as compiled code takes it; offsets in bytes."""

    frame: NDArray
    """The ``table`` of a frame."""
    channel: int
    """Elements of a frame."""
    taps: NDArray
    """Offset of each tap."""
    rows: NDArray
    """Offset of the first position of each row of the output."""
    width: int
    """Positions in such a row."""


@functools.lru_cache(maxsize=1024)
def _plan(x_shape: Axes, y_shape: Axes, window: Window, itemsize: int) -> _Plan:
    missing = (1,) * (AXES + 2 - len(x_shape))
    out = missing + y_shape[2:]
    frame, taps, positions = window_tables(missing + x_shape[2:], out, window.with_axes(AXES), 1, split=True)
    return _Plan(frame.table, frame.channel, taps * itemsize, positions[:: out[-1]] * itemsize, out[-1])


@part_kernel()
def _convolve_part(part, parts, worker, x, w, bias, y, memory, stride, plan):
    layout, channel, taps, rows, width = plan
    like = x.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = x.shape
    filters, positions = y.shape[1] // c, y.shape[2]
    frame = memory + worker * stride
    fill_row(frame, like, channel + lanes)
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        image_to_frame(x.ctypes.data + item * pixels * size, frame, 1, layout, like)
        for f in range(filters):
            weights = w.ctypes.data + (item % c * filters + f) * window * size
            target, start = y.ctypes.data + (item * filters + f) * positions * size, bias[item % c * filters + f]
            for r in range(rows.size):
                for j in range(0, width, lanes):
                    place, source = target + (r * width + j) * size, frame + rows[r] + j * size
                    correlate(place, source, taps.ctypes.data, weights, window, start, min(lanes, width - j))


@part_kernel()
def _data_grad_part(part, parts, worker, dy, w, dx, memory, stride, plan):
    layout, channel, taps, rows, width = plan
    like = dy.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = dx.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    frame = memory + worker * stride
    low, high = share(part, parts, n * c)
    for item in range(low, high):
        fill_row(frame, like, channel)
        for f in range(filters):
            weights = w.ctypes.data + (item % c * filters + f) * window * size
            slopes = dy.ctypes.data + (item * filters + f) * positions * size
            # tap by tap over the whole channel: what is added to has long been written
            for t in range(window):
                factor = load(weights + t * size, like)
                for r in range(rows.size):
                    for j in range(0, width, lanes):
                        target = frame + taps[t] + rows[r] + j * size
                        add_scaled(target, slopes + (r * width + j) * size, factor, min(lanes, width - j))
        frame_to_image(dx.ctypes.data + item * pixels * size, frame, 1, layout, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, x, dy, dw, accumulate, memory, stride, plan):
    layout, channel, taps, rows, width = plan
    like = x.dtype.type(0)
    size = size_of(like)
    lanes, window = WIDTH // size, taps.size
    n, c, pixels = x.shape
    filters, positions = dy.shape[1] // c, dy.shape[2]
    sums = memory + worker * stride
    frame = align(sums + window * WIDTH)
    fill_row(frame, like, channel + lanes)
    totals = np.empty((filters, window))
    low, high = share(part, parts, c)
    for k in range(low, high):
        totals[:] = 0
        for i in range(n):
            image_to_frame(x.ctypes.data + (i * c + k) * pixels * size, frame, 1, layout, like)
            for f in range(filters):
                fill_row(sums, like, window * lanes)
                slopes = dy.ctypes.data + ((i * c + k) * filters + f) * positions * size
                for r in range(rows.size):
                    for j in range(0, width, lanes):
                        factors, source = slopes + (r * width + j) * size, frame + rows[r] + j * size
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
def _convolve(stride, parts, threads, plan, x, w, bias, y, memory):
    base = align(memory.ctypes.data)
    parallel_queue(_convolve_part, parts, threads, (_planes(x), w, bias, _planes(y), base, stride, plan))


@kernel()
def _data_grad(stride, parts, threads, plan, dy, w, dx, memory):
    base = align(memory.ctypes.data)
    parallel_queue(_data_grad_part, parts, threads, (_planes(dy), w, _planes(dx), base, stride, plan))


@kernel()
def _weight_grad(stride, parts, threads, plan, x, dy, dw, memory, accumulate):
    weights, base = dw.reshape(dw.shape[0], -1), align(memory.ctypes.data)
    parallel_queue(
        _weight_grad_part, parts, threads, (_planes(x), _planes(dy), weights, accumulate, base, stride, plan)
    )


_SOLVERS = {FORWARD: _convolve, DATA: _data_grad, WEIGHTS: _weight_grad}


def _area(plan: _Plan, itemsize: int) -> int:
    """Elements of scratch memory for each thread: a frame and a register behind it, a register for each tap, and room
    to align both, which may be more than a register.
    """
    return plan.channel + (plan.taps.size + 1) * (WIDTH // itemsize) + 2 * LINE // itemsize


def applies(x_shape: Axes, group: int) -> bool:
    """Whether each channel is a group by itself."""
    return x_shape[1] == group > 1


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory for as many threads as Numba can use; ``group`` is the number of channels."""
    areas = [_area(_plan(x_shape, y_shape, window, itemsize), itemsize) for itemsize in (4, 8)]
    return (config.NUMBA_NUM_THREADS + 1) * max(areas)


def way(problem: Problem) -> Way | None:
    """How to solve a problem with as many groups as x has channels."""
    if not applies(problem.x_shape, problem.group):
        return None
    size, threads = problem.dtype.itemsize, problem.threads
    plan = _plan(problem.x_shape, problem.y_shape, problem.window, size)
    return functools.partial(_SOLVERS[problem.kind], _area(plan, size) * size, queue_length(threads), threads, plan)
