"""Convolution and its gradients: which of the ways to do them is taken."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from minicaffe.kernels import fast_paths, reference
from minicaffe.kernels.cpu import depthwise, direct, subsample, winograd, winograd_plan
from minicaffe.kernels.cpu.im2col import AXES
from minicaffe.kernels.cpu.threads import thread_count
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


def _is_subsampled(window: Window) -> bool:
    return fast_paths.taken("subsample") and subsample.applies(window)


def _is_depthwise(x: Array, group: int) -> bool:
    return fast_paths.taken("depthwise") and depthwise.applies(x.shape, group)


def _tiled(kind: int, x: Array, y: Array, window: Window, group: int) -> winograd_plan.Job | None:
    """The job of ``winograd`` for a convolution or a gradient, if that is the fastest way."""
    if not fast_paths.taken("winograd"):
        return None
    return winograd_plan.job(kind, x.shape, y.shape, window, group, x.itemsize, thread_count())


def convolution_workspace(x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
    """See ``reference.convolution_workspace``; enough for each way, and for as many threads as Numba can use."""
    x_shape, y_shape = tuple(x_shape), tuple(y_shape)
    if len(x_shape) > AXES + 2:
        return reference.convolution_workspace(x_shape, y_shape, window, group)
    needed = [way.workspace(x_shape, y_shape, window, group) for way in (direct, winograd_plan)]
    if depthwise.applies(x_shape, group):
        needed.append(depthwise.workspace(x_shape, y_shape, window, group))
    if subsample.applies(window):
        small = subsample.small_shape(x_shape, y_shape)
        needed.append(math.prod(small) + convolution_workspace(small, y_shape, subsample.plain(window), group))
    return max(needed)


@functools.lru_cache(maxsize=64)
def _zeros(count: int, dtype: np.dtype) -> Array:
    return np.zeros(count, dtype)


def convolve(x: Array, w: Array, bias: Array | None, y: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve``."""
    if x.ndim > AXES + 2:
        reference.convolve(x, w, bias, y, window, group, workspace)
        return
    if bias is None:
        bias = _zeros(len(w), w.dtype)
    if _is_subsampled(window):
        small, rest = subsample.split(workspace, x, y)
        subsample.pick(x, small, window)
        convolve(small, w, bias, y, subsample.plain(window), group, rest)
    elif _is_depthwise(x, group):
        depthwise.convolve(x, w, bias, y, window, workspace)
    elif job := _tiled(winograd_plan.FORWARD, x, y, window, group):
        winograd.convolve(job, x, w, bias, y, workspace)
    else:
        direct.convolve(x, w, bias, y, window, group, workspace)


def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """See ``reference.convolve_data_grad``."""
    if dx.ndim > AXES + 2:
        reference.convolve_data_grad(dy, w, dx, window, group, workspace)
        return
    zeros = _zeros(dx.shape[1], dx.dtype)
    if _is_subsampled(window):
        small, rest = subsample.split(workspace, dx, dy)
        convolve_data_grad(dy, w, small, subsample.plain(window), group, rest)
        subsample.spread(small, dx, window)
    elif _is_depthwise(dx, group):
        depthwise.convolve_data_grad(dy, w, dx, window, workspace)
    elif job := _tiled(winograd_plan.DATA, dx, dy, window, group):
        winograd.convolve(job, dy, w, zeros, dx, workspace)
    else:
        direct.convolve_data_grad(dy, w, dx, zeros, window, group, workspace)


def convolve_weight_grad(
    x: Array, dy: Array, dw: Array, window: Window, group: int, workspace: Array, accumulate: bool
) -> None:
    """See ``reference.convolve_weight_grad``."""
    if x.ndim > AXES + 2 or len(x) == 0:
        reference.convolve_weight_grad(x, dy, dw, window, group, workspace, accumulate)
    elif _is_subsampled(window):
        small, rest = subsample.split(workspace, x, dy)
        subsample.pick(x, small, window)
        convolve_weight_grad(small, dy, dw, subsample.plain(window), group, rest, accumulate)
    elif _is_depthwise(x, group):
        depthwise.convolve_weight_grad(x, dy, dw, window, workspace, accumulate)
    elif job := _tiled(winograd_plan.WEIGHTS, x, dy, window, group):
        winograd.convolve_weight_grad(job, x, dy, dw, workspace, accumulate)
    else:
        direct.convolve_weight_grad(x, dy, dw, window, group, workspace, accumulate)
