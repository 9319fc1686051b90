"""Convolution and its gradients as matrix products whose panels are gathered from the image, never im2col as a whole.

All three split their work so that each number is summed by one thread in a fixed order: a result depends on nothing but
the number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import config

from minicaffe.kernels.cpu.conv import implicit_gemm_kernels
from minicaffe.kernels.cpu.conv.im2col import AXES
from minicaffe.kernels.cpu.conv.problem import FORWARD, WEIGHTS, Problem, Way
from minicaffe.kernels.cpu.conv.tables import Axes, Plan, column_plan, row_plan
from minicaffe.kernels.cpu.matmul.microkernel import DEPTH, L2, LONGEST_TILE, PANEL, ROWS, multiplier
from minicaffe.kernels.cpu.runtime.launch import queue_length
from minicaffe.kernels.cpu.runtime.threads import product_threads
from minicaffe.kernels.cpu.simd.memory import CHUNK
from minicaffe.kernels.window import Window

MOST_TURNED = 1.2
"""Times as many positions may a transposed convolution have: its products grow with them."""


class _Job(NamedTuple):
    """What the convolutions of one shape need."""

    columns: Plan
    turned: Plan | None
    """Of the transposed convolution, where that is the cheapest way to the data gradient."""
    rows: Plan
    panels: int
    """Panels that the columns of the weights fill, over all groups."""
    weights: int
    """Elements of the weights."""
    panel: int
    """Elements of such a panel's product."""
    area: int
    """Elements of scratch memory for each thread."""
    positions: int
    products: int
    """Multiplications in one of the three."""

    def weight_grad_parts(self, images: int, threads: int) -> tuple[int, int]:
        """Into how many parts to split panels and images for the gradient of the weights."""
        return _weight_grad_parts(images, self.positions, self.panels, self.panel, queue_length(threads), threads)


@functools.lru_cache(maxsize=1024)
def _weight_grad_parts(
    images: int, positions: int, panels: int, panel: int, parts: int, threads: int
) -> tuple[int, int]:
    """Into how many parts, at least ``parts``, to split panels and images for the gradient of the weights, so that it
    is soonest there.

    ``panel`` is the number of elements of a panel's product.  Every part of the panels reads dy; every part of the
    images makes sums as large as the weights, and goes through them for each block of positions: from the L2 cache
    where they fit.
    """
    slopes = panel // (PANEL // 4) * positions  # of an image, roughly

    def cycles(split: tuple[int, int]) -> float:
        panel_parts, image_parts = split
        part_panels, part_images = -(-panels // panel_parts), -(-images // image_parts)
        multiplied = 2 * slopes * part_panels * part_images
        sums = part_panels * panel
        passes = 3 if sums * 4 <= L2 else 3 + 2 * part_images * -(-positions // DEPTH)
        return (multiplied + slopes * part_images + sums * passes) * -(-panel_parts * image_parts // threads)

    splits = ((p, min(images, -(-parts // p))) for p in range(1, panels + 1))
    return min(splits, key=cycles)


def _spatial(shape: Axes) -> Axes:
    return (1,) * (AXES + 2 - len(shape)) + shape[2:]


def _turned(window: Window) -> Window | None:
    """The window of the transposed convolution, if there is one."""
    pad = tuple(e - 1 - p for e, p in zip(window.extent, window.pad, strict=True))
    return window._replace(pad=pad) if max(window.stride) == 1 and min(pad) >= 0 else None


@functools.lru_cache(maxsize=1024)
def _job(x_shape: Axes, y_shape: Axes, window: Window, group: int, itemsize: int) -> _Job:
    n, c, m = x_shape[0], x_shape[1] // group, y_shape[1] // group
    window, pixels, out = window.with_axes(AXES), _spatial(x_shape), _spatial(y_shape)
    turned_window = _turned(window) if math.prod(pixels) <= MOST_TURNED * math.prod(out) else None
    columns = column_plan(c, pixels, out, window, n, itemsize)
    turned = turned_window and column_plan(m, out, pixels, turned_window, n, itemsize)
    rows = row_plan(c, pixels, out, window, itemsize)
    width = PANEL // itemsize

    def area(plan: Plan, channels: int, depth: int) -> int:
        panels = min(plan.panels * depth, max(depth, L2 // PANEL))
        return plan.together * plan.channel * channels + (max(DEPTH, panels) + ROWS) * width

    slack = 4 * (64 + CHUNK) // itemsize  # to align each of the areas, and to copy their last chunk whole
    areas = [
        area(columns, c, max(c * window.taps, m)),
        area(rows, c, 0),
        area(turned, m, m * window.taps) if turned else 0,
    ]
    return _Job(
        columns,
        turned,
        rows,
        group * -(-c * window.taps // width),
        group * m * c * window.taps,
        m * width,
        max(areas) + LONGEST_TILE * width + slack,
        math.prod(out),
        n * group * m * c * window.taps * math.prod(out),
    )


def _row_parts(batches: int, weights: int, m: int, plan: Plan, parts: int) -> int:
    """Into how many parts to split the m filters of a group: 1 but where so few panels are multiplied with many
    weights.

    Every part of the panels reads all ``weights`` (bytes); every part of the filters gathers all panels.
    """
    panels = batches * plan.panels
    return parts if weights > 2 * L2 and panels < 2 * parts and m >= LONGEST_TILE * parts else 1


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory that the three take with as many threads as Numba can use."""
    needed, n = 0, max(1, x_shape[0])
    for itemsize in (4, 8):
        job = _job(x_shape, y_shape, window, group, itemsize)
        for threads in range(1, config.NUMBA_NUM_THREADS + 1):
            sums = job.weight_grad_parts(n, threads)[1] * (job.panels * job.panel + y_shape[1])
            needed = max(needed, max(sums, job.weights) + threads * job.area + 2 * 64)
    return needed


def way(problem: Problem, turned: bool) -> Way:
    """How to solve any problem, given arrays by group; ``turned``: as the transposed convolution where that is the
    cheapest way to the data gradient.
    """
    kind, x_shape, y_shape, window, group, dtype, threads = problem
    job = _job(x_shape, y_shape, window, group, dtype.itemsize)
    n, c, m = x_shape[0], x_shape[1] // group, y_shape[1] // group
    code, area, weights = multiplier(dtype).address, job.area * dtype.itemsize, job.weights * dtype.itemsize
    threads = product_threads(job.products, threads)
    parts = queue_length(threads)

    def row_parts(plan: Plan, filters: int) -> int:
        return _row_parts(-(-n // plan.together) * group, weights, filters, plan, parts)

    if kind == FORWARD:
        rows, table = row_parts(job.columns, m), job.columns.table
        return functools.partial(implicit_gemm_kernels.convolve, rows, code, area, parts, threads, table)
    if kind == WEIGHTS:
        split = job.weight_grad_parts(n, threads)
        return functools.partial(implicit_gemm_kernels.weight_grad, code, *split, area, threads, job.rows.table)
    if turned and job.turned is not None:
        rows, zeros, table = row_parts(job.turned, c), np.zeros((group, c), dtype), job.turned.table
        return functools.partial(implicit_gemm_kernels.turned_grad, rows, code, zeros, area, parts, threads, table)
    # few images: channels are shared out, too
    blocks = min(c, -(-parts // max(1, n // job.columns.together * group)))
    return functools.partial(implicit_gemm_kernels.scatter_grad, code, blocks, area, parts, threads, job.columns.table)
