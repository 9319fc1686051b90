"""Offset tables: where the pixels under a window lie in memory.

An image is first copied into a *padded image*: its channels with their padding and, for a stride above 1, split into
phases, so that pixels under neighbouring output positions are neighbours.  The pixel under tap q at position p is then
at ``taps[q] + positions[p]`` for every q and p, and im2col copies runs of neighbouring pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv.problem import Axes
from minicaffe.kernels.cpu.matmul.microkernel import PANEL
from minicaffe.kernels.cpu.runtime.address import array_at, word_rows, words
from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH
from minicaffe.kernels.window import Window

_WORD = 8  # bytes
_MOST_IMAGES = 8  # at most so many small images share a panel


class PaddedImage(NamedTuple):
    """The layout of the padded copy of a channel; sizes in elements, one entry for each of three axes.

    Of every ``step`` pixels along an axis the first ``phases`` are kept, each in a phase of its own.
    """

    pixels: Axes
    pad: Axes
    step: Axes
    phases: Axes
    size: Axes

    @property
    def channel(self) -> int:
        """Elements of a channel."""
        return math.prod(self.phases) * math.prod(self.size)

    @property
    def table(self) -> NDArray:
        """The layout as compiled code takes it: (5, 3)."""
        return np.array([self.pixels, self.pad, self.step, self.phases, self.size])

    @property
    def is_image(self) -> bool:
        """Whether the copy would be equal to the image."""
        return max(self.pad) == 0 and max(self.step) == 1

    def offsets(self, *coordinates: NDArray) -> NDArray:
        """Offsets of the pixels at these coordinates: an array for each axis; the result is in raster order."""
        total = np.zeros(1, np.int64)
        for axis, at in enumerate(coordinates):
            step, within = self.step[axis], math.prod(self.size[axis + 1 :])
            if step == 1:
                place = at * within
            else:
                outside = math.prod(self.phases[axis + 1 :]) * math.prod(self.size)
                place = at // step * within + at % step * outside
            total = np.add.outer(total, place).reshape(-1)
        return total


class Tables:
    """The tables of a matrix product whose panels are gathered from padded images.

    ``channel`` is the number of elements of a channel of a padded image, ``together`` that of images whose columns lie
    side by side, ``columns`` how many columns they have, ``panels`` how many panels these fill, and ``padded`` whether
    images are copied at all: they are not where each row of a panel is an unbroken piece of one.  Where a panel is
    ``in_lines``, it needs only some lines of the image's phases: each row of positions its own and those ``below``.
    """

    def __init__(
        self,
        image: PaddedImage,
        window: Window,
        together: int,
        columns: int,
        itemsize: int,
        pack: Callable[[], NDArray],
    ):
        self.channel, self.together, self.columns = image.channel, together, columns
        self.padded = not (image.is_image and window.taps == 1 and together == 1)
        self.in_lines = together == 1 and image.phases[0] * image.size[0] == 1
        self.below = (window.extent[1] - 1) // image.step[1]
        self.panels = -(-columns // (PANEL // itemsize))
        self._pack = pack

    @functools.cached_property
    def packed(self) -> NDArray:
        """All of it in one array, which is passed in a third of the time that its parts take; see ``unpack``.

        It is made for the algorithm that is chosen: the others' only tell how much memory they would take.
        """
        return self._pack()


@kernel(internal=True)
def unpack(packed):
    """The parts of ``Tables.packed``; offsets and places are in bytes.

    They are the ``table`` of the padded image; whether images can be read in place, since their padded copies would be
    equal to them; ``channel``; ``together``; the offset of each tap of each channel; that of each output position; the
    index of each panel's first run, and finally the number of runs; the runs that make up the columns: source offset,
    place in the panel's row, elements.  Of a stretch of neighbouring pixels, a run takes a register or, at its end, at
    most a chunk.
    """
    in_place, channel, together, taps = packed[0], packed[1], packed[2], packed[3]
    positions, panels, runs = packed[4], packed[5], packed[6]
    at = packed.ctypes.data
    at_taps = at + 22 * _WORD
    at_positions = at_taps + taps * _WORD
    at_panels = at_positions + positions * _WORD
    return (
        word_rows(at + 7 * _WORD, 5, 3),
        in_place != 0,
        channel,
        together,
        words(at_taps, taps),
        words(at_positions, positions),
        words(at_panels, panels),
        word_rows(at_panels + panels * _WORD, runs, 3),
    )


@intrinsic
def some_of(context, table, first, count):
    """``table[first : first + count]`` of a table of words or of rows of them."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(table)(context, builder, arguments[0])
        rest = cgutils.unpack_tuple(builder, array.shape)[1:]
        step = functools.reduce(builder.mul, rest, arguments[1])
        return array_at(context, builder, table, builder.gep(array.data, [step]), [arguments[2], *rest])

    return table(table, types.intp, types.intp), generate


