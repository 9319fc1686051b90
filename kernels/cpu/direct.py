"""Convolution and its gradients as matrix products whose panels are gathered from the image, never im2col as a whole.

All three split their work so that each number is summed by one thread in a fixed order: a result depends on nothing but
the number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from numba import config

from minicaffe.kernels import fast_paths
from minicaffe.kernels.cpu import products
from minicaffe.kernels.cpu.im2col import AXES
from minicaffe.kernels.cpu.jit import queue_length
from minicaffe.kernels.cpu.layout import Axes, Plan, column_plan, row_plan
from minicaffe.kernels.cpu.products import ROWS
from minicaffe.kernels.cpu.simd import CHUNK
from minicaffe.kernels.cpu.threads import product_threads
from minicaffe.kernels.cpu.tile import DEPTH, L2, LONGEST_TILE, PANEL, multiplier
from minicaffe.kernels.reference import Array
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
    """Into how many parts, at least ``parts``, to split panels and images for the gradient of the weights, so that it is soonest there.

    ``panel`` is the number of elements of a panel's product.  Every part of the panels reads dy; every part of the images makes
    sums as large as the weights, and goes through them for each block of positions: from the L2 cache where they fit.
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
    areas = [area(columns, c, max(c * window.taps, m)), area(rows, c, 0), area(turned, m, m * window.taps) if turned else 0]
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


def _row_parts(x: Array, w: Array, m: int, plan: Plan, parts: int) -> int:
    """Into how many parts to split the m filters of a group: 1 but where so few panels are multiplied with many weights.

    Every part of the panels reads all weights; every part of the filters gathers all panels.
    """
    panels = -(-x.shape[0] // plan.together) * x.shape[1] * plan.panels
    return parts if w.nbytes > 2 * L2 and panels < 2 * parts and m >= LONGEST_TILE * parts else 1


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory that the three take with as many threads as Numba can use."""
    needed, n = 0, max(1, x_shape[0])
    for itemsize in (4, 8):
        job = _job(x_shape, y_shape, window, group, itemsize)
        for threads in range(1, config.NUMBA_NUM_THREADS + 1):
            sums = job.weight_grad_parts(n, threads)[1] * job.panels * job.panel
            needed = max(needed, max(sums, job.weights) + threads * job.area + 2 * 64)
    return needed


def convolve(x: Array, w: Array, bias: Array, y: Array, window: Window, group: int, workspace: Array) -> None:
    """The convolution; ``bias`` is (channels of y,)."""
    job = _job(x.shape, y.shape, window, group, x.itemsize)
    n, c, m = len(x), x.shape[1] // group, len(w) // group
    threads = product_threads(job.products)
    parts = queue_length(threads)
    images = x.reshape(n, group, c, -1)
    products.convolve(
        _row_parts(images, w, m, job.columns, parts),
        multiplier(w.dtype).address,
        images,
        w,
        bias.reshape(group, m),
        y.reshape(n, group, m, -1),
        workspace,
        job.area * x.itemsize,
        parts,
        threads,
        job.columns.table,
    )


def convolve_data_grad(
    dy: Array, w: Array, dx: Array, zeros: Array, window: Window, group: int, workspace: Array
) -> None:
    """The gradient of the data; ``zeros`` is (channels of dx,)."""
    job = _job(dx.shape, dy.shape, window, group, dx.itemsize)
    n, c, m = len(dx), dx.shape[1] // group, len(w) // group
    threads = product_threads(job.products)
    parts = queue_length(threads)
    code, area = multiplier(w.dtype).address, job.area * dx.itemsize
    slopes, weights, pixels = dy.reshape(n, group, m, -1), w.reshape(group, m, c, -1), dx.reshape(n, group, c, -1)
    if job.turned is not None and fast_paths.taken("turned"):
        rows, level = _row_parts(slopes, w, c, job.turned, parts), zeros.reshape(group, c)
        table = job.turned.table
        products.turned_grad(rows, code, slopes, weights, pixels, level, workspace, area, parts, threads, table)
        return
    # few images: channels are shared out, too
    blocks = min(c, -(-parts // max(1, n // job.columns.together * group)))
    products.scatter_grad(code, slopes, weights, pixels, blocks, workspace, area, parts, threads, job.columns.table)


def convolve_weight_grad(
    x: Array, dy: Array, dw: Array, window: Window, group: int, workspace: Array, accumulate: bool
) -> None:
    """The gradient of the weights, added to dw if ``accumulate``."""
    job = _job(x.shape, dy.shape, window, group, x.itemsize)
    n, c, m = len(x), x.shape[1] // group, len(dw) // group
    threads = product_threads(job.products)
    products.weight_grad(
        multiplier(dw.dtype).address,
        x.reshape(n, group, c, -1),
        dy.reshape(n, group, m, -1),
        dw.reshape(group, m, -1),
        accumulate,
        *job.weight_grad_parts(n, threads),
        workspace,
        job.area * x.itemsize,
        threads,
        job.rows.table,
    )
