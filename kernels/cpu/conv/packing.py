"""Packing: pixels are moved between images, their padded copies (``tables``) and the panels of a product."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.address import load, size_of, store
from minicaffe.kernels.cpu.runtime.compile import called, kernel
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    WIDTH,
    add_chunk,
    copy_chunk,
    copy_part,
    copy_register,
    copy_row,
    fill_row,
    prefetch,
    prefetch_to_write,
)
from minicaffe.kernels.cpu.simd.pairs import join_row, split_row

_AHEAD = 8  # rows to prefetch ahead
_IN, _OUT = np.bool_(False), np.bool_(True)  # NumPy's: Numba takes Python's for literals, and compiles for each


@kernel(inline=True)
def pad_image(image, padded, channels, layout, like):
    """Copy an image's channels (address ``image``) into the padded image (address ``padded``), whose padding is not
    touched.
    """
    _move_image(image, padded, channels, layout, _IN, like)


@kernel(inline=True)
def unpad_image(image, padded, channels, layout, like):
    """Copy a padded image back into the image; pixels that it does not keep become 0."""
    _move_image(image, padded, channels, layout, _OUT, like)


@called
def _move_image(image, padded, channels, layout, outward, like):
    size = size_of(like)
    depth, height, width = layout[0]
    front, top, left = layout[1]
    d_step, h_step, w_step = layout[2]
    d_phases, h_phases, w_phases = layout[3]
    d_size, h_size, w_size = layout[4]
    if front + top + left == 0 and d_step * h_step * w_step == 1:
        _move_row(padded, image, channels * depth * height * width, outward, like)
        return
    phase = d_size * h_size * w_size
    first_line, second_line = left % w_step * phase + left // w_step, (left + 1) % w_step * phase + (left + 1) // w_step
    for c in range(channels):
        d_phase, d_place = front % d_step, front // d_step  # counted on: a division takes as long as a short row
        for z in range(depth):
            h_phase, h_place = top % h_step, top // h_step
            for y in range(height):
                pixels = image + ((c * depth + z) * height + y) * width * size
                kept = d_phase < d_phases and h_phase < h_phases
                if outward and (not kept or w_phases < w_step):
                    fill_row(pixels, like, width)
                if kept:
                    line = ((c * d_phases + d_phase) * h_phases + h_phase) * w_phases * phase
                    line = padded + (line + (d_place * h_size + h_place) * w_size) * size
                    if w_step == 1:
                        _move_row(line + left * size, pixels, width, outward, like)
                    elif w_step == 2 and w_phases == 2:
                        _move_pairs(line + first_line * size, line + second_line * size, pixels, width, outward, like)
                    else:
                        for p in range(w_phases):
                            first = (p - left) % w_step
                            inside = line + (p * phase + (first + left) // w_step) * size
                            _move_strided(
                                inside, pixels + first * size, -(-(width - first) // w_step), w_step, outward, like
                            )
                h_phase += 1
                if h_phase == h_step:
                    h_phase, h_place = 0, h_place + 1
            d_phase += 1
            if d_phase == d_step:
                d_phase, d_place = 0, d_place + 1


@kernel(internal=True)
def _move_row(inside, outside, count, outward, like):
    if outward:
        copy_row(outside, inside, count, like)
    else:
        copy_row(inside, outside, count, like)


@kernel(internal=True)
def _move_pairs(first, second, outside, count, outward, like):
    if outward:
        join_row(first, second, outside, count, like)
    else:
        split_row(first, second, outside, count, like)


@kernel(internal=True)
def _move_strided(inside, outside, count, step, outward, like):
    size = size_of(like)
    for i in range(count):
        if outward:
            store(outside + i * step * size, load(inside + i * size, like))
        else:
            store(inside + i * size, load(outside + i * step * size, like))


@kernel(inline=True)
def columns_to_panel(panel, row, y, places, low, high, first, last, like):
    """Copy rows [low, high) and columns [first, last) of y (N, group, m, positions), from some image on, into a panel.

    ``places`` holds the first image, the group, the number of groups, m and the number of positions.
    """
    _move_columns(panel, row, y, places, low, high, first, last, _IN, like)


@kernel(inline=True)
def panel_to_columns(panel, row, y, places, low, high, first, last, like):
    """Copy a panel back to rows [low, high) and columns [first, last)."""
    _move_columns(panel, row, y, places, low, high, first, last, _OUT, like)


@called
def _move_columns(panel, row, y, places, low, high, first, last, outward, like):
    size = size_of(like)
    first_image, g, group, m, positions = places
    column = first
    while column < last:
        i, p = column // positions, column % positions
        count = min(positions - p, last - column)
        for r in range(low, high):
            outside = y + ((((first_image + i) * group + g) * m + r) * positions + p) * size
            if outward:  # rows are too far apart for the hardware to prefetch the next one
                for line in range(0, count * size, 64):
                    prefetch_to_write(outside + _AHEAD * positions * size + line)
            _move_row(panel + (r - low) * row + (column - first) * size, outside, count, outward, like)
        column += count


@called
def gather(panel, row, padded, offsets, runs, like):
    """im2col of one panel, whose rows are ``row`` bytes long: row i holds the runs of pixels at ``offsets[i]``.

    It goes run by run, each for all rows.  A short run is copied as a whole chunk, whose excess the next run
    overwrites; but what lies behind the end of the row must not be touched.  If the runs make up an unbroken piece of
    memory it is copied as one, and the next piece, which the next panel will need, is prefetched.
    """
    size, last = size_of(like), len(runs) - 1
    if runs[last, 0] - runs[0, 0] == runs[last, 1] - runs[0, 1]:
        source, target, count = (
            padded + runs[0, 0],
            panel + runs[0, 1],
            runs[last, 1] - runs[0, 1] + runs[last, 2] * size,
        )
        for i in range(offsets.size):
            copy_row(target + i * row, source + offsets[i], count // size, like)
            for line in range(0, count, 64):
                prefetch(source + offsets[i] + count + line)
        return
    for j in range(len(runs)):
        source, target, count = padded + runs[j, 0], panel + runs[j, 1], runs[j, 2]
        if count * size == WIDTH:
            for i in range(offsets.size):
                copy_register(target + i * row, source + offsets[i], like)
        elif runs[j, 1] + CHUNK <= row:
            for i in range(offsets.size):
                copy_chunk(target + i * row, source + offsets[i], like)
        else:
            for i in range(offsets.size):
                copy_part(target + i * row, source + offsets[i], count, like)


@called
def scatter(padded, product, row, offsets, runs, like):
    """col2im of one panel: add the rows of a product, ``row`` bytes each, to the pixels that ``gather`` would read."""
    size = size_of(like)
    for j in range(len(runs)):
        for chunk in range(0, runs[j, 2] * size, CHUNK):
            target, source, count = (
                padded + runs[j, 0] + chunk,
                product + runs[j, 1] + chunk,
                runs[j, 2] - chunk // size,
            )
            for i in range(offsets.size):
                add_chunk(target + offsets[i], source + i * row, count, like)