@kernel(inline=True)
def runs_of(panel, panels, runs):
    """The runs that make up a panel's columns, of ``panels`` and ``runs`` that ``unpack`` gives."""
    return some_of(runs, panels[panel], panels[panel + 1] - panels[panel])


@kernel(inline=True)
def is_padded(layout):
    """Whether there is padding around the image of a ``layout`` that ``unpack`` gives."""
    return layout[1, 0] + layout[1, 1] + layout[1, 2] > 0


def _padded_image(pixels: Axes, window: Window, split: bool) -> PaddedImage:
    step = window.stride if split else (1, 1, 1)
    phases = tuple(min(s, e) for s, e in zip(step, window.extent, strict=True))
    size = tuple(-(-(n + 2 * p) // s) for n, p, s in zip(pixels, window.pad, step, strict=True))
    return PaddedImage(pixels, window.pad, step, phases, size)


def window_tables(
    pixels: Axes, out: Axes, window: Window, channels: int, split: bool
) -> tuple[PaddedImage, NDArray, NDArray]:
    """The padded image of a channel, and the offsets in it, in elements, of the taps of all channels and of the output
    positions.
    """
    image = _padded_image(pixels, window, split)
    taps = image.offsets(*(np.arange(k) * d for k, d in zip(window.kernel, window.dilation, strict=True)))
    positions = image.offsets(*(np.arange(n) * s for n, s in zip(out, window.stride, strict=True)))
    return image, (np.arange(channels)[:, None] * image.channel + taps).reshape(-1), positions


def _packed(
    image: PaddedImage, images: int, taps: NDArray, positions: NDArray, columns: NDArray, itemsize: int
) -> NDArray:
    width, register, chunk = PANEL // itemsize, WIDTH // itemsize, CHUNK // itemsize
    breaks = np.ones(columns.size + 1, bool)
    np.not_equal(columns[1:] - columns[:-1], 1, out=breaks[1:-1])
    breaks[:-1:width] = True
    stretches = np.flatnonzero(breaks)  # where each unbroken one begins, and the end of the last
    lengths = stretches[1:] - stretches[:-1]
    registers = lengths // register
    counts = registers - (registers * register - lengths) // chunk  # whole registers, then what is left in chunks
    ends = np.cumsum(counts)
    order = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    whole = np.repeat(registers, counts)
    starts = np.repeat(stretches[:-1], counts) + np.minimum(order, whole) * register
    starts += np.maximum(order - whole, 0) * chunk
    panels = np.searchsorted(starts, np.arange(-(-columns.size // width) + 1) * width)
    runs = np.empty((len(starts), 3), np.int64)
    np.multiply(columns[starts], itemsize, out=runs[:, 0])
    np.multiply(starts % width, itemsize, out=runs[:, 1])
    np.subtract(starts[1:], starts[:-1], out=runs[:-1, 2])
    runs[-1:, 2] = columns.size - starts[-1:]
    arrays = taps * itemsize, positions * itemsize, panels, runs
    sizes = [image.is_image, image.channel, images, *map(len, arrays)]
    return np.concatenate([sizes, image.table.reshape(-1), *(array.reshape(-1) for array in arrays)])


def _images_together(positions: int, batch: int, itemsize: int) -> int:
    """How many images to put side by side so that few columns of their last panel stay empty."""

    def waste(images: int) -> float:
        columns = images * positions
        unit = WIDTH // itemsize if columns % (PANEL // itemsize) <= WIDTH // itemsize else PANEL // itemsize
        return -(-columns // unit) * unit / columns + 0.01 * images

    return min(range(1, max(1, min(batch, _MOST_IMAGES)) + 1), key=waste)


@functools.lru_cache(maxsize=1024)
def position_columns(channels: int, pixels: Axes, out: Axes, window: Window, batch: int, itemsize: int) -> Tables:
    """Panels whose columns are output positions: for the convolution itself and its data gradient."""
    count = math.prod(out)
    images = _images_together(count, batch, itemsize)

    def pack() -> NDArray:
        image, taps, positions = window_tables(pixels, out, window, channels, split=True)
        columns = np.arange(images)[:, None] * (channels * image.channel) + positions
        return _packed(image, images, taps, positions, columns.reshape(-1), itemsize)

    return Tables(_padded_image(pixels, window, split=True), window, images, images * count, itemsize, pack)


@functools.lru_cache(maxsize=1024)
def tap_columns(channels: int, pixels: Axes, out: Axes, window: Window, itemsize: int) -> Tables:
    """Panels whose columns are the taps of all channels: for the weight gradient."""
    split = window.taps == 1

    def pack() -> NDArray:
        image, taps, positions = window_tables(pixels, out, window, channels, split)
        return _packed(image, 1, taps, positions, taps, itemsize)

    return Tables(_padded_image(pixels, window, split), window, 1, channels * window.taps, itemsize, pack)
