"""Winograd's minimal filtering: 3 x 3 and 5 x 5 convolutions of stride 1 as products of transformed tiles.

Image and filters are transformed tile by tile (``winograd_transforms``).  For each element of a transformed tile, one
matrix product over the channels then serves all tiles; its result is transformed back.  This takes a half to a quarter
of the multiplications.  Results depend on nothing but the number of threads.

Here are the choice of the tile size and the tables of the tiles' pixels; ``winograd_kernels`` has the compiled code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv import winograd_kernels as kernels
from minicaffe.kernels.cpu.conv.problem import (
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Axes,
    Packing,
    Problem,
    Solver,
    aligned_zeros,
    by_group,
    finished,
    grouped,
    then_bias_grad,
    weights_by_group,
)
from minicaffe.kernels.cpu.conv.winograd_transforms import (
    FILTER,
    FILTER_GRAD,
    INPUT,
    INPUT_GRAD,
    OUTPUT,
    OUTPUT_GRAD,
    transform,
)
from minicaffe.kernels.cpu.matmul.microkernel import (
    KC,
    L2,
    MR_MAX,
    MULTIPLICATIONS_PER_CYCLE,
    PANEL,
    compiled_macro_kernel,
)
from minicaffe.kernels.cpu.runtime.launch import queue_length
from minicaffe.kernels.cpu.simd.memory import WIDTH
from minicaffe.kernels.reference import Array

_DTYPE = np.dtype(np.float32)
"""The transforms are for single precision."""
_SIZE = _DTYPE.itemsize

_TRANSFORMS = {
    FORWARD: (INPUT, OUTPUT, FILTER),
    DATA_GRAD: (OUTPUT_GRAD, INPUT_GRAD, FILTER),
    WEIGHT_GRAD: (INPUT, OUTPUT_GRAD, FILTER_GRAD),
}
"""The transforms of the image that is read, of the image that is written (in the weight gradient: of dy, which is read,
too), and of the weights."""

_CYCLES = {
    (2, 3): {INPUT: 70, OUTPUT: 55, OUTPUT_GRAD: 55, INPUT_GRAD: 100, FILTER: 100, FILTER_GRAD: 400},
    (4, 3): {INPUT: 220, OUTPUT: 130, OUTPUT_GRAD: 130, INPUT_GRAD: 300, FILTER: 160, FILTER_GRAD: 550},
    (2, 5): {INPUT: 200, OUTPUT: 95, OUTPUT_GRAD: 95, INPUT_GRAD: 280, FILTER: 250, FILTER_GRAD: 900},
}
"""Cycles to transform one register of a tile or of the weights, for each size of tile: outputs and taps along an axis.

Roughly measured, like the other constants of the estimate.
"""
_TRANSPOSED_PER_CYCLE = 1.2  # elements, from NCHW to NHWC or back
_BYTES_PER_CYCLE = 5  # to or from memory beyond the L2 cache
_STORE_CYCLES = 2.5  # for each register of a product
_ALIASED = 1 << 12  # addresses so many bytes apart share a set of the L1 cache
_TILES = 48
"""Tiles that are worked on together, at least: a transformed weight in the cache is used so many times."""


class Tiling(NamedTuple):
    """The tiles of a problem as compiled code takes them.

    Images are NHWC: their offsets are those of pixels, in bytes.
    """

    sources: NDArray
    """Offsets of the pixels that each tile reads, (tiles, pixels of a tile); for pixels outside the image, that of an
    empty pixel after its last one.
    """
    targets: NDArray
    """The same for the pixels that each tile writes, or adds to."""
    blocks: NDArray
    """Blocks of tiles that are worked on together: of each its tiles, the pixels that it needs, and the pixels that are
    complete after it; first and last + 1 of each: (blocks, 6).
    """
    together: int
    """Images whose tiles are worked on together; above 1 if each of them is one block."""
    tiles: NDArray
    """Offsets of the matrices of the transformed tiles, one matrix for each element of a tile: (side^2,)."""
    products: NDArray
    """The same for the results of the products, or for dy in the weight gradient."""
    weights: NDArray
    """The same for the transformed weights, or the sums of their gradient."""


class _Config(NamedTuple):
    """What the kernels need for a problem."""

    tiling: Tiling
    outputs: int
    """Of a tile, along an axis."""
    source_row: int
    """Bytes of a pixel that is read."""
    target_row: int
    """Bytes of a pixel that is written."""
    scratch_per_worker: int
    """In bytes."""
    weights: int
    """Bytes of the transformed weights, or of the sums of their gradient."""
    parts: int
    """Into how many parts to split the work."""
    panel_parts: int
    """How many of them have the same tiles, and different panels of the weights."""


def heeds_threads(problem: Problem) -> bool:
    """Whether the estimate of ``cycles`` may depend on the number of threads; those of other algorithms never do."""
    return _is_tiled(problem) and any(_weights(problem, outputs) > L2 for outputs in _sizes(problem))


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``."""
    return min(_tiled_cycles(problem, outputs) for outputs in _sizes(problem)) if _is_tiled(problem) else None


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    if not _is_tiled(problem):
        return 0
    config = _config(problem)
    weights = 0 if problem.packed else config.weights * (config.parts if problem.kind == WEIGHT_GRAD else 1)
    return (weights + problem.threads * config.scratch_per_worker + 2 * 64) // _SIZE


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    config, taps = _config(problem), problem.window.kernel[0]
    first, second, of_weights = (
        transform(kind, config.outputs, taps, _DTYPE).address for kind in _TRANSFORMS[problem.kind]
    )
    codes, rows = (compiled_macro_kernel(_DTYPE).address, first, second), (config.source_row, config.target_row)
    arguments = codes, of_weights, rows, config.scratch_per_worker, config.parts, problem.threads, config.tiling
    if problem.kind == FORWARD:
        return grouped(problem, functools.partial(kernels.convolve, *arguments, config.panel_parts, 1, 0))
    if problem.kind == WEIGHT_GRAD:
        return then_bias_grad(grouped(problem, functools.partial(kernels.weight_grad, *arguments)))
    zeros = np.zeros((problem.group, problem.channels), _DTYPE)
    return grouped(
        problem, lambda dy, w, dx, memory: kernels.convolve(*arguments, 1, 2, 0, dy, w, zeros, dx, memory, 1.0)
    )


