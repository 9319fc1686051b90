"""Max, average and stochastic pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe.kernels import reference
from minicaffe.kernels.window import Window
from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, Values, normal, output, rounded, uniform
from minicaffe.testing.kernel_cases.windows import ROW, window

POOLINGS: list[tuple[Shape, Window, Shape]] = [
    # in_shape, window, out_shape; Caffe rounds the number of positions up, so windows may cross the border
    ((4, 4), window(2, 2), (2, 2)),
    ((5, 7), window(3, 2), (2, 3)),
    ((6, 6), window(3, 2), (3, 3)),
    ((5, 4), window((2, 3), (1, 2), (1, 1)), (6, 3)),
    ((3, 3), window(2, 3), (2, 2)),
    ((1, 1), window(2, 2, 1), (2, 2)),
    ((4, 4), window(2, 5), (2, 2)),
    ((40, 33), window(3, 1, 1), (40, 33)),
]


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    rows = [((1, size), ROW, (1, size)) for size in sizes.edges if size < 300]  # the reference is slow
    for in_shape, win, out_shape in [*POOLINGS, *rows]:
        yield from layer_cases((2, 3, *in_shape), (2, 3, *out_shape), win)
    arrays = normal(1, 1, 2, 6), output(1, 1, 1, 3), output(1, 1, 1, 3, dtype=np.int32)
    yield KernelCase("max_pool", (*arrays, window(2, 2)), "of NaN and very small numbers", _small)
    if sizes.large:
        planes = max(1, sizes.large // (16 * 32))
        yield from layer_cases((8, planes // 8 + 1, 16, 32), (8, planes // 8 + 1, 8, 16), window(2, 2))


def layer_cases(x_shape: Shape, y_shape: Shape, win: Window) -> Iterator[KernelCase]:
    """The calls of one pooling layer."""
    label = f"{'x'.join(map(str, x_shape))} kernel {'x'.join(map(str, win.kernel))} stride {win.stride[0]}"
    mask = output(*y_shape, dtype=np.int32)
    yield KernelCase("max_pool", (rounded(*x_shape), output(*y_shape), mask, win), label)
    yield KernelCase("max_pool", (rounded(*x_shape), output(*y_shape), None, win), f"{label} without mask")
    chosen = Values(y_shape, lambda rng, size: np.zeros(size), np.int32)
    yield KernelCase("max_pool_grad", (normal(*y_shape), chosen, output(*x_shape), win), label, _choose)
    yield KernelCase("average_pool", (normal(*x_shape), output(*y_shape), win), label)
    yield KernelCase("average_pool_grad", (normal(*y_shape), output(*x_shape), win), label)
    x, u = rounded(*x_shape, scale=2, least=0), uniform(0.01, 1, *y_shape)
    yield KernelCase("stochastic_pool", (x, u, output(*y_shape), mask, win), label)
    yield KernelCase("stochastic_pool_mean", (x, output(*y_shape), win), label)


def _choose(dy: Any, mask: Any, dx: Any, win: Window) -> None:
    """Fill the mask with the pixels that max pooling of some image chose."""
    x = np.round(np.random.default_rng(1).standard_normal(dx.shape)).astype(dx.dtype)
    reference.max_pool(x, np.empty_like(dy), mask, win)


def _small(x: Any, y: Any, mask: Any, win: Window) -> None:
    x.fill(np.nan)
    x[0, 0, 0, 2:] = (-np.inf, np.nan, 7, -np.inf)
