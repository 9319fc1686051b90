"""Convolution and its gradients: which of the ways to do them is taken."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.kernels import fast_paths, reference
from minicaffe.kernels.cpu.bias import bias_grad
from minicaffe.kernels.cpu.conv import depthwise, implicit_gemm, row_dot, strided_1x1, winograd, winograd_kernels
from minicaffe.kernels.cpu.conv.im2col import AXES
from minicaffe.kernels.cpu.conv.problem import DATA, FORWARD, WEIGHTS, Problem, Way
from minicaffe.kernels.cpu.conv.tables import by_group, weights_by_group
from minicaffe.kernels.cpu.runtime.blas import single_threaded_blas
from minicaffe.kernels.cpu.runtime.capture import capturable, not_capturable
from minicaffe.kernels.cpu.runtime.threads import thread_count
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


def convolution_workspace(x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
    """See ``reference.convolution_workspace``; enough for each way, and for as many threads as Numba can use."""
    x_shape, y_shape = tuple(x_shape), tuple(y_shape)
    if len(x_shape) > AXES + 2:
        return reference.convolution_workspace(x_shape, y_shape, window, group)
    needed = [way.workspace(x_shape, y_shape, window, group) for way in (implicit_gemm, row_dot, winograd)]
    if depthwise.applies(x_shape, group):
        needed.append(depthwise.workspace(x_shape, y_shape, window, group))
    if strided_1x1.applies(window):
        small = strided_1x1.small_shape(x_shape, y_shape)
        needed.append(math.prod(small) + convolution_workspace(small, y_shape, strided_1x1.plain(window), group))
    return max(needed)


@functools.lru_cache(maxsize=1024)
def _way(
    kind: int,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    window: Window,
    group: int,
    dtype: np.dtype,
    threads: int,
    left_out: frozenset[str],
) -> Way:
    """The fastest way to solve a problem without some fast paths: all that a call has to find out, in one look-up."""
    problem = Problem(kind, x_shape, y_shape, window, group, dtype, threads)
    if len(x_shape) > AXES + 2 or (kind == WEIGHTS and x_shape[0] == 0):
        return _bias_apart(problem, _uncompiled(problem))
    if "subsample" not in left_out and strided_1x1.applies(window):
        return functools.partial(_SUBSAMPLED[kind], window, group)
    way = None if "depthwise" in left_out else depthwise.way(problem)
    if way is not None:
        return _bias_apart(problem, way)
    way = None if "winograd" in left_out else winograd_kernels.way(problem)
    if way is not None:
        return _bias_apart(problem, _grouped(problem, way))
    way = None if "dots" in left_out else row_dot.way(problem)
    return _grouped(problem, way or implicit_gemm.way(problem, turned="turned" not in left_out))


@capturable
def convolve(x: Array, w: Array, bias: Array | None, y: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve``."""
    if bias is None:
        bias = _zeros(len(w), w.dtype)
    way = _way(FORWARD, x.shape, y.shape, window, group, x.dtype, thread_count(), fast_paths.left_out())
    way(x, w, bias, y, workspace)


@capturable
def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve_data_grad``."""
    way = _way(DATA, dx.shape, dy.shape, window, group, dx.dtype, thread_count(), fast_paths.left_out())
    way(dy, w, dx, workspace)


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
    way = _way(WEIGHTS, x.shape, dy.shape, window, group, x.dtype, thread_count(), fast_paths.left_out())
    way(x, dy, dw, _zeros(0, dw.dtype) if dbias is None else dbias, workspace, accumulate)


@functools.lru_cache(maxsize=64)
def _zeros(count: int, dtype: np.dtype) -> Array:
    return np.zeros(count, dtype)


def _grouped(problem: Problem, way: Way) -> Way:
    """A way to take arrays by group, made one that takes them as they are."""
    group = problem.group
    images, weights = functools.partial(by_group, group=group), functools.partial(weights_by_group, group=group)
    if problem.kind == FORWARD:
        return lambda x, w, bias, y, *rest: way(images(x), weights(w), bias.reshape(group, -1), images(y), *rest)
    if problem.kind == DATA:
        return lambda dy, w, dx, *rest: way(images(dy), weights(w), images(dx), *rest)
    return lambda x, dy, dw, *rest: way(images(x), images(dy), weights(dw), *rest)


# --- ways that are made of others ---------------------------------------------------------------------------------


def _uncompiled(problem: Problem) -> Way:
    """More axes than are compiled, or a gradient of weights from no images."""
    functions: dict[int, Way] = {
        FORWARD: reference.convolve,
        DATA: reference.convolve_data_grad,
        WEIGHTS: reference.convolve_weight_grad,
    }
    function, window, group = functions[problem.kind], problem.window, problem.group
    arrays = 4 if problem.kind == FORWARD else 3

    def run(*given: Any) -> None:
        not_capturable()
        with single_threaded_blas():
            function(*given[:arrays], window, group, *given[arrays:])

    return run


def _bias_apart(problem: Problem, way: Way) -> Way:
    """A way, made one that gives the gradient of the bias, too, if it is to that of the weights."""

    def run(x: Array, dy: Array, dw: Array, dbias: Array, workspace: Array, accumulate: bool) -> None:
        way(x, dy, dw, workspace, accumulate)
        if dbias.size:
            bias_grad(dy, dbias)

    return run if problem.kind == WEIGHTS else way


def _convolve_few(window: Window, group: int, x: Array, w: Array, bias: Array, y: Array, workspace: Array) -> None:
    small, rest = strided_1x1.split(workspace, x, y)
    strided_1x1.pick(x, small, window)
    convolve(small, w, bias, y, strided_1x1.plain(window), group, rest)


def _few_data_grad(window: Window, group: int, dy: Array, w: Array, dx: Array, workspace: Array) -> None:
    small, rest = strided_1x1.split(workspace, dx, dy)
    convolve_data_grad(dy, w, small, strided_1x1.plain(window), group, rest)
    strided_1x1.spread(small, dx, window)


def _few_weight_grad(
    window: Window, group: int, x: Array, dy: Array, dw: Array, dbias: Array, workspace: Array, accumulate: bool
) -> None:
    small, rest = strided_1x1.split(workspace, x, dy)
    strided_1x1.pick(x, small, window)
    convolve_weight_grad(small, dy, dw, strided_1x1.plain(window), group, rest, accumulate, dbias)


_SUBSAMPLED: dict[int, Way] = {FORWARD: _convolve_few, DATA: _few_data_grad, WEIGHTS: _few_weight_grad}
