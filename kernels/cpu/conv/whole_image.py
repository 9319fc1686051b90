"""Convolutions whose window is the whole image, so that it has one position: they are inner products, as are those of
1 x 1 on 1 x 1 pixels.  Where an image is one of few, reading the weights takes most of the time, and they are read as
they lie.
"""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.conv.problem import DATA_GRAD, FORWARD, WEIGHT_GRAD, Problem, Solver, then_bias_grad
from minicaffe.kernels.cpu.matmul.gemm import gemm
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.rectify import add_rows, compiled_add_rows
from minicaffe.kernels.reference import Array


@part_kernel()
def _add_bias_part(part, parts, code, y, bias, slope):
    row = y.shape[1] * y.itemsize
    low, high = share(part, parts, len(y))
    add_rows(code, y.ctypes.data + low * row, row, bias.ctypes.data, 0, high - low, y.shape[1], slope.ctypes.data)


@kernel()
def _add_bias(code, y, bias, slope, parts):
    parallel(_add_bias_part, parts, (code, y, bias, slope))


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; nothing else is faster, so that no estimate is made."""
    window, whole = problem.window, problem.window.kernel == problem.x_shape[2:]
    solves = whole and problem.group == 1 and problem.positions == 1 and max(window.pad, default=0) == 0
    return 0.0 if solves and problem.is_compiled and not problem.accumulate else None


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    return 0


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    code = compiled_add_rows(problem.dtype).address if problem.kind == FORWARD else 0

    def convolve(x: Array, w: Array, bias: Array, y: Array, workspace: Array, slope: float) -> None:
        rows = _rows(y)
        gemm(_rows(x), _rows(w), rows, transpose_b=True)
        _add_bias(code, rows, bias, np.full(1, slope, y.dtype), parts(y.size))

    def data_grad(dy: Array, w: Array, dx: Array, workspace: Array) -> None:
        gemm(_rows(dy), _rows(w), _rows(dx))

    def weight_grad(x: Array, dy: Array, dw: Array, workspace: Array, accumulate: bool) -> None:
        gemm(_rows(dy), _rows(x), _rows(dw), transpose_a=True, accumulate=accumulate)

    solvers: dict[str, Solver] = {FORWARD: convolve, DATA_GRAD: data_grad, WEIGHT_GRAD: then_bias_grad(weight_grad)}
    return solvers[problem.kind]


def _rows(array: Array) -> Array:
    """A row of numbers for each image, or filter."""
    return array.reshape(len(array), math.prod(array.shape[1:]))
