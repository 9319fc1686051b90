"""Convolution, by the algorithm that is selected and by implicit_gemm.cu; im2col and col2im."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe.kernels import reference
from minicaffe.kernels.cuda.conv.implicit_gemm import ImplicitGemm
from minicaffe.kernels.window import Window
from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, Values, coarse, normal, output


def window(kernel: Any, stride: Any = 1, pad: Any = 0, dilation: Any = 1, axes: int = 2) -> Window:
    """A Window, whose entries are given one by one or as one number for all axes."""
    sides = (side if isinstance(side, tuple) else (side,) * axes for side in (kernel, stride, pad, dilation))
    return Window(*sides)


def positions(shape: Shape, window: Window) -> Shape:
    """How many positions the window has along each axis."""
    return tuple(
        (size + 2 * p - extent) // s + 1
        for size, extent, s, p in zip(shape, window.extent, window.stride, window.pad, strict=True)
    )


CONVOLUTIONS: list[tuple[Shape, Window, int, int, int]] = [  # in_shape, window, group, channels, filters
    ((5,), window(3, axes=1), 1, 2, 3),
    ((9, 8), window(3), 1, 3, 4),
    ((9, 8), window((3, 2), (2, 1), (1, 2)), 1, 3, 4),
    ((9, 11), window(3, 2, 2, 2), 1, 2, 4),
    ((7, 7), window(3, 1, 1), 2, 4, 6),
    ((6, 6), window(3, 2), 4, 4, 4),
    ((5, 6), window(1), 1, 3, 2),
    ((5, 6), window(1), 2, 4, 2),
    ((5, 6), window(1, 2), 1, 3, 2),
    ((3, 3), window(5, 1, 3), 1, 1, 1),
    ((4, 5, 6), window((2, 3, 2), (1, 2, 1), (1, 0, 1), axes=3), 1, 2, 3),
    ((2, 3, 2, 3), window(2, 1, 1, axes=4), 1, 2, 2),
]
IMPLICIT: list[tuple[Shape, Window, int, int, int]] = [
    ((21, 22), window((3, 2), (2, 1), (1, 2), (1, 2)), 2, 6, 8),
    ((7, 9), window(3, 1, 1), 1, 5, 100),
    ((4, 5, 6), window((2, 3, 2), (1, 2, 1), (1, 0, 1), axes=3), 1, 2, 3),
]
ROW = window((1, 3), (1, 1), (0, 1))
"""Over images of one row, as wide before as after."""


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    rows = [((1, size), ROW, 1, 2, 2) for size in sizes.edges]
    for in_shape, win, group, channels, filters in [*CONVOLUTIONS, *rows]:
        for images in (1, 3):
            yield from _layer((images, channels, *in_shape), win, group, filters)
    for number, (in_shape, win, group, channels, filters) in enumerate(IMPLICIT):
        shape = (3, channels, *in_shape)
        yield from implicit_layer(shape, win, group, filters, "", normal)
        if len(in_shape) == 2:
            yield from implicit_layer(shape, win, group, filters, "TF32", coarse)
        if number == 0:
            yield from implicit_layer(shape, win, group, filters, "float16", _halves, np.float16)
    if sizes.large:
        # of four images of three channels, whose columns are large
        side = max(8, int((sizes.large / (4 * 3 * 9)) ** 0.5))
        yield from _layer((4, 3, side, side), window(3, 1, 1), 1, 8)
        yield from implicit_layer((4, 3, side, side), window(3, 1, 1), 1, 8, "", normal)


def _layer(x_shape: Shape, win: Window, group: int, filters: int) -> Iterator[KernelCase]:
    """The calls of one convolution layer."""
    images, channels = x_shape[:2]
    y_shape = (images, filters, *positions(x_shape[2:], win))
    label = f"{'x'.join(map(str, x_shape))} kernel {'x'.join(map(str, win.kernel))} group {group}"
    column_shape = (images, channels * win.taps, *y_shape[2:])
    yield KernelCase("im2col", (normal(*x_shape), output(*column_shape), win), label)
    yield KernelCase("col2im", (normal(*column_shape), output(*x_shape), win), label)
    w = normal(filters, channels // group, *win.kernel)
    # the reference lays out one image, the kernels as many as they take at once, with a gradient for each
    room = images * (prod(column_shape[1:]) + filters * (channels // group) * win.taps)
    space = output(max(room, reference.convolution_workspace(x_shape, y_shape, win, group)))
    for bias in (normal(filters), None):
        args: tuple = (normal(*x_shape), w, bias, output(*y_shape), win, group, space)
        yield KernelCase("convolve", args, label + (", bias" if bias else ""), unlike=(6,))
    args = (normal(*y_shape), w, output(*x_shape), win, group, space)
    yield KernelCase("convolve_data_grad", args, label, unlike=(5,))
    for accumulate, bias in ((True, None), (False, None), (True, normal(filters))):
        dw = w if accumulate else output(*w.shape)
        args = (normal(*x_shape), normal(*y_shape), dw, win, group, space, accumulate, bias)
        what = f"{label}{', accumulated' if accumulate else ''}{', bias' if bias else ''}"
        yield KernelCase("convolve_weight_grad", args, what, unlike=(5,))


def _halves(*shape: int) -> Values:
    return normal(*shape, dtype=np.float16)


def implicit_layer(
    x_shape: Shape,
    win: Window,
    group: int,
    filters: int,
    what: str,
    draw: Callable[..., Values],
    dtype: DTypeLike | None = None,
) -> Iterator[KernelCase]:
    """The calls of one layer by implicit_gemm.cu, with arrays that ``draw`` makes, of ``dtype`` unless of the case's.

    Tensor cores are used if ``what``, which says of which factors, is not empty and if there are any.
    """
    images, channels = x_shape[:2]
    y_shape, w_shape = (images, filters, *positions(x_shape[2:], win)), (filters, channels // group, *win.kernel)
    x, y, w = draw(*x_shape), draw(*y_shape), draw(*w_shape)
    sums = None if dtype is None else np.float32  # what the weights' gradients are in
    room = max(reference.convolution_workspace(x_shape, y_shape, win, group), 16 * prod(w_shape))
    space = output(room, dtype=sums)
    calls: list[tuple[str, str, tuple]] = [
        ("convolve", "", (x, w, draw(filters), output(*y_shape, dtype=dtype), win, group, space)),
        ("convolve_data_grad", "", (y, w, output(*x_shape, dtype=dtype), win, group, space)),
        ("convolve_weight_grad", "", (x, y, output(*w_shape, dtype=sums), win, group, space, False)),
        ("convolve_weight_grad", "accumulated", (x, y, normal(*w_shape, dtype=sums), win, group, space, True)),
    ]
    shapes = f"{'x'.join(map(str, x_shape))} kernel {'x'.join(map(str, win.kernel))} group {group} filters {filters}"
    for op, more, args in calls:
        label = ", ".join(filter(None, (f"implicit GEMM {what}".strip(), shapes, more)))
        unlike = (args.index(space),)
        yield KernelCase(op, args, label, None, _in_float64(op), _implicit(op, bool(what)), unlike)


def _in_float64(op: str) -> Callable[..., None]:
    """The reference on float64 copies of the arrays, whose results are rounded."""

    def run(*args: Any) -> None:
        wide = [arg.astype(np.float64) if isinstance(arg, np.ndarray) else arg for arg in args]
        getattr(reference, op)(*wide)
        for arg, result in zip(args, wide, strict=True):
            if isinstance(arg, np.ndarray):
                arg[...] = result

    return run


def _implicit(op: str, tensor_cores: bool) -> Callable[..., None]:
    """A call of ``ImplicitGemm`` instead of the primitive that may choose another algorithm."""

    def run(backend: Any, *args: Any) -> None:
        there = backend.ops.tensor_cores(np.float16)
        algorithm = ImplicitGemm(backend.ops, lambda dtype: tensor_cores and there)
        *first, window, group, space = args[: 7 if op == "convolve" else 6]
        if op == "convolve":
            algorithm.convolve(*first, window, group)
        elif op == "convolve_data_grad":
            algorithm.data_grad(*first, window, group)
        else:
            algorithm.weight_grad(*args)

    return run
