"""Convolution with weights that stay the same: the filters are packed into panels once, and multiplied with the image.

``implicit_gemm`` gathers positions into panels, whose registers a small image does not fill, and reads the filters one
number at a time, from rows that lie far apart.  Here the product is the transpose of that, im2col(x)^T (positions,
taps) times w^T (taps, filters): registers run along filters, whose panels follow one another in memory, and the
numbers of the image are read one at a time: where they lie, if the window is one pixel, and from gathered panels if it
is not.  Each piece of the result is transposed while it is in the L1 cache.  It pays where there are few positions and
many filters.

Each number is summed in the same order as by ``implicit_gemm``, by one thread: results are equal to the last bit,
whatever the number of threads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from minicaffe.kernels.cpu.conv import filter_panels_kernels as kernels
from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    FORWARD,
    Packing,
    Problem,
    Solver,
    aligned_zeros,
    by_group,
    finished,
    three_axes,
)
from minicaffe.kernels.cpu.conv.tables import Tables, position_columns
from minicaffe.kernels.cpu.matmul.microkernel import (
    L2,
    MC,
    MR_MAX,
    MULTIPLICATIONS_PER_CYCLE,
    PANEL,
    compiled_macro_kernel,
)
from minicaffe.kernels.cpu.runtime.address import LINE
from minicaffe.kernels.cpu.runtime.launch import queue_length
from minicaffe.kernels.cpu.runtime.threads import product_threads
from minicaffe.kernels.cpu.simd.memory import WIDTH
from minicaffe.kernels.cpu.simd.rectify import compiled_add_rows
from minicaffe.kernels.reference import Array

_GATHERED, _PADDED = 2.0, 3.0
"""Cycles to gather an element, and to copy one of the image into its padded form; roughly measured, like the others."""
_TRANSPOSED, _TRANSPOSED_FAR, _TRANSPOSED_FARTHER = 0.7, 1.5, 2.3
"""Cycles to transpose an element of the result: of one that fits into the L2 cache, of one that does not, and of one of
many images.
"""
_IMAGE_FIRST, _IMAGE_AGAIN = 2.0, 0.06
"""Cycles to read an element of one of many images for the first time, and a byte of one beyond the L2 cache again."""
_FILTERS_AHEAD, _FILTERS_READ = 0.03, 0.11
"""Cycles to read a byte of the filters from beyond the L2 cache: while others are multiplied, and alone."""
_MANY = 8 * L2
"""Bytes of all images and results that are too many to be found near."""
_AGAIN = 4
"""Positions that could be multiplied while a panel is read from the L2 cache."""
_MOST_GATHERED = 1 << 21
"""Bytes of a panel of positions, at most: windows of more elements are left to other algorithms."""


class _Split(NamedTuple):
    """How the work is shared out."""

    parts: int
    filter_parts: int
    """How many of them have the same positions, and different filters."""
    together: int
    """Pieces of the positions that are multiplied with all of a part's filters before the next."""
    rows: int
    """Positions of a piece."""


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; None unless the weights stay the same."""
    depth = problem.channels * problem.window.taps
    if problem.kind != FORWARD or not problem.packed or not problem.is_compiled or 0 in problem.x_shape:
        return None
    if 0 in problem.y_shape or depth * PANEL > _MOST_GATHERED:
        return None
    size, columns = problem.dtype.itemsize, _panel_columns(problem)
    positions = min(sum(map(_tile_rows, _pieces(problem, rows))) for rows in _rows(problem))
    multiplied = positions * sum(columns) * depth / MULTIPLICATIONS_PER_CYCLE
    image, filters = problem.positions * depth * size, sum(columns) * depth * size
    if filters > L2:
        multiplied = max(multiplied, _FILTERS_READ * filters) + _FILTERS_AHEAD * filters
    read = _IMAGE_FIRST * problem.positions * problem.channels if _are_many(problem) else 0.0
    read += _IMAGE_AGAIN * image * len(columns) if image > L2 else 0.0
    moved = _gathered_cycles(problem) + problem.positions * problem.filters * _transposed(problem)
    return problem.x_shape[0] * problem.group * (multiplied + read + moved)


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    return problem.threads * _scratch_per_worker(problem) // problem.dtype.itemsize + LINE


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``: packs the filters at every call."""
    packing = bind_packed(problem)

    def solve(x: Array, w: Array, *rest: Any) -> None:
        packing.solve(x, packing.pack(w), *rest)

    return solve


