"""Convolution by implicit_gemm.cu, whatever the shape, with and without tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels import reference
from minicaffe.kernels.cuda.conv.implicit_gemm import ImplicitGemm
from minicaffe.kernels.window import Window
from minicaffe.testing.gpu.checks import Skip
from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, normal, output
from minicaffe.testing.kernel_cases.halves import to_bf16, to_fp16, to_tf32
from minicaffe.testing.kernel_cases.windows import positions, window

Layer = tuple[Shape, Window, int, int]
"""Shape of x, window, group, filters."""

SMALL: Layer = (3, 6, 21, 22), window((3, 2), (2, 1), (1, 2), (1, 2)), 2, 8
LAYERS: list[tuple[Layer, tuple[str, ...]]] = [  # and the factors that it is tried with
    (SMALL, ("", "TF32", "fp16", "bf16")),
    (((2, 5, 7, 9), window(3, 1, 1), 1, 100), ("", "TF32")),
    (((3, 2, 4, 5, 6), window((2, 3, 2), (1, 2, 1), (1, 0, 1), axes=3), 1, 3), ("",)),
]
ROUNDINGS: dict[str, Callable[[NDArray], NDArray]] = {"TF32": to_tf32, "fp16": to_fp16, "bf16": to_bf16}


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    for layer, kinds in LAYERS:
        for factors in kinds:
            yield from layer_cases(layer, factors)
    if sizes.large:
        side = max(8, int((sizes.large / (4 * 16 * 9)) ** 0.5))
        for factors in ("", "TF32"):
            yield from layer_cases(((4, 16, side, side), window(3, 1, 1), 1, 8), factors)


def layer_cases(layer: Layer, factors: str = "") -> Iterator[KernelCase]:
    """The calls of one layer, on factors of float32 that are rounded to ``factors`` for tensor cores, if it is one."""
    x_shape, win, group, filters = layer
    y_shape = (x_shape[0], filters, *positions(x_shape[2:], win))
    x, y, w = normal(*x_shape), normal(*y_shape), normal(filters, x_shape[1] // group, *win.kernel)
    shapes = f"{'x'.join(map(str, x_shape))} kernel {'x'.join(map(str, win.kernel))} group {group} filters {filters}"
    name = f"implicit GEMM {factors}".strip()
    space = output(max(16 * prod(w.shape), reference.convolution_workspace(x_shape, y_shape, win, group)))
    calls: list[tuple[str, str, tuple]] = [
        ("convolve", "", (x, w, normal(filters), output(*y_shape), win, group, space)),
        ("convolve", "no bias, rectified", (x, w, None, output(*y_shape), win, group, space, 0.25)),
        ("convolve", "accumulated, rectified", (x, w, normal(filters), y, win, group, space, 0.0, None, True)),
        ("convolve_data_grad", "", (y, w, output(*x_shape), win, group, space)),
        ("convolve_weight_grad", "", (x, y, output(*w.shape), win, group, space, False)),
        ("convolve_weight_grad", "accumulated", (x, y, w, win, group, space, True)),
    ]
    for op, more, args in calls:
        label = ", ".join(filter(None, (name, shapes, more)))
        yield KernelCase(op, args, label, None, _expected(op, factors), _run(op, factors), (args.index(space),))


def _expected(op: str, factors: str) -> Callable[..., None]:
    """The reference, on rounded factors, which are the first two arrays."""

    def run(a: NDArray, b: NDArray, *rest: Any) -> None:
        if factors and a.dtype == np.float32:
            a, b = ROUNDINGS[factors](a), ROUNDINGS[factors](b)
        getattr(reference, op)(a, b, *rest)

    return run


def _run(op: str, factors: str) -> Callable[..., None]:
    """A call of ``ImplicitGemm``, where the primitive may choose another algorithm."""

    def run(backend: Any, *args: Any) -> None:
        if factors and not backend.ops.tensor_cores(np.float16):
            raise Skip("this GPU has no tensor cores that the kernel could use")
        algorithm = ImplicitGemm(backend.ops, lambda dtype: bool(factors))
        with backend.rounding(factors if factors in ("fp16", "bf16") else "fp32"):
            if op == "convolve":
                algorithm.convolve(*args[:6], *args[7:8], *args[9:])
            elif op == "convolve_data_grad":
                algorithm.data_grad(*args[:-1])
            else:
                algorithm.weight_grad(*args)

    return run
