"""Depthwise convolutions with windows of 3 x 3, as most of them have: channels are read where they lie.

Its gradient with respect to the data is a convolution, too, if the stride is 1: of the gradients of the positions, by
the same weights in reverse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Problem,
    Solver,
    grouped,
    then_bias_grad,
    three_axes,
)
from minicaffe.kernels.cpu.runtime.address import quotient, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, queue_length, share
from minicaffe.kernels.cpu.simd.memory import WIDTH
from minicaffe.kernels.cpu.simd.window_3x3 import TAPS, add_products_3x3, correlate_3x3, spread_3x3

_TOGETHER = 1 << 13
"""Bytes of the pixels of small channels that are gone through strip by strip, each strip down all of them."""
_PIECE = 1 << 10
"""Registers of products that are summed in a lane in the arrays' dtype; the sums of pieces are added up in float64."""


@part_kernel()
def _convolve_part(part, parts, worker, together, x, w, bias, y, slope, reverse, sizes):
    size = size_of(x.dtype.type(0))
    n, groups, each = y.shape[:3]
    pixels, positions = sizes[0] * sizes[1] * size, sizes[2] * sizes[3] * size
    step, first_tap = (-size, (TAPS - 1) * size) if reverse else (size, 0 * size)
    low, high = share(part, parts, n * groups * each)
    item = low
    while item < high:
        k = item % (groups * each)
        channels = min(together, high - item, groups * each - k)
        target, source = y.ctypes.data + item * positions, x.ctypes.data + item // each * pixels
        weights, starts = w.ctypes.data + k * TAPS * size + first_tap, bias.ctypes.data + k * size
        correlate_3x3(target, source, sizes, channels, weights, step, starts, slope)
        item += channels


@part_kernel()
def _spread_part(part, parts, worker, dy, w, dx, sizes):
    like = dx.dtype.type(0)
    size = size_of(like)
    n, groups = dx.shape[:2]
    pixels, positions = sizes[0] * sizes[1] * size, sizes[2] * sizes[3] * size
    low, high = share(part, parts, n * groups)
    for item in range(low, high):
        weights = w.ctypes.data + item % groups * TAPS * size
        spread_3x3(dx.ctypes.data + item * pixels, dy.ctypes.data + item * positions, sizes, weights, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, x, dy, dw, accumulate, sizes):
    like = x.dtype.type(0)
    size = size_of(like)
    n, groups, each = dy.shape[:3]
    pixels, positions = sizes[0] * sizes[1] * size, sizes[2] * sizes[3] * size
    together = max(1, quotient(_PIECE * WIDTH, positions))
    sums, totals = np.empty((TAPS, WIDTH // size), x.dtype), np.empty(TAPS)
    low, high = share(part, parts, groups * each)
    for k in range(low, high):
        totals[:] = 0
        for first in range(0, n, together):
            sums[:] = 0
            for i in range(first, min(first + together, n)):
                factors = dy.ctypes.data + (i * groups * each + k) * positions
                source = x.ctypes.data + (i * groups + k // each) * pixels
                add_products_3x3(sums.ctypes.data, factors, source, sizes, like)
            for t in range(TAPS):
                for lane in range(WIDTH // size):
                    totals[t] += sums[t, lane]
        for t in range(TAPS):
            before = dw[k // each, k % each, 0, t] if accumulate else like
            dw[k // each, k % each, 0, t] = before + totals[t]


@kernel()
def _convolve(parts, threads, sizes, together, x, w, bias, y, memory, slope):
    arguments = together, x, w, bias, y, x.dtype.type(slope), False, sizes
    parallel_queue(_convolve_part, parts, threads, arguments)


@kernel()
def _convolve_reverse(parts, threads, sizes, together, zeros, dy, w, dx, memory):
    arguments = together, dy, w, zeros, dx, dy.dtype.type(1), True, sizes
    parallel_queue(_convolve_part, parts, threads, arguments)


@kernel()
def _spread(parts, threads, sizes, dy, w, dx, memory):
    parallel_queue(_spread_part, parts, threads, (dy, w, dx, sizes))


@kernel()
def _weight_grad(parts, threads, sizes, x, dy, dw, memory, accumulate):
    parallel_queue(_weight_grad_part, parts, threads, (x, dy, dw, accumulate, sizes))


def fits(problem: Problem) -> bool:
    """Whether it is a window of 3 x 3 that takes steps of 1 or 2 pixels."""
    window = problem.window.with_axes(AXES)
    return (
        window.kernel == (1, 3, 3)
        and window.dilation == (1, 1, 1)
        and window.stride in ((1, 1, 1), (1, 2, 2))
        and three_axes(problem.x_shape)[0] == three_axes(problem.y_shape)[0] == 1
        and window.pad[0] == 0
        and (problem.kind != DATA_GRAD or problem.filters == 1)
    )


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``; no workspace is needed."""
    window = problem.window.with_axes(AXES)
    (_, *pixels), (_, *positions), (_, stride, _), (_, *pad) = (
        three_axes(problem.x_shape),
        three_axes(problem.y_shape),
        window.stride,
        window.pad,
    )
    kernels = {FORWARD: _convolve, DATA_GRAD: _spread, WEIGHT_GRAD: _weight_grad}
    solve, sizes = kernels[problem.kind], (*pixels, *positions, stride, *pad)
    more: tuple[Any, ...] = (_together(problem, pixels),) if problem.kind == FORWARD else ()
    if problem.kind == DATA_GRAD and stride == 1:
        solve, sizes = _convolve_reverse, (*positions, *pixels, 1, *(2 - each for each in pad))
        more = _together(problem, positions), np.zeros((problem.group, 1), problem.dtype)
    bound = functools.partial(solve, queue_length(problem.threads), problem.threads, sizes, *more)
    solver = grouped(problem, bound)
    return then_bias_grad(solver) if problem.kind == WEIGHT_GRAD else solver


def _together(problem: Problem, pixels: Sequence[int]) -> int:
    """How many channels of so many rows and columns to go through together."""
    channel = max(1, math.prod(pixels) * problem.dtype.itemsize)
    return max(1, _TOGETHER // channel) if problem.filters == 1 else 1
