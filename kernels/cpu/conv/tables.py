"""Where the pixels that a window reads lie in memory: the tables behind the convolutions.

An image is first copied into a *frame*: its channels with their padding, and, for a stride above 1, split into phases
so that pixels under neighbouring output positions are neighbours.  The pixel of tap q at position p then lies at
``taps[q] + positions[p]`` for every q and p, and im2col is a copy of runs.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.matmul.microkernel import PANEL
from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH
from minicaffe.kernels.window import Window

Axes = tuple[int, ...]
_MOST_IMAGES = 8  # small images share a panel with at most so many others


class Frame(NamedTuple):
    """The padded copy of a channel; sizes in elements, one entry for each of three axes.

    Of every ``step`` pixels along an axis the first ``phases`` are kept, each in a phase of its own.
    """

    pixels: Axes
    pad: Axes
    step: Axes
    phases: Axes
    size: Axes

    @property
    def channel(self) -> int:
        return math.prod(self.phases) * math.prod(self.size)

    @property
    def table(self) -> NDArray:
        """All of it as compiled code takes it: (5, 3)."""
        return np.array([self.pixels, self.pad, self.step, self.phases, self.size])

    @property
    def is_image(self) -> bool:
        """Whether the copy would be equal to the image."""
        return max(self.pad) == 0 and max(self.step) == 1

    def offsets(self, *coordinates: NDArray) -> NDArray:
        """Where the pixels at these coordinates (an array an axis, in raster order of all three) lie."""
        total = np.zeros((1, 1, 1), np.int64)
        for axis, at in enumerate(coordinates):
            within, outside = (
                math.prod(self.size[axis + 1 :]),
                math.prod(self.phases[axis + 1 :]) * math.prod(self.size),
            )
            place = at // self.step[axis] * within + at % self.step[axis] * outside
            total = total + np.expand_dims(place, tuple({0, 1, 2} - {axis}))
        return total.reshape(-1)


class Plan(NamedTuple):
    """One convolution: what is asked of it before it runs, and all of it as compiled code takes it."""

    channel: int
    """Elements of a channel's frame."""
    together: int
    """Images whose columns lie side by side."""
    panels: int
    """Panels that the columns of so many images fill."""
    table: NDArray
    """One array, which is handed over in a third of the time that its parts take; see ``from_table``."""


@kernel(internal=True)
def from_table(table):
    """The parts of a plan's ``table``; offsets and places are in bytes.

    The ``table`` of a channel's frame; whether images can be read where they are, since frames of them would be equal
    copies; ``channel``; ``together``; the offset of each tap of each channel; that of each output position; the index
    of each panel's first run, and one more entry for the number of runs; the runs that make up the columns: source
    offset, place in the panel's row, elements.  A run fills a register or, where that is too long, at most a chunk.
    """
    direct, channel, together, taps = table[0], table[1], table[2], table[3]
    positions, panels, runs = table[4], table[5], table[6]
    frame = table[7:22].reshape(5, 3)
    at_positions = 22 + taps
    at_panels = at_positions + positions
    at_runs = at_panels + panels
    return (
        frame,
        direct != 0,
        channel,
        together,
        table[22:at_positions],
        table[at_positions:at_panels],
        table[at_panels:at_runs],
        table[at_runs:].reshape(runs, 3),
    )


def by_group(x: NDArray, group: int) -> NDArray:
    """x (N, C, ...) as (N, group, channels of a group, pixels)."""
    return x.reshape(x.shape[0], group, x.shape[1] // group, math.prod(x.shape[2:]))


def weights_by_group(w: NDArray, group: int) -> NDArray:
    """w (M, C / group, *kernel) as (group, filters of a group, channels of a group, taps)."""
    return w.reshape(group, w.shape[0] // group, w.shape[1], math.prod(w.shape[2:]))


def _frame(pixels: Axes, window: Window, split: bool) -> Frame:
    step = window.stride if split else (1, 1, 1)
    phases = tuple(min(s, e) for s, e in zip(step, window.extent, strict=True))
    size = tuple(-(-(n + 2 * p) // s) for n, p, s in zip(pixels, window.pad, step, strict=True))
    return Frame(pixels, window.pad, step, phases, size)


def window_tables(
    pixels: Axes, out: Axes, window: Window, channels: int, split: bool
) -> tuple[Frame, NDArray, NDArray]:
    """The frame of a channel, and the offsets of the taps of all channels and of the output positions in it, in
    elements.
    """
    frame = _frame(pixels, window, split)
    taps = frame.offsets(*(np.arange(k) * d for k, d in zip(window.kernel, window.dilation, strict=True)))
    positions = frame.offsets(*(np.arange(n) * s for n, s in zip(out, window.stride, strict=True)))
    return frame, (np.arange(channels)[:, None] * frame.channel + taps).reshape(-1), positions


def _plan(frame: Frame, images: int, taps: NDArray, positions: NDArray, columns: NDArray, itemsize: int) -> Plan:
    width = PANEL // itemsize
    index = np.arange(columns.size)
    breaks = (index % width == 0) | (np.diff(columns, prepend=-2) != 1)
    first = np.maximum.accumulate(np.where(breaks, index, 0))
    last = np.append(np.flatnonzero(breaks), columns.size)[np.cumsum(breaks)]
    since = index - first
    wide = (
        (last - first) // (WIDTH // itemsize) * (WIDTH // itemsize)
    )  # what registers can take of each unbroken stretch
    starts = np.flatnonzero(since % np.where(since < wide, WIDTH // itemsize, CHUNK // itemsize) == 0)
    panels = np.searchsorted(starts, np.arange(-(-columns.size // width) + 1) * width)
    runs = np.stack(
        [columns[starts] * itemsize, starts % width * itemsize, np.diff(starts, append=columns.size)], axis=1
    )
    arrays = taps * itemsize, positions * itemsize, panels, runs
    sizes = [frame.is_image, frame.channel, images, *map(len, arrays)]
    table = np.concatenate([sizes, frame.table.reshape(-1), *(array.reshape(-1) for array in arrays)])
    return Plan(frame.channel, images, panels.size - 1, table)


def _images_together(positions: int, batch: int, itemsize: int) -> int:
    """How many images to put side by side so that few columns of their last panel stay empty."""

    def waste(images: int) -> float:
        columns = images * positions
        unit = WIDTH // itemsize if columns % (PANEL // itemsize) <= WIDTH // itemsize else PANEL // itemsize
        return -(-columns // unit) * unit / columns + 0.01 * images

    return min(range(1, max(1, min(batch, _MOST_IMAGES)) + 1), key=waste)


@functools.lru_cache(maxsize=1024)
def column_plan(channels: int, pixels: Axes, out: Axes, window: Window, batch: int, itemsize: int) -> Plan:
    """Panels whose columns are output positions: for the convolution itself and its data gradient."""
    frame, taps, positions = window_tables(pixels, out, window, channels, split=True)
    images = _images_together(math.prod(out), batch, itemsize)
    columns = np.arange(images)[:, None] * (channels * frame.channel) + positions
    return _plan(frame, images, taps, positions, columns.reshape(-1), itemsize)


@functools.lru_cache(maxsize=1024)
def row_plan(channels: int, pixels: Axes, out: Axes, window: Window, itemsize: int) -> Plan:
    """Panels whose columns are the taps of all channels: for the weight gradient."""
    frame, taps, positions = window_tables(pixels, out, window, channels, split=window.taps == 1)
    return _plan(frame, 1, taps, positions, taps, itemsize)
