"""What is asked of a convolution algorithm, what an algorithm is, and the arrays that its kernels take."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from minicaffe.kernels.convolution import DATA_GRAD as DATA_GRAD
from minicaffe.kernels.convolution import FORWARD as FORWARD
from minicaffe.kernels.convolution import KINDS as KINDS
from minicaffe.kernels.convolution import WEIGHT_GRAD as WEIGHT_GRAD
from minicaffe.kernels.cpu.runtime.address import LINE
from minicaffe.kernels.cpu.simd.sums import add_channel_sums
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window

AXES = 3
"""Spatial axes of the images that compiled code takes; images with fewer get leading axes of length 1."""

Axes = tuple[int, ...]

Solver = Callable[..., None]
"""Solves a problem: a function of (x, w, bias, y, workspace, slope), (dy, w, dx, workspace) or (x, dy, dw, dbias,
workspace, accumulate), with arrays as ``reference.convolve`` and its gradients take them.

``dbias`` is empty if the gradient of the bias is not wanted.
"""


class Problem(NamedTuple):
    """A convolution or one of its gradients, for arrays of given shapes."""

    kind: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    window: Window
    group: int
    dtype: np.dtype
    threads: int
    """How many threads may share the work."""
    packed: bool = False
    """Whether the weights stay the same for many calls, so that what is made of them once costs nothing."""
    accumulate: bool = False
    """Whether a forward problem adds to what is in y."""

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.x_shape[1] // self.group

    @property
    def filters(self) -> int:
        """Filters, which are output channels, of a group."""
        return self.y_shape[1] // self.group

    @property
    def pixels(self) -> int:
        """Pixels of a channel of x."""
        return math.prod(self.x_shape[2:])

    @property
    def positions(self) -> int:
        """Positions of the window, which are pixels of a channel of y."""
        return math.prod(self.y_shape[2:])

    @property
    def multiplications(self) -> int:
        """Multiplications that the definition asks for."""
        return math.prod(self.y_shape) * self.channels * self.window.taps

    @property
    def is_compiled(self) -> bool:
        """Whether the kernels can solve it: no more axes than they take, no weight gradient of an empty batch, and no
        window that reaches beyond the padded image, as Caffe's rounding of the number of positions allows.
        """
        inside = _stays_inside(self.x_shape[2:], self.y_shape[2:], self.window)
        return len(self.x_shape) <= AXES + 2 and not (self.kind == WEIGHT_GRAD and self.x_shape[0] == 0) and inside


@functools.lru_cache(maxsize=1024)
def _stays_inside(pixels: tuple[int, ...], positions: tuple[int, ...], w: Window) -> bool:
    """Whether no window reaches beyond the padded image."""
    return all(
        (count - 1) * stride + extent <= size + 2 * pad
        for count, stride, extent, size, pad in zip(positions, w.stride, w.extent, pixels, w.pad, strict=True)
    )


class Packing(NamedTuple):
    """A way to solve a forward problem with weights from which something is made once.

    It is that of an algorithm whose module has a function ``bind_packed(problem)``.
    """

    form: Hashable
    """What it makes of the same weights: packings of one form make the same."""
    pack: Callable[[Array], Array]
    """Makes it of the weights."""
    solve: Callable[..., None]
    """Takes (x, what ``pack`` made, bias, y, workspace, slope)."""


class Algorithm(Protocol):
    """A way to solve problems.  The modules that ``select`` lists have these functions."""

    def cycles(self, problem: Problem) -> float | None:
        """A rough estimate of the processor cycles that it takes; None if it cannot solve the problem."""

    def workspace(self, problem: Problem) -> int:
        """Elements of the workspace that the solver of a problem uses, if it can solve it."""

    def bind(self, problem: Problem) -> Solver:
        """The solver of a problem: all that can be worked out from shapes is worked out here, once."""


def finished(parts: Iterable[float], threads: int) -> float:
    """When the last of some parts of the work is done, which take so long; a thread takes those of its own share, and
    then what is left of the others' (``launch.parallel_queue``).
    """
    left = list(parts)
    queues = [deque(left[len(left) * t // threads : len(left) * (t + 1) // threads]) for t in range(threads)]
    busy = [0.0] * threads
    while any(queues):
        thread = busy.index(min(busy))
        queue = next(each for each in (*queues[thread:], *queues[:thread]) if each)
        busy[thread] += queue.popleft()
    return max(busy)


def aligned_zeros(count: int, dtype: np.dtype) -> Array:
    """An array that begins at a cache line."""
    memory = np.zeros(count * dtype.itemsize + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + count * dtype.itemsize].view(dtype)


def three_axes(shape: Axes) -> Axes:
    """The spatial axes of (N, C, ...), with leading axes of length 1."""
    return (1,) * (AXES + 2 - len(shape)) + shape[2:]


def by_group(x: Array, group: int) -> Array:
    """x (N, C, ...) as (N, group, channels of a group, pixels)."""
    return x.reshape(x.shape[0], group, x.shape[1] // group, math.prod(x.shape[2:]))


def weights_by_group(w: Array, group: int) -> Array:
    """w (M, C / group, *kernel) as (group, filters of a group, channels of a group, taps)."""
    return w.reshape(group, w.shape[0] // group, w.shape[1], math.prod(w.shape[2:]))


def grouped(problem: Problem, kernel: Solver) -> Solver:
    """The solver that hands its arrays to a kernel by group, and so with one number of axes, whatever the image has."""
    group = problem.group
    images, weights = functools.partial(by_group, group=group), functools.partial(weights_by_group, group=group)
    if problem.kind == FORWARD:
        return lambda x, w, bias, y, *rest: kernel(images(x), weights(w), bias.reshape(group, -1), images(y), *rest)
    if problem.kind == DATA_GRAD:
        return lambda dy, w, dx, *rest: kernel(images(dy), weights(w), images(dx), *rest)
    return lambda x, dy, dw, *rest: kernel(images(x), images(dy), weights(dw), *rest)


def then_bias_grad(weight_grad: Callable[..., None]) -> Solver:
    """The solver made of a function of (x, dy, dw, workspace, accumulate) that leaves the gradient of the bias out."""

    def solve(x: Array, dy: Array, dw: Array, dbias: Array, workspace: Array, accumulate: bool) -> None:
        weight_grad(x, dy, dw, workspace, accumulate)
        if dbias.size:
            add_channel_sums(dy, dbias)

    return solve
