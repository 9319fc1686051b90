"""Convolutions with one input channel a group: no matrix product, but a window slid over each channel by itself.

Every thread frames one channel at a time (``layout``), so that a register of neighbouring output positions finds the pixels of
each tap in one piece of memory, whatever the stride.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import config
from numpy.typing import NDArray

from minicaffe.kernels.cpu.frames import frame_to_image, image_to_frame
from minicaffe.kernels.cpu.im2col import AXES
from minicaffe.kernels.cpu.jit import kernel, parallel_queue, part_kernel, queue_length, share
from minicaffe.kernels.cpu.layout import Axes, window_tables
from minicaffe.kernels.cpu.simd import WIDTH, add_products, add_scaled, align, correlate, fill_row, load, size_of
from minicaffe.kernels.cpu.threads import thread_count
from minicaffe.kernels.reference import Array
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


@kernel()
def _convolve(x, w, bias, y, memory, stride, parts, threads, plan):
    parallel_queue(_convolve_part, parts, threads, (x, w, bias, y, align(memory.ctypes.data), stride, plan))


@kernel()
def _data_grad(dy, w, dx, memory, stride, parts, threads, plan):
    parallel_queue(_data_grad_part, parts, threads, (dy, w, dx, align(memory.ctypes.data), stride, plan))


@kernel()
def _weight_grad(x, dy, dw, accumulate, memory, stride, parts, threads, plan):
    base = align(memory.ctypes.data)
    parallel_queue(_weight_grad_part, parts, threads, (x, dy, dw, accumulate, base, stride, plan))


def _area(plan: _Plan, itemsize: int) -> int:
    """Elements of scratch memory for each thread: a frame, a register for each tap, and room to align both."""
    return plan.channel + (plan.taps.size + 3) * (WIDTH // itemsize)


def _parts() -> tuple[int, int]:
    threads = thread_count()
    return queue_length(threads), threads


def _planes(array: Array) -> Array:
    return array.reshape(*array.shape[:2], -1)


def applies(x_shape: Axes, group: int) -> bool:
    """Whether each channel is a group by itself."""
    return x_shape[1] == group > 1


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory for as many threads as Numba can use; ``group`` is the number of channels."""
    areas = [_area(_plan(x_shape, y_shape, window, itemsize), itemsize) for itemsize in (4, 8)]
    return (config.NUMBA_NUM_THREADS + 1) * max(areas)


def convolve(x: Array, w: Array, bias: Array, y: Array, window: Window, memory: Array) -> None:
    """``reference.convolve`` with as many groups as x has channels."""
    plan = _plan(x.shape, y.shape, window, x.itemsize)
    stride = _area(plan, x.itemsize) * x.itemsize
    _convolve(_planes(x), w, bias, _planes(y), memory, stride, *_parts(), plan)


def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, memory: Array) -> None:
    """``reference.convolve_data_grad`` with as many groups as dx has channels."""
    plan = _plan(dx.shape, dy.shape, window, dx.itemsize)
    stride = _area(plan, dx.itemsize) * dx.itemsize
    _data_grad(_planes(dy), w, _planes(dx), memory, stride, *_parts(), plan)


def convolve_weight_grad(x: Array, dy: Array, dw: Array, window: Window, memory: Array, accumulate: bool) -> None:
    """``reference.convolve_weight_grad`` with as many groups as x has channels."""
    plan = _plan(x.shape, dy.shape, window, x.itemsize)
    stride = _area(plan, x.itemsize) * x.itemsize
    _weight_grad(_planes(x), _planes(dy), dw.reshape(len(dw), -1), accumulate, memory, stride, *_parts(), plan)
