"""Every s-th pixel of an image: all that a 1 x 1 convolution with stride s sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minicaffe.kernels.cpu.conv.im2col import AXES
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


def applies(window: Window) -> bool:
    """Whether a convolution leaves out pixels and looks at no neighbours."""
    return window.taps == 1 and max(window.stride) > 1 and max(window.pad) == 0


def small_shape(x_shape: Sequence[int], y_shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the pixels that are left."""
    return *x_shape[:2], *y_shape[2:]


@part_kernel()
def _pick_part(part, parts, x, small, step):
    planes, depth, height, width = small.shape
    low, high = share(part, parts, planes)
    for p in range(low, high):
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    small[p, d, h, w] = x[p, d * step[0], h * step[1], w * step[2]]


@part_kernel()
def _spread_part(part, parts, small, x, step):
    planes, depth, height, width = small.shape
    low, high = share(part, parts, planes)
    for p in range(low, high):
        x[p] = 0
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    x[p, d * step[0], h * step[1], w * step[2]] = small[p, d, h, w]


@kernel()
def _pick(x, small, step, parts):
    parallel(_pick_part, parts, (x, small, step))


@kernel()
def _spread(small, x, step, parts):
    parallel(_spread_part, parts, (small, x, step))


def _planes(x: Array) -> Array:
    """x (N, C, ...) as (planes, depth, height, width)."""
    return x.reshape(x.shape[0] * x.shape[1], *(1,) * (AXES + 2 - x.ndim), *x.shape[2:])


def _step(window: Window) -> tuple[int, int, int]:
    depth, height, width = window.with_axes(AXES).stride
    return depth, height, width


def pick(x: Array, small: Array, window: Window) -> None:
    """Fill ``small`` with the pixels of x that the convolution reads."""
    _pick(_planes(x), _planes(small), _step(window), parts(small.size))


def spread(small: Array, x: Array, window: Window) -> None:
    """The way back: x gets the pixels of ``small``, all others become 0."""
    _spread(_planes(small), _planes(x), _step(window), parts(x.size))


def split(memory: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """The beginning of a flat array as the small form of x, and what is left behind it."""
    shape = small_shape(x.shape, y.shape)
    count = math.prod(shape)
    return memory[:count].reshape(shape), memory[count:]


def plain(window: Window) -> Window:
    """The same window for the pixels that are left."""
    return window._replace(stride=(1,) * len(window.stride))
