"""Convolution, im2col and col2im."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.window import Window
from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, normal, output


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
ROW = window((1, 3), (1, 1), (0, 1))
"""Over images of one row, as wide before as after."""


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    rows = [((1, size), ROW, 1, 2, 2) for size in sizes.edges]
    for in_shape, win, group, channels, filters in [*CONVOLUTIONS, *rows]:
        for images in (1, 3):
            yield from _layer((images, channels, *in_shape), win, group, filters)
    if sizes.large:
        side = max(
            8, int((sizes.large / (4 * 3 * 9)) ** 0.5)
        )  # of four images of three channels, whose columns are large
        yield from _layer((4, 3, side, side), window(3, 1, 1), 1, 8)


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
        if win.taps == 6:
            yield KernelCase("convolve", (*args, 0.25), f"{label}{', bias' if bias else ''}, rectified", unlike=(6,))
    args = (normal(*y_shape), w, output(*x_shape), win, group, space)
    yield KernelCase("convolve_data_grad", args, label, unlike=(5,))
    for accumulate, bias in ((True, None), (False, None), (True, normal(filters))):
        dw = w if accumulate else output(*w.shape)
        args = (normal(*x_shape), normal(*y_shape), dw, win, group, space, accumulate, bias)
        what = f"{label}{', accumulated' if accumulate else ''}{', bias' if bias else ''}"
        yield KernelCase("convolve_weight_grad", args, what, unlike=(5,))
