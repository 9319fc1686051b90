"""Offset tables for the data gradient of a depthwise convolution.

Along an axis with stride s, a pixel of the padded image at p s + a has its gradient from the taps k with k d = a
modulo s alone: from the position p - (k d - a) / s for each.  So the pixels of one remainder a, a *phase*, are a
convolution of stride 1 over the gradients of the positions, with margins of zeros, by some of the taps.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv.problem import AXES, Axes, Problem, three_axes
from minicaffe.kernels.cpu.conv.tables import PaddedImage, window_tables

_ONES = (1,) * AXES


class GradientTables(NamedTuple):
    """Windows over the gradients of one channel's positions, as compiled code takes them; offsets in bytes."""

    layout: NDArray
    """The ``table`` of the gradients of a filter's positions with their margins."""
    channel: int
    """Elements of such an image."""
    planes_layout: NDArray
    """The ``table`` of the padded image of x, whose phases are planes."""
    planes_channel: int
    """Elements of it; 0 if pixels are written where they belong, since there is one phase."""
    phases: NDArray
    """For each phase the first of its taps, how many, the first of its rows, how many, and pixels in a row: (P, 5)."""
    taps: NDArray
    """Offset of each tap, of all filters of a channel."""
    order: NDArray
    """The place of its weight among those of the channel."""
    rows: NDArray
    """For each row, the offsets of the gradient at its first pixel, and of that pixel: (rows, 2)."""


class _Phase(NamedTuple):
    """Along one axis: the remainder, the places p of its pixels, and its taps with their distances."""

    remainder: int
    places: NDArray
    taps: NDArray
    distances: NDArray


def _phases(pixels: int, kernel: int, stride: int, pad: int, dilation: int) -> Iterator[_Phase]:
    taps = np.arange(kernel)
    for a in np.unique(taps * dilation % stride).tolist():
        places = np.arange(-((a - pad) // stride), (pixels - 1 + pad - a) // stride + 1)
        own = taps[taps * dilation % stride == a]
        if places.size:
            yield _Phase(a, places, own, (own * dilation - a) // stride)


@functools.lru_cache(maxsize=1024)
def gradient_tables(problem: Problem) -> GradientTables:
    """The tables of a problem's data gradient."""
    pixels, out = three_axes(problem.x_shape), three_axes(problem.y_shape)
    window, itemsize = problem.window.with_axes(AXES), problem.dtype.itemsize
    axes = [
        list(_phases(*of_axis))
        for of_axis in zip(pixels, window.kernel, window.stride, window.pad, window.dilation, strict=True)
    ]
    planes = window_tables(pixels, out, window, 1, split=True)[0]
    direct = max(window.stride) == 1
    margin = tuple((extent - 1) // stride for extent, stride in zip(window.extent, window.stride, strict=True))
    ends = tuple(max((int(phase.places[-1]) + 1 for phase in of_axis), default=0) for of_axis in axes)
    size = tuple(m + max(n, end) for m, n, end in zip(margin, out, ends, strict=True))
    gradients = PaddedImage(out, margin, _ONES, _ONES, size)
    phases, taps, order, rows = [], [], [], []
    for of_axes in itertools.product(*axes):
        own = gradients.offsets(*(-phase.distances for phase in of_axes))
        at = _raster(window.kernel, *(phase.taps for phase in of_axes))
        filters = np.arange(problem.filters)[:, None]
        starts = [phase.places if axis < AXES - 1 else phase.places[:1] for axis, phase in enumerate(of_axes)]
        sources = gradients.offsets(*(places + m for places, m in zip(starts, margin, strict=True)))
        padded = [
            places * stride + phase.remainder
            for places, phase, stride in zip(starts, of_axes, window.stride, strict=True)
        ]
        if direct:
            targets = _raster(pixels, *(at_axis - pad for at_axis, pad in zip(padded, window.pad, strict=True)))
        else:
            targets = planes.offsets(*padded)
        taps.append((filters * gradients.channel + own).reshape(-1))
        order.append((filters * window.taps + at).reshape(-1))
        rows.append(np.stack([sources, targets], axis=1))
        phases.append([taps[-1].size, targets.size, of_axes[-1].places.size])
    counts = np.array(phases, np.int64).reshape(-1, 3)
    first = np.cumsum(counts, axis=0) - counts
    table = np.stack([first[:, 0], counts[:, 0], first[:, 1], counts[:, 1], counts[:, 2]], axis=1)
    none = np.empty(0, np.int64)
    return GradientTables(
        gradients.table,
        gradients.channel,
        planes.table,
        0 if direct else planes.channel,
        table,
        np.concatenate([none, *taps]) * itemsize,
        np.concatenate([none, *order]),
        np.concatenate([none.reshape(0, 2), *rows]) * itemsize,
    )


def _raster(size: Axes, *coordinates: NDArray) -> NDArray:
    """The places of elements of an array of a size, in raster order."""
    total = np.zeros((1, 1, 1), np.int64)
    for axis, at in enumerate(coordinates):
        total = total + np.expand_dims(at * math.prod(size[axis + 1 :]), tuple({0, 1, 2} - {axis}))
    return total.reshape(-1)
