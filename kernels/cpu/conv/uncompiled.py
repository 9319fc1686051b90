"""What the kernels do not take: more than three spatial axes, and the weight gradient of an empty batch."""

from __future__ import annotations

import functools
import math
from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.cpu.conv.problem import DATA_GRAD, FORWARD, WEIGHT_GRAD, Problem, Solver, then_bias_grad
from minicaffe.kernels.cpu.runtime.blas import single_threaded_blas
from minicaffe.kernels.cpu.runtime.capture import not_capturable

_FUNCTIONS: dict[str, Solver] = {
    FORWARD: reference.convolve,
    DATA_GRAD: reference.convolve_data_grad,
    WEIGHT_GRAD: reference.convolve_weight_grad,
}


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``; everything else is faster."""
    return math.inf


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    return reference.convolution_workspace(problem.x_shape, problem.y_shape, problem.window, problem.group)


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    function, window, group = _FUNCTIONS[problem.kind], problem.window, problem.group
    if problem.accumulate:
        function = functools.partial(function, accumulate=True)
    arrays = 4 if problem.kind == FORWARD else 3

    def solve(*given: Any) -> None:
        not_capturable()
        with single_threaded_blas():
            function(*given[:arrays], window, group, *given[arrays:])

    return then_bias_grad(solve) if problem.kind == WEIGHT_GRAD else solve
