"""Convolution and its gradients: the algorithm that should be faster for a shape."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from minicaffe.kernels import fast_paths, reference
from minicaffe.kernels.cuda.conv.estimate import im2col_seconds, implicit_seconds
from minicaffe.kernels.cuda.conv.finish import finish
from minicaffe.kernels.cuda.conv.im2col import Im2colGemm
from minicaffe.kernels.cuda.conv.implicit_gemm import ImplicitGemm, fits
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, KINDS, WEIGHT_GRAD, Problem
from minicaffe.kernels.cuda.conv.trial import Trials
from minicaffe.kernels.cuda.launch import Launcher, computed, program, stored_type, window_struct
from minicaffe.kernels.halves import rounded_to
from minicaffe.kernels.window import Window


@functools.lru_cache(maxsize=4096)
def is_implicit(problem: Problem, tf32: bool) -> bool:
    """Whether the columns of a float32 convolution are better not laid out in memory."""
    return implicit_seconds(problem, tf32) < im2col_seconds(problem, tf32)


class ConvOps:
    """The functions of ``kernels/reference/conv.py``."""

    launch: Launcher
    bias_grad: Callable[[Any, Any], None]
    factors: str
    trials: Trials | None = None
    """What is faster by measurement; without it, estimates say."""
    tensor_cores: Callable[[Any], bool]

    @functools.cached_property
    def _im2col(self) -> Im2colGemm:
        return Im2colGemm(self)

    @functools.cached_property
    def _implicit(self) -> ImplicitGemm:
        return ImplicitGemm(self, self.tensor_cores)

    def im2col(self, x: Any, columns: Any, window: Window) -> None:
        """See ``kernels.reference.im2col``."""
        planes, out = x.shape[0] * x.shape[1], columns.shape[2:]
        size = math.prod(out)
        struct = window_struct(window, x.shape[2:], out)
        source = program("im2col", computed(x.dtype), len(out), *map(stored_type, (x.dtype, columns.dtype)))
        self.launch.planes(source, "im2col", planes, size, x, columns, struct)

    def col2im(self, columns: Any, x: Any, window: Window) -> None:
        """See ``kernels.reference.col2im``."""
        planes, out = x.shape[0] * x.shape[1], columns.shape[2:]
        size = math.prod(x.shape[2:])
        struct = window_struct(window, x.shape[2:], out)
        source = program("im2col", computed(x.dtype), len(out), *map(stored_type, (x.dtype, columns.dtype)))
        self.launch.planes(source, "col2im", planes, size, columns, x, struct)

    def convolution_workspace(
        self,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        window: Window,
        group: int,
        dtype: Any = None,
        kinds: Collection[str] = KINDS,
        packed: bool | None = None,
    ) -> int:
        """See ``kernels.reference.convolution_workspace``; enough for each algorithm that may be taken."""
        shapes = tuple(x_shape), tuple(y_shape)
        problems = [Problem(kind, *shapes, window, group) for kind in kinds]
        if self.trials is not None:
            taken = [problem for problem in problems if fits(problem)]
        else:
            taken = [p for p, tf32 in itertools.product(problems, (False, True)) if is_implicit(p, tf32)]
        return max([self._im2col.workspace(*shapes, window, group), *map(self._implicit.workspace, taken)])

    convolution_form = staticmethod(reference.convolution_form)

    def convolve(
        self,
        x: Any,
        w: Any,
        bias: Any | None,
        y: Any,
        window: Window,
        group: int,
        workspace: Any,
        slope: float = 1.0,
        packed: dict[Any, Any] | None = None,
        accumulate: bool = False,
    ) -> None:
        """See ``kernels.reference.convolve``."""
        if self._takes_implicit(FORWARD, x, y, window, group):
            self._implicit.convolve(x, w, bias, y, window, group, slope, accumulate)
        else:
            self._im2col.convolve(x, w, y, window, group, workspace, accumulate)
            finish(self, y, bias, slope)

    def convolve_data_grad(self, dy: Any, w: Any, dx: Any, window: Window, group: int, workspace: Any) -> None:
        """See ``kernels.reference.convolve_data_grad``."""
        if self._takes_implicit(DATA_GRAD, dx, dy, window, group):
            self._implicit.data_grad(dy, w, dx, window, group)
        else:
            self._im2col.data_grad(dy, w, dx, window, group, workspace)

    def convolve_weight_grad(
        self, x: Any, dy: Any, dw: Any, window: Window, group: int, workspace: Any, accumulate: bool, dbias: Any = None
    ) -> None:
        """See ``kernels.reference.convolve_weight_grad``."""
        if dbias is not None:
            self.bias_grad(dy, dbias)
        algorithm: Any = self._implicit if self._takes_implicit(WEIGHT_GRAD, x, dy, window, group) else self._im2col
        algorithm.weight_grad(x, dy, dw, window, group, workspace, accumulate)

    def _takes_implicit(self, kind: str, x: Any, y: Any, window: Window, group: int) -> bool:
        if x.dtype == np.float64 or not fast_paths.taken("implicit"):
            return False
        problem, tf32 = Problem(kind, x.shape, y.shape, window, group), self.tensor_cores(np.float32)
        rounded = rounded_to(self.factors, x, y) is not None
        if rounded and not self.tensor_cores(np.float16):
            return False  # only cuBLAS has tensor cores for these factors
        if self.trials is not None and fits(problem):
            return self.trials.is_implicit(self, problem, self.factors if rounded else "TF32" if tf32 else "fp32")
        return is_implicit(problem, rounded or tf32)  # 16 bits as if they were TF32, for which there is an estimate
