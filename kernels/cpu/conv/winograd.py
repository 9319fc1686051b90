"""Which convolutions are done by Winograd's transforms, with how large tiles, and where the tiles' pixels lie."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import config
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv.implicit_gemm import MOST_TURNED
from minicaffe.kernels.cpu.conv.problem import DATA, FORWARD, WEIGHTS
from minicaffe.kernels.cpu.conv.tables import Axes
from minicaffe.kernels.cpu.conv.winograd_transforms import (
    FILTER,
    FILTER_SLOPE,
    INPUT,
    INPUT_SLOPE,
    OUTPUT,
    SLOPE,
    transform,
)
from minicaffe.kernels.cpu.matmul.microkernel import DEPTH, L2, LONGEST_TILE, PANEL
from minicaffe.kernels.cpu.runtime.launch import queue_length
from minicaffe.kernels.cpu.simd.memory import WIDTH
from minicaffe.kernels.window import Window

ITEM = 4
"""Bytes of a number: the transforms are for single precision."""

_TRANSFORMS = {
    FORWARD: (INPUT, OUTPUT, FILTER),
    DATA: (SLOPE, INPUT_SLOPE, FILTER),
    WEIGHTS: (INPUT, SLOPE, FILTER_SLOPE),
}
"""Of what is read, of what is made (or read, too), and of the weights."""

_CYCLES = {
    (2, 3): {INPUT: 70, OUTPUT: 55, SLOPE: 55, INPUT_SLOPE: 100, FILTER: 100, FILTER_SLOPE: 400},
    (4, 3): {INPUT: 220, OUTPUT: 130, SLOPE: 130, INPUT_SLOPE: 300, FILTER: 160, FILTER_SLOPE: 550},
    (2, 5): {INPUT: 200, OUTPUT: 95, SLOPE: 95, INPUT_SLOPE: 280, FILTER: 250, FILTER_SLOPE: 900},
}
"""What transforming a register of a tile or of the weights takes, by a tile's outputs and the window's taps along an
axis.