def bind_packed(problem: Problem) -> Packing:
    """See ``Packing``: the filters are laid out in panels once."""
    group, dtype = problem.group, problem.dtype
    depth, threads = problem.channels * problem.window.taps, product_threads(problem.multiplications, problem.threads)
    split = _split(problem._replace(threads=threads))
    codes = compiled_macro_kernel(dtype).address, compiled_add_rows(dtype).address if problem.accumulate else 0
    scratch = _scratch_per_worker(problem)
    tables, how = _tables(problem).packed, (split.filter_parts, split.together, split.rows)
    panels = -(-problem.filters * dtype.itemsize // PANEL)

    def pack(w: Array) -> Array:
        u = aligned_zeros(group * panels * depth * PANEL // dtype.itemsize, dtype)
        kernels.pack(w.reshape(group, problem.filters, depth), u, product_threads(w.size, problem.threads))
        return u

    def convolve(x: Array, u: Array, bias: Array, y: Array, workspace: Array, slope: float) -> None:
        arrays = by_group(x, group), u.ctypes.data, bias.reshape(group, -1), by_group(y, group)
        kernels.convolve(how, codes, scratch, split.parts, threads, tables, *arrays, workspace, slope)

    return Packing("panels", pack, convolve)


# --- pieces of the positions ------------------------------------------------------------------------------------------


def _tables(problem: Problem) -> Tables:
    pixels, out = three_axes(problem.x_shape), three_axes(problem.y_shape)
    return position_columns(problem.channels, pixels, out, problem.window.with_axes(AXES), 1, problem.dtype.itemsize)


def _in_place(problem: Problem) -> bool:
    """Whether the numbers of a position and its neighbours lie side by side, in the image or its padded form."""
    window = problem.window
    whole = zip(problem.x_shape[2:], problem.y_shape[2:], window.pad, window.stride, strict=True)
    return window.taps == 1 and all(-(-(size + 2 * pad) // stride) == out for size, out, pad, stride in whole)


def _tile_rows(rows: int) -> int:
    """Rows of the tiles that so many rows are multiplied as."""
    return min(-(-rows // mr) * mr for mr in (4, 5, 6))


def _rows(problem: Problem) -> tuple[int, ...]:
    """Of how many positions pieces can be, whose product stays in the L1 cache."""
    return (MC, 54, 48) if _in_place(problem) else (PANEL // problem.dtype.itemsize,)


def _pieces(problem: Problem, rows: int) -> list[int]:
    """The numbers of positions that are multiplied with a panel at a time."""
    return [min(rows, problem.positions - first) for first in range(0, problem.positions, rows)]


def _most_together(problem: Problem, pieces: int) -> int:
    """How many of the pieces at most are gathered before they are multiplied, so that they stay in the L2 cache."""
    return (
        pieces
        if _in_place(problem)
        else min(pieces, max(1, L2 // (problem.channels * problem.window.taps * kernels.GATHERED_ROW)))
    )


def _scratch_per_worker(problem: Problem) -> int:
    """In bytes."""
    padded, rows = problem.channels * _tables(problem).channel * problem.dtype.itemsize, max(_rows(problem))
    gathered = (
        0
        if _in_place(problem)
        else _most_together(problem, len(_pieces(problem, rows)))
        * problem.channels
        * problem.window.taps
        * kernels.GATHERED_ROW
    )
    return -(-(padded + gathered + (2 * rows + MR_MAX + 1) * PANEL + 8 * LINE) // LINE) * LINE


# --- shares of the threads --------------------------------------------------------------------------------------------


def _panel_columns(problem: Problem) -> list[int]:
    """The columns of each panel, with those that hold no filter."""
    size, lanes = problem.dtype.itemsize, WIDTH // problem.dtype.itemsize
    width = PANEL // size
    rest = problem.filters % width
    full = [width] * (problem.filters // width)
    return [*full, width if rest > 2 * lanes else -(-rest // lanes) * lanes] if rest else full


def _gathered_cycles(problem: Problem) -> float:
    """Those of moving what a group of an image is made of before it can be multiplied."""
    elements = problem.positions * problem.channels * problem.window.taps
    padded = _PADDED * problem.channels * problem.pixels if _tables(problem).padded else 0.0
    return padded + (0.0 if _in_place(problem) else _GATHERED * elements)


def _transposed(problem: Problem) -> float:
    """Cycles to transpose an element of the result."""
    if _are_many(problem):
        return _TRANSPOSED_FARTHER
    fits = problem.positions * problem.filters * problem.dtype.itemsize <= 2 * L2
    return _TRANSPOSED if fits else _TRANSPOSED_FAR


def _are_many(problem: Problem) -> bool:
    return (math.prod(problem.x_shape) + math.prod(problem.y_shape)) * problem.dtype.itemsize > _MANY


@functools.lru_cache(maxsize=1024)
def _split(problem: Problem) -> _Split:
    """The split of the work that is finished first: each part of the filters moves all of its images.

    Of several it is one whose parts all have work: then each thread computes the same in every pass, and finds some of
    what it needs in its cache.
    """
    depth, images = problem.channels * problem.window.taps, problem.x_shape[0] * problem.group
    columns, moved = _panel_columns(problem), _gathered_cycles(problem)
    per_position = depth / MULTIPLICATIONS_PER_CYCLE + _transposed(problem)
    pieces_of = {rows: [_tile_rows(piece) + _AGAIN for piece in _pieces(problem, rows)] for rows in _rows(problem)}

    def cycles(split: _Split) -> Iterator[float]:
        """Those that each part takes."""
        count, pieces = split.parts // split.filter_parts, pieces_of[split.rows]
        blocks = [sum(pieces[i : i + split.together]) for i in range(0, len(pieces), split.together)] * images
        for part in range(count):
            rows = sum(blocks[len(blocks) * part // count : len(blocks) * (part + 1) // count])
            for p in range(split.filter_parts):
                first, end = (len(columns) * q // split.filter_parts for q in (p, p + 1))
                own = sum(columns[first:end])
                yield rows * (own * per_position + moved / problem.positions) if own else 0.0

    threads = problem.threads
    counts = [queue_length(threads), 2 * threads, threads] if threads > 1 else [1]
    splits = (
        _Split(parts, filter_parts, together, rows)
        for rows in _rows(problem)
        for together in _lengths(problem, rows)
        for parts in counts
        for filter_parts in range(1, min(parts, len(columns)) + 1)
        if parts % filter_parts == 0
    )

    def order(split: _Split) -> tuple[float, int, int]:
        each = list(cycles(split))
        return finished(each, threads), each.count(0.0), split.filter_parts

    return min(splits, key=order)


def _lengths(problem: Problem, rows: int) -> list[int]:
    """How many pieces of so many positions can be multiplied together, for few blocks of them."""
    most = _most_together(problem, len(_pieces(problem, rows)))
    return sorted({-(-most // blocks) for blocks in range(1, 2 * problem.threads + 1)}, reverse=True)
