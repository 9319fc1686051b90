"""Implicit GEMM: convolution and its gradients as matrix products whose panels are gathered from the image.

The matrix that im2col would make never exists as a whole: each panel of it is gathered right before it is multiplied.
Where the window is one pixel and the images are near, the panels lie in these already, and are not even gathered.  The
three products are

=============  ====================================  ====================================================
problem        product                               columns of the panels
=============  ====================================  ====================================================
forward        w (filters, taps) times im2col(x)     output positions
data gradient  rotated w times im2col(dy), or        pixels of x
               w^T times dy, scattered by col2im     output positions
weights        dy (filters, positions) times         taps of all channels
               im2col(x)^T
=============  ====================================  ====================================================

All three split the work so that each number is summed by one thread in a fixed order: a result depends on nothing but
the number of threads.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minicaffe.kernels import fast_paths
from minicaffe.kernels.cpu.conv import implicit_gemm_kernels as kernels
from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Axes,
    Problem,
    Solver,
    finished,
    grouped,
    three_axes,
)
from minicaffe.kernels.cpu.conv.tables import Tables, position_columns, tap_columns
from minicaffe.kernels.cpu.matmul.microkernel import (
    KC,
    L2,
    MC,
    MR_MAX,
    MULTIPLICATIONS_PER_CYCLE,
    PANEL,
    VECTORS,
    compiled_macro_kernel,
)
from minicaffe.kernels.cpu.runtime.address import LINE
from minicaffe.kernels.cpu.runtime.launch import queue_length
from minicaffe.kernels.cpu.runtime.threads import product_threads
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH
from minicaffe.kernels.cpu.simd.rectify import compiled_add_rows
from minicaffe.kernels.window import Window

_MOST_PIXELS = 1.2
"""The rotated form of the data gradient multiplies for each pixel of x, the other one for each output position: it is
taken if there are at most so many times as many pixels."""

_GATHERED, _GATHERED_TAPS, _SCATTERED = 0.12, 0.25, 0.4
"""Cycles to gather an element of a panel whose columns are positions, or taps, and to scatter one of a product; roughly
measured."""
_GATHERED_SHORT, _LOST = 1.5, 1.08
"""Cycles to gather an element of runs shorter than a panel, and how many times as long as at its best the product of a
small image takes: for weights that stay the same, where it is measured against what wastes less.
"""
_GATHERED_AGAIN, _READ_AGAIN = 1.2, 0.06
"""Cycles to gather an element from beyond the L2 cache, and to read a byte of the weights from there."""
_NEAR = 8 * L2
"""Bytes of images that may be expected to be in some cache."""
_SETS, _MOST_IN_A_SET = 64, 12
"""Lines of memory that lie a multiple of so many lines apart share a set of the L1 cache, and how many may stay there,
roughly."""
_FEW_REGISTERS = 8  # of a row of a product: if there are more, what fills up the last panel is neglected


class _Config(NamedTuple):
    """What the problems of one convolution have in common."""

    positions: Tables
    """Panels of the forward product, or of the scattered data gradient."""
    rotated: Tables | None
    """Panels of the data gradient as a convolution with rotated filters, where that is the cheaper form."""
    taps: Tables
    """Panels of the weight gradient."""
    panels: int
    """Panels of the weight gradient, over all groups."""
    weights: int
    """Elements of the weights."""
    panel: int
    """Elements of the product of one panel of the weight gradient."""
    scratch_per_worker: int
    """In elements."""


def _rotated_window(problem: Problem) -> Window | None:
    """The window that moves over dy in the data gradient as a convolution; None if there is none, or it costs more."""
    window = problem.window
    pad = tuple(e - 1 - p for e, p in zip(window.extent, window.pad, strict=True))
    if max(window.stride) > 1 or min(pad) < 0 or problem.pixels > _MOST_PIXELS * problem.positions:
        return None
    return window._replace(pad=pad)


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; what the other algorithms are measured against."""
    if not problem.is_compiled:
        return None
    c, m, taps, positions = problem.channels, problem.filters, problem.window.taps, problem.positions
    multiplied: float
    if problem.kind == FORWARD:
        multiplied, moved = float(positions * c * taps * m), _GATHERED * positions * c * taps
        if problem.packed:
            multiplied, moved = _columns(problem) * _LOST * c * taps * m, _small_moved(problem)
    elif problem.kind == WEIGHT_GRAD:
        elements = _padded_product(m, c * taps, WIDTH // problem.dtype.itemsize)
        multiplied, moved = positions * elements, _GATHERED_TAPS * positions * c * taps
    elif _rotated_window(problem):
        multiplied, moved = problem.pixels * m * taps * c, _GATHERED * problem.pixels * m * taps
    else:
        multiplied, moved = positions * c * taps * m, _SCATTERED * positions * c * taps
    return problem.x_shape[0] * problem.group * (multiplied / MULTIPLICATIONS_PER_CYCLE + moved)


def _columns(problem: Problem) -> float:
    """Columns of the panels of an image, with those that stay empty."""
    tables, lanes = _config(problem).positions, WIDTH // problem.dtype.itemsize
    full, rest = divmod(tables.columns, PANEL // problem.dtype.itemsize)
    registers = VECTORS if rest > 2 * lanes else -(-rest // lanes)
    return (full * VECTORS + registers) * lanes / tables.together


def _small_moved(problem: Problem) -> float:
    """Cycles to gather the panels of an image that may be small, and to read the weights for it."""
    depth, shortest = problem.channels * problem.window.taps, problem.y_shape[-1] * problem.dtype.itemsize
    short = problem.window.taps > 1 and shortest < PANEL
    weights = depth * problem.filters * problem.dtype.itemsize
    gathered = (_GATHERED_SHORT if short else _GATHERED) * problem.positions * depth
    return gathered + (_READ_AGAIN * weights if weights > L2 else 0)


def _padded_product(rows: int, columns: int, lanes: int) -> int:
    """Elements of a product; if it has few columns, with those that fill up its panels and tiles."""
    registers = -(-columns // lanes)
    if registers > _FEW_REGISTERS:
        return rows * columns
    full, rest = divmod(registers, VECTORS)
    return -(-rows // MR_MAX) * MR_MAX * (full * VECTORS + (VECTORS if rest > 2 else rest)) * lanes


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    config, threads = _config(problem), problem.threads
    before = {FORWARD: 0, DATA_GRAD: config.weights, WEIGHT_GRAD: 0}[problem.kind]
    if problem.kind == WEIGHT_GRAD:
        image_parts = _weight_grad_parts(problem, config, threads)[1]
        before = image_parts * (config.panels * config.panel + problem.y_shape[1])
    return before + threads * config.scratch_per_worker + 2 * 64


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    return grouped(problem, _kernel(problem))


def _kernel(problem: Problem) -> Solver:
    config, c, m = _config(problem), problem.channels, problem.filters
    itemsize, images = problem.dtype.itemsize, problem.x_shape[0]
    code, scratch_per_worker = compiled_macro_kernel(problem.dtype).address, config.scratch_per_worker * itemsize
    threads = product_threads(problem.multiplications, problem.threads)
    parts = queue_length(threads)

    def shares(tables: Tables, out: Axes, rows: int, channels: int) -> tuple[int, tuple[int, bool, bool, bool]]:
        """All parts; those of the rows, whether images are padded before: where parts would copy much of them again;
        whether a panel needs only some lines of them; and whether it is multiplied as it lies in the images.
        """
        batches = -(-images // tables.together) * problem.group
        work = config.weights // (problem.group * rows), rows, tables.columns, batches
        parts, row_parts = _row_parts(*work, itemsize, threads)
        again = parts * (tables.below + 1) if tables.in_lines and row_parts == 1 else math.inf
        pads = tables.padded and threads > 1 and batches <= threads and 2 * again > batches * out[1]
        as_it_lies = not tables.padded and _stay_near(tables.channel * itemsize, channels, batches)
        return parts, (row_parts, pads, tables.in_lines, as_it_lies)

    if problem.kind == FORWARD:
        (parts, how), packed = shares(config.positions, three_axes(problem.y_shape), m, c), config.positions.packed
        codes = code, compiled_add_rows(problem.dtype).address if problem.accumulate else 0
        return functools.partial(kernels.convolve, how, codes, scratch_per_worker, parts, threads, packed)
    if problem.kind == WEIGHT_GRAD:
        split = _weight_grad_parts(problem, config, threads)
        return functools.partial(kernels.weight_grad, code, *split, scratch_per_worker, threads, config.taps.packed)
    if config.rotated is not None and fast_paths.taken("rotated"):
        (parts, how), packed = shares(config.rotated, three_axes(problem.x_shape), c, m), config.rotated.packed
        zeros = np.zeros((problem.group, c), problem.dtype)
        codes = code, 0
        return functools.partial(kernels.rotated_grad, how, codes, zeros, scratch_per_worker, parts, threads, packed)
    # with few images, channels are shared out, too
    blocks = min(c, -(-parts // max(1, images // config.positions.together * problem.group)))
    packed = config.positions.packed
    return functools.partial(kernels.scatter_grad, code, blocks, scratch_per_worker, parts, threads, packed)


@functools.lru_cache(maxsize=1024)
def _stay_near(channel: int, channels: int, images: int) -> bool:
    """Whether channels, so many bytes apart, can be read where they lie: the images are near, and pieces as wide as a
    panel of the channels that are multiplied at a time stay in the L1 cache.
    """
    if images * channels * channel > _NEAR:
        return False
    lines = (row * channel // LINE + line for row in range(min(channels, KC)) for line in range(-(-PANEL // LINE)))
    return max(Counter(line % _SETS for line in lines).values()) <= _MOST_IN_A_SET


def _config(problem: Problem) -> _Config:
    return _shape_config(problem._replace(kind=FORWARD, threads=1, packed=False, accumulate=False))


@functools.lru_cache(maxsize=1024)
def _shape_config(problem: Problem) -> _Config:
    n, group, c, m = problem.x_shape[0], problem.group, problem.channels, problem.filters
    itemsize = problem.dtype.itemsize
    window, pixels, out = problem.window.with_axes(AXES), three_axes(problem.x_shape), three_axes(problem.y_shape)
    rotated_window = _rotated_window(problem)
    positions = position_columns(c, pixels, out, window, n, itemsize)
    rotated = rotated_window and position_columns(m, out, pixels, rotated_window.with_axes(AXES), n, itemsize)
    taps = tap_columns(c, pixels, out, window, itemsize)
    width = PANEL // itemsize

    def scratch(tables: Tables, channels: int, depth: int) -> int:
        panels = min(tables.panels * depth, max(depth, L2 // PANEL))
        return tables.together * tables.channel * channels + (max(KC, panels) + MC) * width

    slack = 4 * (64 + CHUNK) // itemsize  # to align each of the areas, and to copy their last chunk whole
    areas = [
        scratch(positions, c, max(c * window.taps, m)),
        scratch(taps, c, 0),
        scratch(rotated, m, m * window.taps) if rotated else 0,
    ]
    return _Config(
        positions,
        rotated,
        taps,
        panels=group * -(-c * window.taps // width),
        weights=group * m * c * window.taps,
        panel=m * width,
        scratch_per_worker=max(areas) + MR_MAX * width + slack,
    )


@functools.lru_cache(maxsize=1024)
def _row_parts(depth: int, rows: int, columns: int, batches: int, itemsize: int, threads: int) -> tuple[int, int]:
    """Into how many parts to split the work, and into how many of them the rows of the weights (filters, or channels of
    the rotated ones), ``depth`` numbers each, for ``batches`` products with so many columns to be finished first.

    Every part of the panels reads all weights; every part of the rows gathers all panels.
    """
    width, register = PANEL // itemsize, WIDTH // itemsize
    panels = max(1, -(-columns // width))
    last = -(-(columns - (panels - 1) * width) // register) * register
    per_column = depth * rows / MULTIPLICATIONS_PER_CYCLE

    def cycles(parts: int, row_parts: int) -> Iterator[float]:
        """Those that each part takes."""
        for part in range(parts // row_parts):
            first, end = (batches * panels * p // (parts // row_parts) for p in (part, part + 1))
            count = (end - first) * width - (end // panels - first // panels) * (width - last)
            multiplied = per_column * count / row_parts
            moved = _GATHERED_AGAIN * depth * count + _READ_AGAIN * depth * rows / row_parts * itemsize
            yield from [multiplied + moved if count else 0.0] * row_parts

    most = queue_length(threads)
    splits = [(most, split) for split in range(1, most + 1) if most % split == 0]
    if threads > 1:
        splits += [(2 * threads, 2 * threads), (threads, threads)]  # each gathers all panels: the fewer the better
    some = [(parts, split) for parts, split in splits if split == 1 or rows >= MR_MAX * split]
    return min(some, key=lambda split: finished(cycles(*split), threads))


def _weight_grad_parts(problem: Problem, config: _Config, threads: int) -> tuple[int, int]:
    images = max(1, problem.x_shape[0])
    return _split(images, problem.positions, config.panels, config.panel, queue_length(threads), threads)


@functools.lru_cache(maxsize=1024)
def _split(images: int, positions: int, panels: int, panel: int, parts: int, threads: int) -> tuple[int, int]:
    """The numbers of parts, together at least ``parts``, into which panels and images are split for the weight gradient
    to be finished first.

    ``panel`` is the number of elements of a panel's product.  Every part of the panels reads dy.  Every part of the
    images has sums of its own, as large as the weights, and goes through them for each block of positions: in the L2
    cache if they fit.
    """
    dy = panel // (PANEL // 4) * positions  # elements of an image, roughly

    def cycles(split: tuple[int, int]) -> float:
        panel_parts, image_parts = split
        part_panels, part_images = -(-panels // panel_parts), -(-images // image_parts)
        multiplied = 2 * dy * part_panels * part_images
        sums = part_panels * panel
        passes = 3 if sums * 4 <= L2 else 3 + 2 * part_images * -(-positions // KC)
        return (multiplied + dy * part_images + sums * passes) * -(-panel_parts * image_parts // threads)

    splits = ((p, min(images, -(-parts // p))) for p in range(1, panels + 1))
    return min(splits, key=cycles)