There are no other tiles.  Roughly measured, as is all that ``_cycles`` goes by.
"""
_PRODUCTS = 26  # multiplications and additions in a cycle
_TURNED = 1.2  # numbers in a cycle that are brought from channels first to channels last, or back
_TRAFFIC = 5  # bytes in a cycle to or from beyond the L2 cache
_STORED = 2.5  # cycles for each register of a product
_WORTH = 1.3  # times as fast must tiles be: the count is rough, and ``implicit_gemm`` rounds a little less
_ALIASED = 1 << 12  # bytes after which addresses share a set of the L1 cache
_TILES = 48
"""Tiles worked on at a time, at least: so often is a transformed weight used once it is in the cache."""


class Plan(NamedTuple):
    """A convolution, or a gradient, as compiled code takes it; offsets in bytes, of pixels whose channels lie side by
    side.
    """

    sources: NDArray
    """Offset of each pixel that each tile reads; those outside the image have that of an empty one behind its last:
    (tiles, a tile's pixels).
    """
    targets: NDArray
    """The same for the pixels that each tile makes, or adds to."""
    blocks: NDArray
    """Of each block: its tiles, and which pixels have to be there before and are complete behind it; first and last + 1
    of each: (blocks, 6).
    """
    together: int
    """Images whose tiles are worked on together; above 1 if each of them is one block."""
    tiles: NDArray
    """Offsets of a tile's transformed numbers: (side^2,)."""
    products: NDArray
    """The same for what they are multiplied to, or with."""
    weights: NDArray
    """The same for the transformed weights, or the sums of their gradient."""


class Job(NamedTuple):
    """What a convolution needs, or a gradient."""

    plan: Plan
    kind: int
    outputs: int
    taps: int
    source_row: int
    """Bytes of a pixel that is read."""
    target_row: int
    """Bytes of a pixel that is made."""
    area: int
    """Bytes of scratch memory for each worker."""
    weights: int
    """Bytes of the transformed weights, or of the sums of their gradient."""
    parts: int
    """Into how many parts to split the work."""

    @property
    def codes(self) -> tuple[int, int, int]:
        """Addresses of the transforms: of what is read, of what is made, of the weights."""
        first, second, third = (
            transform(kind, self.outputs, self.taps, np.dtype(np.float32)).address for kind in _TRANSFORMS[self.kind]
        )
        return first, second, third


class _Shape(NamedTuple):
    """A convolution of stride 1: n images, c channels and m filters a group; or a gradient of it."""

    kind: int
    n: int
    group: int
    c: int
    m: int
    pixels: Axes
    out: Axes
    taps: int
    pad: Axes

    def tiles(self, outputs: int) -> Axes:
        """Rows and columns of tiles."""
        return -(-self.out[0] // outputs), -(-self.out[1] // outputs)

    def weights(self, outputs: int) -> int:
        """Bytes of the transformed weights, roughly."""
        return self.group * (outputs + self.taps - 1) ** 2 * self.c * self.m * ITEM

    def together(self, outputs: int, threads: int) -> int:
        """How many images to work on together.

        Enough of them that what is read or written beside each one's tiles, the weights or their gradient, is seldom
        so; but something for every thread.
        """
        least = DEPTH if self.kind == WEIGHTS or self.weights(outputs) > L2 else _TILES
        return max(1, min(-(-self.n // threads), least // math.prod(self.tiles(outputs))))

    def parts(self, outputs: int, threads: int) -> int:
        """Into how many parts to split the work; for the gradient of the weights, each makes sums as large as these."""
        if self.kind == WEIGHTS:
            most = queue_length(threads) if self.weights(outputs) < L2 // 8 else threads
            return min(-(-self.n // self.together(outputs, threads)), most)
        return queue_length(threads)


def _direct_cycles(shape: _Shape) -> float:
    """Roughly what ``implicit_gemm`` takes."""
    positions, depth, rows, moved = math.prod(shape.out), shape.c, shape.m, 0.25 if shape.kind == WEIGHTS else 0.12
    if shape.kind == DATA and math.prod(shape.pixels) <= MOST_TURNED * positions:
        positions, depth, rows = math.prod(shape.pixels), shape.m, shape.c
    elif shape.kind == DATA:
        moved = 0.4  # scattered, not gathered
    return shape.n * shape.group * positions * depth * shape.taps**2 * (rows / _PRODUCTS + moved)


def _cycles(shape: _Shape, outputs: int, threads: int) -> float:
    """Roughly what the products take with tiles of so many outputs along an axis."""
    lanes = WIDTH // ITEM
    read, made = (-(-numbers // lanes) for numbers in (shape.c, shape.m))
    depth, pixels = shape.c, [math.prod(shape.pixels), math.prod(shape.out)]
    if shape.kind == DATA:
        read, made, depth = made, read, shape.m
        pixels.reverse()
    takes = [_CYCLES[outputs, shape.taps][kind] for kind in _TRANSFORMS[shape.kind]]
    images = shape.n * shape.group
    products = (outputs + shape.taps - 1) ** 2 * made * (depth * lanes / _PRODUCTS + _STORED)
    cycles = images * math.prod(shape.tiles(outputs)) * (products + read * takes[0] + made * takes[1])
    cycles += images * (pixels[0] * read + pixels[1] * made) * lanes / _TURNED
    cycles += shape.group * depth * made * takes[2]
    if shape.weights(outputs) > L2:
        batches = -(-shape.n // shape.together(outputs, threads))
        times = shape.parts(outputs, threads) if shape.kind == WEIGHTS else batches
        cycles += shape.weights(outputs) * (2 + 2 * times) / _TRAFFIC
    return cycles


def _panels(numbers: int) -> int:
    """Bytes of a row of whole registers, laid out in panels."""
    rest = numbers * ITEM % PANEL
    return numbers * ITEM // PANEL * PANEL + (PANEL if rest > 2 * WIDTH else -(-rest // WIDTH) * WIDTH)


def _apart(rows: int, row: int) -> int:
    """Bytes from the rows of one of a tile's numbers to those of the next: the same row of all of them then fits into
    the L1 cache.
    """
    return -(-rows * row // _ALIASED) * _ALIASED + row


def _table(tiles: Axes, outputs: int, size: Axes, pad: Axes, count: int) -> NDArray:
    """Which pixels of an image each tile has, (tiles, count^2); outside the image, the one behind its last."""
    at = [np.arange(n)[:, None] * outputs + np.arange(count) - p for n, p in zip(tiles, pad, strict=True)]
    inside = [(place >= 0) & (place < length) for place, length in zip(at, size, strict=True)]
    place = at[0][:, None, :, None] * size[1] + at[1][None, :, None, :]
    within = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    return np.where(within, place, math.prod(size)).reshape(-1, count * count)


def _blocks(shape: _Shape, outputs: int, rows_of_tiles: int) -> NDArray:
    """The table of the same name in Plan, for blocks of so many rows of tiles."""
    rows, columns = shape.tiles(outputs)
    side = outputs + shape.taps - 1
    blocks = []
    for first in range(0, rows, rows_of_tiles):
        last = min(first + rows_of_tiles, rows)
        top = max(0, first * outputs - shape.pad[0])
        bottom = max(top, min(shape.pixels[0], (last - 1) * outputs - shape.pad[0] + side))
        read = [top * shape.pixels[1], bottom * shape.pixels[1]]
        made = [first * outputs * shape.out[1], min(last * outputs, shape.out[0]) * shape.out[1]]
        if shape.kind == DATA:  # tiles add to pixels that others add to: they are complete behind the last
            read, made = made, [0, math.prod(shape.pixels) if last == rows else 0]
        blocks.append([first * columns, last * columns, *read, *made])
    return np.array(blocks)


def _choose(shape: _Shape, threads: int) -> Job | None:
    choices = [outputs for outputs, taps in _CYCLES if taps == shape.taps]
    outputs = min(choices, key=lambda outputs: _cycles(shape, outputs, threads))
    if _direct_cycles(shape) < _WORTH * _cycles(shape, outputs, threads):
        return None
    tiles, side = shape.tiles(outputs), outputs + shape.taps - 1
    together = shape.together(outputs, threads)
    least = DEPTH if shape.kind == WEIGHTS else _TILES
    rows_of_tiles = tiles[0] if together > 1 else min(tiles[0], -(-least // tiles[1]))
    most = together * rows_of_tiles * tiles[1]
    tables = _table(tiles, outputs, shape.pixels, shape.pad, side), _table(tiles, outputs, shape.out, (0, 0), outputs)
    sizes, depth, made = (shape.pixels, shape.out), shape.c, shape.m
    if shape.kind == DATA:
        tables, sizes, depth, made = tables[::-1], sizes[::-1], made, depth
    source_row, target_row = -(-depth * ITEM // WIDTH) * WIDTH, _panels(made)
    spans = _apart(most, source_row), _apart(most, target_row), _apart(depth, target_row)
    squares = np.arange(side**2)
    plan = Plan(
        tables[0] * source_row,
        tables[1] * target_row,
        _blocks(shape, outputs, rows_of_tiles),
        together,
        *(squares * span for span in spans),
    )
    frames = together * ((math.prod(sizes[0]) + 1) * source_row + (math.prod(sizes[1]) + 1) * target_row)
    return Job(
        plan,
        shape.kind,
        outputs,
        shape.taps,
        source_row,
        target_row,
        area=frames + side**2 * (spans[0] + spans[1]) + LONGEST_TILE * PANEL + 5 * 64,
        weights=shape.group * side**2 * spans[2],
        parts=shape.parts(outputs, threads),
    )


@functools.lru_cache(maxsize=1024)
def job(kind: int, x_shape: Axes, y_shape: Axes, window: Window, group: int, itemsize: int, threads: int) -> Job | None:
    """What a convolution needs, or a gradient (``kind``); None if the transforms are not for it, or slower."""
    if not (
        itemsize == ITEM
        and len(x_shape) == 4
        and window.kernel in ((3, 3), (5, 5))
        and max(window.stride + window.dilation) == 1
        and max(window.pad) < window.kernel[0]
        and min(x_shape + y_shape) > 0
    ):
        return None
    c, m = x_shape[1] // group, y_shape[1] // group
    shape = _Shape(kind, x_shape[0], group, c, m, x_shape[2:], y_shape[2:], window.kernel[0], window.pad)
    return _choose(shape, threads)


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory that the three take with as many threads as Numba can use."""
    needed = 0
    for threads in range(1, config.NUMBA_NUM_THREADS + 1):
        for kind in (FORWARD, DATA, WEIGHTS):
            chosen = job(kind, x_shape, y_shape, window, group, ITEM, threads)
            if chosen:
                weights = chosen.weights * (chosen.parts if kind == WEIGHTS else 1)
                needed = max(needed, weights + threads * chosen.area + 2 * 64)
    return needed // ITEM
