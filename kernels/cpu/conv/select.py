"""Convolution and its gradients: an algorithm is selected for each problem, and bound to it once."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np
from numba import config
from numpy.typing import DTypeLike

from minicaffe.kernels import fast_paths
from minicaffe.kernels.cpu.conv import (
    depthwise,
    filter_panels,
    implicit_gemm,
    row_dot,
    strided_1x1,
    uncompiled,
    whole_image,
    winograd,
)
from minicaffe.kernels.cpu.conv.problem import (
    DATA_GRAD,
    FORWARD,
    KINDS,
    WEIGHT_GRAD,
    Algorithm,
    Packing,
    Problem,
    Solver,
)
from minicaffe.kernels.cpu.runtime.capture import capturable, not_capturable
from minicaffe.kernels.cpu.runtime.threads import thread_count
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window

ALGORITHMS: dict[str, Algorithm] = {
    "whole_image": whole_image,
    "strided_1x1": strided_1x1,
    "depthwise": depthwise,
    "winograd": winograd,
    "row_dot": row_dot,
    "filter_panels": filter_panels,
    "implicit_gemm": implicit_gemm,
    "uncompiled": uncompiled,
}
"""In the order in which they are preferred."""

_MARGIN, _PACKED_MARGIN = 1.3, 1.2
"""Estimates are rough, and the sums of ``implicit_gemm`` and ``filter_panels`` are the most exact: the others must be
so many times as fast, in general and with weights that stay the same."""


def candidates(problem: Problem) -> tuple[tuple[str, Algorithm], ...]:
    """The algorithms that are fast enough for a problem, by name; the one that is preferred first."""
    return _candidates(problem if winograd.heeds_threads(problem) else problem._replace(threads=1))


@functools.lru_cache(maxsize=1024)
def _candidates(problem: Problem) -> tuple[tuple[str, Algorithm], ...]:
    usual, panels = implicit_gemm.cycles(problem), filter_panels.cycles(problem)
    limit, margin = min(_or_never(usual), _or_never(panels)), _PACKED_MARGIN if problem.packed else _MARGIN

    def fast_enough(algorithm: Algorithm) -> bool:
        if algorithm is implicit_gemm:
            return usual is not None
        if algorithm is filter_panels:
            return panels is not None and panels <= _or_never(usual)
        cycles = algorithm.cycles(problem)
        return cycles is not None and margin * cycles <= limit

    return tuple(item for item in ALGORITHMS.items() if fast_enough(item[1]))


def _or_never(cycles: float | None) -> float:
    return math.inf if cycles is None else cycles


@functools.lru_cache(maxsize=1024)
def _most_workspace(problem: Problem) -> int:
    """What any candidate uses for a problem, on any number of threads."""
    found = None if winograd.heeds_threads(problem) else _candidates(problem)
    shared = [problem._replace(threads=threads) for threads in range(1, config.NUMBA_NUM_THREADS + 1)]
    return max(algorithm.workspace(same) for same in shared for _, algorithm in found or _candidates(same))


@capturable
def convolution_workspace(
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    window: Window,
    group: int,
    dtype: DTypeLike | None = None,
    kinds: Collection[str] = KINDS,
    packed: bool | None = None,
) -> int:
    """See ``reference.convolution_workspace``; enough for each of the algorithms and numbers of threads."""
    shapes = tuple(x_shape), tuple(y_shape)
    dtypes = [np.dtype(each) for each in ((np.float32, np.float64) if dtype is None else (dtype,))]
    forward = (False, True) if packed is None else (packed,)
    asked = [(kind, stays) for kind in kinds for stays in (forward if kind == FORWARD else (False,))]
    problems = (Problem(kind, *shapes, window, group, each, 1, stays) for kind, stays in asked for each in dtypes)
    return max(map(_most_workspace, problems))


def forward_cycles(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...], window: Window, group: int, dtype: np.dtype
) -> float:
    """A rough estimate of the processor cycles of a convolution with weights that stay the same, on one thread; 0 if
    there is none.
    """
    problem = Problem(FORWARD, x_shape, y_shape, window, group, dtype, 1, packed=True)
    return _chosen(problem, frozenset()).cycles(problem) or 0.0


def _chosen(problem: Problem, left_out: frozenset[str]) -> Algorithm:
    """The algorithm that is preferred for a problem, without those that are left out."""
    return next(algorithm for name, algorithm in candidates(problem) if name not in left_out)


@functools.lru_cache(maxsize=1024)
def solver(
    kind: str,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    window: Window,
    group: int,
    dtype: np.dtype,
    threads: int,
    left_out: frozenset[str],
    accumulate: bool = False,
    packed: bool = False,
) -> Solver:
    """The fastest solver of a problem, without the ``fast_paths`` that are left out: the one look-up of a call."""
    problem = Problem(kind, x_shape, y_shape, window, group, dtype, threads, packed, accumulate)
    return _chosen(problem, left_out).bind(problem)


@functools.lru_cache(maxsize=1024)
def packing(
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    window: Window,
    group: int,
    dtype: np.dtype,
    threads: int,
    left_out: frozenset[str],
    accumulate: bool = False,
) -> Packing | None:
    """How to solve a forward problem with weights that stay the same; None where nothing is made of them in advance:
    ``solver`` tells then.
    """
    problem = Problem(FORWARD, x_shape, y_shape, window, group, dtype, threads, True, accumulate)
    bind_packed = getattr(_chosen(problem, left_out), "bind_packed", None)
    return bind_packed(problem) if bind_packed else None


@capturable
def convolution_form(
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    window: Window,
    group: int,
    dtype: DTypeLike,
    accumulate: bool = False,
) -> Hashable:
    """See ``reference.convolution_form``."""
    how = tuple(x_shape), tuple(y_shape), window, group, np.dtype(dtype)
    packs = packing(*how, thread_count(), fast_paths.left_out(), accumulate)
    return packs.form if packs else None


@capturable
def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    window: Window,
    group: int,
    workspace: Array,
    slope: float = 1.0,
    packed: dict[Any, Any] | None = None,
    accumulate: bool = False,
) -> None:
    """See ``reference.convolve``."""
    if bias is None:
        bias = _zeros(y.shape[1], y.dtype)
    how = x.shape, y.shape, window, group, x.dtype, thread_count(), fast_paths.left_out(), accumulate
    packs = packing(*how) if packed is not None else None
    if packed is None or packs is None:
        solver(FORWARD, *how, packed is not None)(x, w, bias, y, workspace, slope)
        return
    if packs.form not in packed:
        not_capturable()
        packed[packs.form] = packs.pack(w)
    packs.solve(x, packed[packs.form], bias, y, workspace, slope)


@capturable
def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve_data_grad``."""
    solve = solver(DATA_GRAD, dx.shape, dy.shape, window, group, dx.dtype, thread_count(), fast_paths.left_out())
    solve(dy, w, dx, workspace)


@capturable
def convolve_weight_grad(
    x: Array,
    dy: Array,
    dw: Array,
    window: Window,
    group: int,
    workspace: Array,
    accumulate: bool,
    dbias: Array | None = None,
) -> None:
    """See ``reference.convolve_weight_grad``."""
    solve = solver(WEIGHT_GRAD, x.shape, dy.shape, window, group, x.dtype, thread_count(), fast_paths.left_out())
    solve(x, dy, dw, _zeros(0, dw.dtype) if dbias is None else dbias, workspace, accumulate)


@functools.lru_cache(maxsize=64)
def _zeros(count: int, dtype: np.dtype) -> Array:
    return np.zeros(count, dtype)