def bind_packed(problem: Problem) -> Packing:
    """See ``Packing``: the weights are transformed once."""
    config, taps = _config(problem), problem.window.kernel[0]
    into, out_of, of_weights = (transform(kind, config.outputs, taps, _DTYPE).address for kind in _TRANSFORMS[FORWARD])
    codes, rows = (compiled_macro_kernel(_DTYPE).address, into, out_of), (config.source_row, config.target_row)
    arguments = codes, of_weights, rows, config.scratch_per_worker, config.parts, problem.threads, config.tiling

    how = *arguments, config.panel_parts, 1
    no_weights = np.zeros((1, 1, 1, 1), _DTYPE)  # so that a captured call holds on to none

    def pack(w: Array) -> Array:
        u = aligned_zeros(config.weights // _SIZE, _DTYPE)
        kernels.transform_weights(
            of_weights, rows, problem.threads, config.tiling, weights_by_group(w, problem.group), u
        )
        return u

    def convolve(x: Array, u: Array, bias: Array, y: Array, workspace: Array, slope: float) -> None:
        arrays = by_group(x, problem.group), no_weights, bias.reshape(problem.group, -1)
        kernels.convolve(*how, u.ctypes.data, *arrays, by_group(y, problem.group), workspace, slope)

    return Packing(("winograd", config.outputs), pack, convolve)


def _is_tiled(problem: Problem) -> bool:
    """Whether there are transforms for a problem."""
    window = problem.window
    return (
        problem.dtype == _DTYPE
        and not problem.accumulate
        and len(problem.x_shape) == 4
        and window.kernel in ((3, 3), (5, 5))
        and max(window.stride + window.dilation) == 1
        and max(window.pad) < window.kernel[0]
        and min(problem.x_shape + problem.y_shape) > 0
    )


# --- how large tiles, and how many at a time ------------------------------------------------------------------------


def _sizes(problem: Problem) -> list[int]:
    """The sizes that tiles can have, in outputs along an axis."""
    return [outputs for outputs, taps in _CYCLES if taps == problem.window.kernel[0]]


def _side(problem: Problem, outputs: int) -> int:
    """The side of a tile of so many outputs along an axis."""
    return outputs + problem.window.kernel[0] - 1


def _tiles(problem: Problem, outputs: int) -> Axes:
    """Rows and columns of tiles."""
    height, width = problem.y_shape[2:]
    return -(-height // outputs), -(-width // outputs)


def _weights(problem: Problem, outputs: int) -> int:
    """Bytes of the transformed weights, roughly."""
    return problem.group * _side(problem, outputs) ** 2 * problem.channels * problem.filters * _SIZE


def _images_together(problem: Problem, outputs: int) -> int:
    """How many images to work on together.

    So many that the transformed weights or their gradient, which are read or written once for all of them, seldom are;
    but few enough that every thread has work.
    """
    least = KC if problem.kind == WEIGHT_GRAD or _weights(problem, outputs) > L2 else _TILES
    return max(1, min(-(-problem.x_shape[0] // problem.threads), least // math.prod(_tiles(problem, outputs))))


def _parts(problem: Problem, outputs: int) -> int:
    """Into how many parts to split the work; in the weight gradient each part has sums as large as the weights."""
    if problem.kind == WEIGHT_GRAD:
        most = queue_length(problem.threads) if _weights(problem, outputs) < L2 // 8 else problem.threads
        return min(-(-problem.x_shape[0] // _images_together(problem, outputs)), most)
    return queue_length(problem.threads)


def _tiled_cycles(problem: Problem, outputs: int) -> float:
    """A rough estimate for tiles of so many outputs along an axis."""
    lanes, n, group = WIDTH // _SIZE, problem.x_shape[0], problem.group
    depth, pixels = problem.channels, [problem.pixels, problem.positions]
    read, written = (-(-count // lanes) for count in (problem.channels, problem.filters))  # registers of a pixel
    if problem.kind == DATA_GRAD:
        read, written, depth = written, read, problem.filters
        pixels.reverse()
    of_source, of_target, of_weights = (
        _CYCLES[outputs, problem.window.kernel[0]][kind] for kind in _TRANSFORMS[problem.kind]
    )
    products = _side(problem, outputs) ** 2 * written * (depth * lanes / MULTIPLICATIONS_PER_CYCLE + _STORE_CYCLES)
    tiles = n * group * math.prod(_tiles(problem, outputs))
    total = tiles * (products + read * of_source + written * of_target)
    total += n * group * (pixels[0] * read + pixels[1] * written) * lanes / _TRANSPOSED_PER_CYCLE
    if not problem.packed:
        total += group * depth * written * of_weights
    if _weights(problem, outputs) > L2:
        batches = -(-n // _images_together(problem, outputs))
        times = _parts(problem, outputs) if problem.kind == WEIGHT_GRAD else batches
        passes = times if problem.packed else 2 + 2 * times
        reading = _weights(problem, outputs) * passes / _BYTES_PER_CYCLE
        # packed ones are read while others are multiplied
        total += max(0.0, reading - tiles * products) if problem.packed else reading
    return total


def _shares(problem: Problem, outputs: int) -> tuple[int, int]:
    """Into how many blocks to split the rows of tiles, and how many parts of the work have the same tiles.

    Tiles of few images are shared out, too: by their rows, where each part reads all transformed weights, and by panels
    of the weights, where each transforms all tiles; whichever is finished first.
    """
    rows, columns = _tiles(problem, outputs)
    if _images_together(problem, outputs) > 1:
        return 1, 1
    usual = -(-rows // -(-(KC if problem.kind == WEIGHT_GRAD else _TILES) // columns))
    images, parts = problem.x_shape[0] * problem.group, _parts(problem, outputs)
    if problem.kind != FORWARD or images * usual >= parts:
        return usual, 1
    read, made, weights = _cycles_of(problem, outputs)
    panels = -(-problem.filters * _SIZE // PANEL)

    def cycles(share: tuple[int, int]) -> Iterator[float]:
        """Those that each part takes."""
        count, panel_parts = share
        blocks = [len(block) * columns for block in _rows_of_blocks(rows, count)] * images
        for part in range(parts // panel_parts):
            low, high = (len(blocks) * p // (parts // panel_parts) for p in (part, part + 1))
            tiles = sum(blocks[low:high])
            for p in range(panel_parts if tiles else 0):
                own = (panels * (p + 1) // panel_parts - panels * p // panel_parts) / panels
                yield tiles * (read + made * own) + (high - low) * weights * own

    counts = range(usual, min(rows, max(usual, 2 * problem.threads)) + 1)
    some = [(count, p) for count in counts for p in range(1, panels + 1) if parts % p == 0]
    return min(some, key=lambda share: finished(cycles(share), problem.threads))


def _rows_of_blocks(rows: int, count: int) -> list[range]:
    """The rows of tiles of each block: as many, or one less or more."""
    return [range(rows * block // count, rows * (block + 1) // count) for block in range(count)]


def _cycles_of(problem: Problem, outputs: int) -> tuple[float, float, float]:
    """Rough estimates of the cycles to read a tile of a group and to make one of it, and to read its weights again."""
    lanes, tiles = WIDTH // _SIZE, math.prod(_tiles(problem, outputs))
    read, written = (-(-count // lanes) for count in (problem.channels, problem.filters))
    into, out_of, _ = (_CYCLES[outputs, problem.window.kernel[0]][kind] for kind in _TRANSFORMS[FORWARD])
    products: float = _side(problem, outputs) ** 2 * written
    products *= problem.channels * lanes / MULTIPLICATIONS_PER_CYCLE + _STORE_CYCLES
    transposed = lanes / _TRANSPOSED_PER_CYCLE / tiles
    reading = read * (into + problem.pixels * transposed)
    making = products + written * (out_of + problem.positions * transposed)
    return reading, making, _weights(problem, outputs) / problem.group / _BYTES_PER_CYCLE


# --- tables -----------------------------------------------------------------------------------------------------------


def _row(channels: int) -> int:
    """Bytes of a row of so many elements in panels, each a whole number of registers."""
    rest = channels * _SIZE % PANEL
    return channels * _SIZE // PANEL * PANEL + (PANEL if rest > 2 * WIDTH else -(-rest // WIDTH) * WIDTH)


def _apart(rows: int, row: int) -> int:
    """Bytes from the matrix of one element of the tiles to that of the next: so many that the same row of all of them
    fits into the L1 cache.
    """
    return -(-rows * row // _ALIASED) * _ALIASED + row


def _pixel_table(tiles: Axes, outputs: int, size: Axes, pad: Axes, count: int) -> NDArray:
    """The index of each pixel of each tile, (tiles, count^2); outside the image, that of the one after its last."""
    at = [np.arange(n)[:, None] * outputs + np.arange(count) - p for n, p in zip(tiles, pad, strict=True)]
    inside = [(place >= 0) & (place < length) for place, length in zip(at, size, strict=True)]
    place = at[0][:, None, :, None] * size[1] + at[1][None, :, None, :]
    within = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    return np.where(within, place, math.prod(size)).reshape(-1, count * count)


def _blocks(problem: Problem, outputs: int, count: int) -> NDArray:
    """The table of the same name in ``Tiling``, for so many blocks of an image."""
    rows, columns = _tiles(problem, outputs)
    (height, width), (out_height, out_width) = problem.x_shape[2:], problem.y_shape[2:]
    top_pad, side = problem.window.pad[0], _side(problem, outputs)
    blocks = []
    for block in _rows_of_blocks(rows, count):
        first, last = block.start, block.stop
        top = max(0, first * outputs - top_pad)
        bottom = max(top, min(height, (last - 1) * outputs - top_pad + side))
        read = [top * width, bottom * width]
        written = [first * outputs * out_width, min(last * outputs, out_height) * out_width]
        if problem.kind == DATA_GRAD:  # tiles of dx overlap: its pixels are complete after the last block
            read, written = written, [0, problem.pixels if last == rows else 0]
        blocks.append([first * columns, last * columns, *read, *written])
    return np.array(blocks)


@functools.lru_cache(maxsize=1024)
def _config(problem: Problem) -> _Config:
    pixels, out = problem.x_shape[2:], problem.y_shape[2:]
    outputs = min(_sizes(problem), key=lambda outputs: _tiled_cycles(problem, outputs))
    tiles, side, together = _tiles(problem, outputs), _side(problem, outputs), _images_together(problem, outputs)
    count, panel_parts = _shares(problem, outputs)
    most = together * -(-tiles[0] // count) * tiles[1]
    tables = (
        _pixel_table(tiles, outputs, pixels, problem.window.pad, side),
        _pixel_table(tiles, outputs, out, (0, 0), outputs),
    )
    areas, depth, written = (problem.pixels, problem.positions), problem.channels, problem.filters
    if problem.kind == DATA_GRAD:
        tables, areas, depth, written = tables[::-1], areas[::-1], written, depth
    source_row, target_row = -(-depth * _SIZE // WIDTH) * WIDTH, _row(written)
    spans = _apart(most, source_row), _apart(most, target_row), _apart(depth, target_row)
    elements = np.arange(side**2)
    tiling = Tiling(
        tables[0] * source_row,
        tables[1] * target_row,
        _blocks(problem, outputs, count),
        together,
        *(elements * span for span in spans),
    )
    images = together * ((areas[0] + 1) * source_row + (areas[1] + 1) * target_row)
    return _Config(
        tiling,
        outputs,
        source_row,
        target_row,
        scratch_per_worker=images + side**2 * (spans[0] + spans[1]) + MR_MAX * PANEL + 5 * 64,
        weights=problem.group * side**2 * spans[2],
        parts=_parts(problem, outputs),
        panel_parts=panel_parts,
    )
