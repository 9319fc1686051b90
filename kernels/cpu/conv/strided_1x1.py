"""1 x 1 convolutions with a stride, which read every s-th pixel only: these are gathered, then convolved with
stride 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minicaffe.kernels import fast_paths
from minicaffe.kernels.cpu.conv import depthwise, filter_panels, implicit_gemm
from minicaffe.kernels.cpu.conv.problem import (
    AXES,
    DATA_GRAD,
    FORWARD,
    WEIGHT_GRAD,
    Algorithm,
    Packing,
    Problem,
    Solver,
)
from minicaffe.kernels.cpu.runtime.address import load, size_of, store
from minicaffe.kernels.cpu.runtime.compile import called, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.memory import copy_row, fill_row
from minicaffe.kernels.cpu.simd.pairs import spread_even, take_even
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


@called
def _gather_rows(small, x, x_row, rows, count, step, like):
    """Copy ``count`` elements, ``step`` apart, of each of some rows of x, which are ``x_row`` bytes apart."""
    size = size_of(like)
    for r in range(rows):
        target, source = small + r * count * size, x + r * x_row
        if step == 1:
            copy_row(target, source, count, like)
        elif step == 2:
            take_even(target, source, 2 * count - 1, like)
        else:
            for i in range(count):
                store(target + i * size, load(source + i * step * size, like))


@called
def _scatter_rows(small, x, x_row, rows, count, step, like):
    """Copy them back; what lies between them is 0 before."""
    size = size_of(like)
    for r in range(rows):
        source, target = small + r * count * size, x + r * x_row
        if step == 1:
            copy_row(target, source, count, like)
        elif step == 2:
            spread_even(source, target, 2 * count - 1, like)
        else:
            for i in range(count):
                store(target + i * step * size, load(source + i * size, like))


@part_kernel()
def _gather_part(part, parts, x, small, step):
    like = x.dtype.type(0)
    size = size_of(like)
    planes, depth, height, width = small.shape
    d_step, h_step, w_step = step
    row = x.shape[3] * size
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for d in range(depth):
            source = x.ctypes.data + (p * x.shape[1] + d * d_step) * x.shape[2] * row
            target = small.ctypes.data + (p * depth + d) * height * width * size
            _gather_rows(target, source, h_step * row, height, width, w_step, like)


@part_kernel()
def _scatter_part(part, parts, small, x, step):
    like = x.dtype.type(0)
    size = size_of(like)
    planes, depth, height, width = small.shape
    d_step, h_step, w_step = step
    row, plane = x.shape[3] * size, x.shape[1] * x.shape[2] * x.shape[3]
    low, high = share(part, parts, planes)
    for p in range(low, high):
        image = x.ctypes.data + p * plane * size
        fill_row(image, like, plane)
        for d in range(depth):
            source = small.ctypes.data + (p * depth + d) * height * width * size
            _scatter_rows(source, image + d * d_step * x.shape[2] * row, h_step * row, height, width, w_step, like)


@kernel()
def _gather(x, small, step, parts):
    parallel(_gather_part, parts, (x, small, step))


@kernel()
def _scatter(small, x, step, parts):
    parallel(_scatter_part, parts, (small, x, step))


def _planes(x: Array) -> Array:
    """x (N, C, ...) as (planes, depth, height, width)."""
    return x.reshape(x.shape[0] * x.shape[1], *(1,) * (AXES + 2 - x.ndim), *x.shape[2:])


def _step(window: Window) -> tuple[int, int, int]:
    depth, height, width = window.with_axes(AXES).stride
    return depth, height, width


def _gather_pixels(x: Array, small: Array, window: Window) -> None:
    """Fill ``small`` with the pixels of x that the convolution reads."""
    _gather(_planes(x), _planes(small), _step(window), parts(small.size))


def _scatter_pixels(small: Array, x: Array, window: Window) -> None:
    """Copy the pixels of ``small`` back into x, whose other pixels become 0."""
    _scatter(_planes(small), _planes(x), _step(window), parts(x.size))


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; it always pays to leave pixels out, so that no estimate is made."""
    window = problem.window
    skips = window.taps == 1 and max(window.stride) > 1 and max(window.pad) == 0
    return 0.0 if skips and problem.is_compiled else None


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    small = _small(problem)
    algorithms = [*_algorithms(small), *([filter_panels] if filter_panels.cycles(small) is not None else [])]
    return math.prod(small.x_shape) + max(algorithm.workspace(small) for algorithm in algorithms)


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    small, window = _small(problem), problem.window
    algorithm = _algorithms(small)[0] if fast_paths.taken("depthwise") else implicit_gemm
    solve, split = algorithm.bind(small), _splitter(small)

    def convolve(x: Array, w: Array, bias: Array, y: Array, workspace: Array, slope: float) -> None:
        pixels, rest = split(workspace)
        _gather_pixels(x, pixels, window)
        solve(pixels, w, bias, y, rest, slope)

    def data_grad(dy: Array, w: Array, dx: Array, workspace: Array) -> None:
        pixels, rest = split(workspace)
        solve(dy, w, pixels, rest)
        _scatter_pixels(pixels, dx, window)

    def weight_grad(x: Array, dy: Array, dw: Array, dbias: Array, workspace: Array, accumulate: bool) -> None:
        pixels, rest = split(workspace)
        _gather_pixels(x, pixels, window)
        solve(pixels, dy, dw, dbias, rest, accumulate)

    solvers: dict[str, Solver] = {FORWARD: convolve, DATA_GRAD: data_grad, WEIGHT_GRAD: weight_grad}
    return solvers[problem.kind]


def bind_packed(problem: Problem) -> Packing | None:
    """See ``Packing``; None if nothing is made of the weights in advance."""
    small = _small(problem)
    cycles, usual = (algorithm.cycles(small) for algorithm in (filter_panels, _algorithms(small)[0]))
    if not fast_paths.taken("filter_panels") or cycles is None or usual is None or cycles > usual:
        return None
    packing, split, window = filter_panels.bind_packed(small), _splitter(small), problem.window

    def convolve(x: Array, u: Array, bias: Array, y: Array, workspace: Array, slope: float) -> None:
        pixels, rest = split(workspace)
        _gather_pixels(x, pixels, window)
        packing.solve(pixels, u, bias, y, rest, slope)

    return packing._replace(solve=convolve)


def _splitter(small: Problem) -> Callable[[Array], tuple[Array, Array]]:
    """A function that splits the workspace: room for the pixels that are read, and the rest."""
    shape, size = small.x_shape, math.prod(small.x_shape)
    return lambda workspace: (workspace[:size].reshape(shape), workspace[size:])


def _small(problem: Problem) -> Problem:
    """The same problem for the pixels that are read, with stride 1."""
    window = problem.window._replace(stride=(1,) * len(problem.window.stride))
    return problem._replace(x_shape=(*problem.x_shape[:2], *problem.y_shape[2:]), window=window)


def _algorithms(small: Problem) -> list[Algorithm]:
    """What may solve the problem of stride 1, the fastest first."""
    return [algorithm for algorithm in (depthwise, implicit_gemm) if algorithm.cycles(small) is not None]
