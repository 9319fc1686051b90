"""Checks of the part "speed": each algorithm of a convolution on a GPU beside the other, on layers of the shipped nets.

A check is named convolution/layer/product.  Its figures are milliseconds of each algorithm and what ``estimate`` took
them to be, in float32 and TF32, those of the implicit GEMM on factors of fp16, and which of the first two is taken;
where cuDNN is installed, also its milliseconds in float32 and TF32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minicaffe.kernels.cuda.conv import trial
from minicaffe.kernels.cuda.conv.estimate import im2col_seconds, implicit_seconds
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, KINDS, Problem
from minicaffe.kernels.cuda.conv.select import is_implicit
from minicaffe.kernels.window import Window
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options

SECONDS = 0.1


class Layer(NamedTuple):
    """A convolution of square images."""

    name: str
    images: int
    channels: int
    side: int
    filters: int
    kernel: int
    pad: int = 0
    group: int = 1

    def problem(self, kind: str, images: int) -> Problem:
        """One of its products, over so many images."""
        window = Window((self.kernel,) * 2, (1, 1), (self.pad,) * 2, (1, 1))
        out = self.side + 2 * self.pad - self.kernel + 1
        x, y = (images, self.channels, self.side, self.side), (images, self.filters, out, out)
        return Problem(kind, x, y, window, self.group)


LAYERS = (
    Layer("caffenet conv2", 256, 96, 27, 256, 5, 2, 2),
    Layer("caffenet conv3", 256, 256, 13, 384, 3, 1),
    Layer("resnet50 res2a 3x3", 64, 64, 56, 64, 3, 1),
    Layer("resnet50 res4a 3x3", 64, 256, 14, 256, 3, 1),
    Layer("resnet50 res2a 1x1", 64, 64, 56, 256, 1),
    Layer("mobilenet conv4_2 1x1", 64, 256, 28, 256, 1),
)


def checks(where: Any, options: Options) -> Iterator[Check]:
    """Each layer and product; on a stand-in the smallest layer, of one image."""
    layers = (Layer("small", 2, 3, 8, 5, 3, 1),) if options.small else LAYERS
    for layer in layers:
        for kind in KINDS:
            yield Check(f"convolution/{layer.name}/{kind}", partial(measure, where, layer.problem(kind, layer.images)))


def measure(where: Any, problem: Problem) -> dict[str, Any]:
    """Times of a product."""
    figures: dict[str, Any] = {}
    with where.running():
        algorithms = trial.calls(where.ops, where.zeros, problem)
        cudnn = _by_cudnn(where, problem)
    for tf32 in (False, True):
        name = " TF32" * tf32
        with target.tf32(tf32):
            for algorithm, call in algorithms.items():
                figures[f"{algorithm}{name} ms"] = _milliseconds(where, call)
            if cudnn is not None:
                figures[f"cuDNN{name} ms"] = _milliseconds(where, cudnn)
            figures[f"taken{name}"] = "implicit" if is_implicit(problem, tf32) else "im2col"
        figures[f"im2col{name} estimate ms"] = 1e3 * im2col_seconds(problem, tf32)
        figures[f"implicit{name} estimate ms"] = 1e3 * implicit_seconds(problem, tf32)
    with where.rounding("fp16"):
        figures["implicit fp16 ms"] = _milliseconds(where, algorithms["implicit"])
    least = min(figures["im2col ms"], figures["implicit ms"])
    figures["TFLOP/s"] = 2e-9 * problem.multiplications / least
    return figures


def _by_cudnn(where: Any, problem: Problem) -> Callable[[], None] | None:
    """The product by cuDNN, on arrays of its own; None where it is not installed."""
    convolutions = where.convolutions("cuDNN")
    if convolutions is where.ops:
        return None
    w_shape = (problem.y_shape[1], problem.channels, *problem.window.kernel)
    x, y, w = (where.zeros(shape, np.float32) for shape in (problem.x_shape, problem.y_shape, w_shape))
    space = where.zeros((convolutions.convolution_workspace(x.shape, y.shape, problem.window, problem.group),), x.dtype)
    how = problem.window, problem.group, space
    if problem.kind == FORWARD:
        return partial(convolutions.convolve, x, w, None, y, *how)
    if problem.kind == DATA_GRAD:
        return partial(convolutions.convolve_data_grad, y, w, x, *how)
    return partial(convolutions.convolve_weight_grad, x, y, w, *how, False)


def _milliseconds(where: Any, call: Callable[[], None]) -> float:
    return 1e3 * statistics.median(target.sample(where, call, SECONDS))
