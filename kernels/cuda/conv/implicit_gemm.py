"""Convolution as one kernel that gathers the pixels under the window as it multiplies: implicit_gemm.cu."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from minicaffe.kernels.cuda.conv.im2col import CHUNK_ELEMENTS
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, WEIGHT_GRAD, Problem
from minicaffe.kernels.cuda.launch import MAX_INT, c_type, computed, divisor, program, stored_type, struct
from minicaffe.kernels.halves import rounded_to
from minicaffe.kernels.window import Window

WORDS = 16
"""Words of the shared dimension in a step, as in tile.cuh."""
TILES = (128, 64)
"""Rows, and columns, of the results that a block makes."""
BLOCKS = 132
"""With fewer a large GPU is not filled: the multiprocessors of an H200."""
_LONGEST_SUM = 1 << 14  # terms that one float32 takes in turn: the error of a sum grows with their number
_SHORTEST_SUM = 8  # steps that a block should have
_MOST_GROUPS = 65535  # blocks along the y axis of a grid


class Cut(NamedTuple):
    """How a product is cut up: the sides of a block's tile, and the depth that one block goes along."""

    tile: int
    share: int
    splits: int

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, problem: Problem, dtype: DTypeLike) -> Cut:
        """The tile for which least is multiplied in vain; of a weight gradient, so many shares that a GPU is filled."""
        # float64 takes twice the registers; a smaller tile reads more often what it multiplies
        tiles = TILES if np.dtype(dtype).itemsize <= 4 else TILES[-1:]
        tile = min(tiles, key=lambda side: padded(problem, side) * (1.0 if side == TILES[0] else 1.3))
        if problem.kind != WEIGHT_GRAD:
            return cls(tile, max(1, problem.depth), 1)
        step = 2 * WORDS  # of the halves, which take two to a word
        weights = max(1, problem.y_shape[1] * problem.entries)
        wanted = max(-(-2 * BLOCKS // blocks(problem, tile)), -(-problem.depth // _LONGEST_SUM))
        most = min(-(-problem.depth // (_SHORTEST_SUM * step)), CHUNK_ELEMENTS // weights)
        share = -(-problem.depth // max(1, min(wanted, most)))
        share = max(step, -(-share // step) * step)
        return cls(tile, share, max(1, -(-problem.depth // share)))


def padded(problem: Problem, tile: int) -> int:
    """Multiplications of blocks with such tiles, those with nothing included."""
    rows, columns, depth = (
        -(-count // side) * side
        for count, side in ((problem.rows, tile), (problem.columns, tile), (problem.depth, WORDS))
    )
    return problem.group * rows * columns * depth


def blocks(problem: Problem, tile: int) -> int:
    """Tiles of the result, of all groups."""
    return max(1, problem.group * -(-problem.rows // tile) * -(-problem.columns // tile))


def fits(problem: Problem) -> bool:
    """Whether the kernel can count what there is."""
    sizes = (
        problem.columns,
        problem.depth,
        problem.rows * max(problem.positions, problem.pixels, problem.entries),
        problem.channels * problem.filters * problem.window.taps,
    )
    return max(sizes) <= MAX_INT and problem.group <= _MOST_GROUPS


class ImplicitGemm:
    """The convolutions of ``kernels/reference/conv.py``, for shapes that ``fits``.

    ``tensor_cores(dtype)`` says whether these multiply factors of a dtype, for which float32 is rounded to TF32; to 16
    bits, where they take these, it is rounded if ``ops.factors`` says so.
    """

    def __init__(self, ops: Any, tensor_cores: Callable[[Any], bool]) -> None:
        self._ops, self._tensor_cores = ops, tensor_cores

    def workspace(self, problem: Problem) -> int:
        """Elements of scratch memory that a product needs."""
        splits = Cut.of(problem, np.float32).splits
        return splits * problem.y_shape[1] * problem.entries if splits > 1 else 0

    def convolve(
        self,
        x: Any,
        w: Any,
        bias: Any | None,
        y: Any,
        window: Window,
        group: int,
        slope: float = 1.0,
        accumulate: bool = False,
    ) -> None:
        """See ``kernels.reference.convolve``."""
        self._launch(Problem(FORWARD, x.shape, y.shape, window, group), w, x, y, bias, slope, accumulate)

    def data_grad(self, dy: Any, w: Any, dx: Any, window: Window, group: int) -> None:
        """See ``kernels.reference.convolve_data_grad``."""
        self._launch(Problem(DATA_GRAD, dx.shape, dy.shape, window, group), w, dy, dx)

    def weight_grad(
        self, x: Any, dy: Any, dw: Any, window: Window, group: int, workspace: Any, accumulate: bool
    ) -> None:
        """Gradient with respect to w, added to dw if ``accumulate``.

        Blocks sum over shares of the images; what they come to is then added up, in the same order each time.
        """
        problem = Problem(WEIGHT_GRAD, x.shape, dy.shape, window, group)
        splits = Cut.of(problem, dw.dtype).splits
        if splits == 1:
            self._launch(problem, dy, x, dw, accumulate=accumulate)
        else:
            sums = workspace[: splits * dw.size].reshape(splits, dw.size)
            self._launch(problem, dy, x, sums)
            linear = program("linear", dw.dtype)
            self._ops.launch.reduction(linear, "add_rows", dw.size, splits, sums, dw, accumulate)

    def _launch(
        self,
        problem: Problem,
        left: Any,
        right: Any,
        out: Any,
        bias: Any | None = None,
        slope: float = 1.0,
        accumulate: bool = False,
    ) -> None:
        dtype = computed(right.dtype)
        cut = Cut.of(problem, dtype)
        matrix, gather, result = _structs(problem)
        axes = len(problem.window.kernel)
        unit, held = self._unit(dtype, cut.tile, left, right), [stored_type(a.dtype) for a in (left, right, out)]
        source = program("implicit_gemm", dtype, axes, problem.kind, unit, *held)
        grid = blocks(problem, cut.tile) // problem.group, problem.group, cut.splits
        params = out if problem.kind == WEIGHT_GRAD else left  # of the dtype that a bias has
        finish = (bias is not None, params if bias is None else bias, float(slope), accumulate)
        args = (left, matrix, right, gather, cut.share, out, result, *finish)
        self._ops.launch.tiles(source, "implicit_gemm", grid, *args)

    def _unit(self, dtype: Any, tile: int, *factors: Any) -> str:
        """The type of tile.cuh that multiplies."""
        name, halves = c_type(dtype), rounded_to(self._ops.factors, *factors)
        if halves is not None and self._tensor_cores(np.float16):
            return f"TensorCore<Halves<{halves.c_type}>, {tile}>"
        if name == "float" and self._tensor_cores(dtype):
            return f"TensorCore<Tf32, {tile}>"
        return f"Scalar<{name}, {tile}>"


@functools.lru_cache(maxsize=1024)
def _structs(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the left factor, the pixels and the result lie, as the kernel takes them."""
    filters, channels, entries, taps = problem.filters, problem.channels, problem.entries, problem.window.taps
    weights = _matrix(filters, entries, filters * entries, entries, 0, entries)
    transposed = _matrix(channels, filters * taps, filters * entries, taps, entries, taps)
    y = _images(problem.images, problem.group, filters, problem.positions)
    x = _images(problem.images, problem.group, channels, problem.pixels)
    if problem.kind == FORWARD:
        return weights, _gather(problem), y
    return (transposed, _gather(problem), x) if problem.kind == DATA_GRAD else (y, _gather(problem), weights)


def _matrix(rows: int, depth: int, group_step: int, row_step: int, outer_step: int, inner: int) -> np.ndarray:
    return struct(
        group_step=np.int64(group_step),
        outer_step=np.int64(outer_step),
        rows=rows,
        depth=depth,
        row_step=row_step,
        inner=divisor(inner),
    )


def _images(images: int, group: int, channels: int, pixels: int) -> np.ndarray:
    """Channels of a group by the pixels of all images."""
    return _matrix(channels, images * pixels, channels * pixels, pixels, group * channels * pixels, pixels)


def _gather(problem: Problem) -> np.ndarray:
    """The pixels of x under the window; or those of dy under the window that sees them from pixels of x."""
    window, taps = problem.window, problem.window.taps
    ones = (1,) * len(window.kernel)
    if problem.kind == DATA_GRAD:
        channels, pixels, places = problem.filters, problem.positions, problem.x_shape[2:]
        size, scale, step = problem.y_shape[2:], ones, window.stride
        shift, spread = window.pad, tuple(-dilation for dilation in window.dilation)
    else:
        channels, pixels, places = problem.channels, problem.pixels, problem.y_shape[2:]
        size, scale, step = problem.x_shape[2:], window.stride, ones
        shift, spread = tuple(-pad for pad in window.pad), window.dilation
    places_of_image = problem.pixels if problem.kind == DATA_GRAD else problem.positions
    return struct(
        group_step=np.int64(channels * pixels),
        image_step=np.int64(problem.group * channels * pixels),
        channel_step=np.int64(pixels),
        places=problem.images * places_of_image,
        taps=channels * taps,
        places_of_image=divisor(places_of_image),
        taps_of_channel=divisor(taps),
        place=list(map(divisor, places)),
        tap=list(map(divisor, window.kernel)),
        step=list(map(divisor, step)),
        size=size,
        scale=scale,
        shift=shift,
        spread=spread,
    )
