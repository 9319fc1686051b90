"""Packing: pixels are moved between images, their padded copies (``tables``) and the panels of a product."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.address import load, quotient, size_of, store, word
from minicaffe.kernels.cpu.runtime.compile import called, kernel
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    WIDTH,
    add_chunk,
    copy_chunk,
    copy_part,
    copy_register,
    copy_row,
    copy_rows,
    fill_row,
    prefetch,
    prefetch_to_write,
)
from minicaffe.kernels.cpu.simd.pairs import join_rows, split_rows
from minicaffe.kernels.cpu.simd.rectify import add_rows

_AHEAD = 8  # rows to prefetch ahead
# NumPy's: Numba takes Python's for literals, and compiles for each
_IN, _OUT = np.bool_(False), np.bool_(True)
_NONE, _ONE = np.intp(0), np.intp(1)
_WORD = 8  # bytes


@kernel(inline=True)
def pad_image(image, padded, channels, layout, like):
    """Copy an image's channels (address ``image``) into the padded image (address ``padded``), whose padding is not
    touched.
    """
    _move_image(image, padded, channels, layout, _NONE, layout[0, 1], _IN, like)


@kernel(inline=True)
def pad_lines(image, padded, channels, layout, low, high, like):
    """Copy what is in lines [low, high) of each phase of the padded image, and nothing else, as ``pad_image`` does."""
    height, top, step = layout[0, 1], layout[1, 1], layout[2, 1]
    first, last = max(low * step - top, 0), min(high * step - top, height)
    _move_image(image, padded, channels, layout, first, last, _IN, like)


@kernel(inline=True)
def unpad_image(image, padded, channels, layout, like):
    """Copy a padded image back into the image; pixels that it does not keep become 0."""
    _move_image(image, padded, channels, layout, _NONE, layout[0, 1], _OUT, like)


@called
def _move_image(image, padded, channels, layout, low, high, outward, like):
    """Move rows [low, high) of each plane."""
    size = size_of(like)
    depth, height, width = layout[0, 0], layout[0, 1], layout[0, 2]  # an array's elements at once take long to compile
    front, top, left = layout[1, 0], layout[1, 1], layout[1, 2]
    d_step, h_step, w_step = layout[2, 0], layout[2, 1], layout[2, 2]
    d_phases, h_phases, w_phases = layout[3, 0], layout[3, 1], layout[3, 2]
    d_size, h_size, w_size = layout[4, 0], layout[4, 1], layout[4, 2]
    same_size = d_size * h_size * w_size == depth * height * width  # not if zeros follow
    if front + top + left == 0 and d_step * h_step * w_step == 1 and same_size and high - low == height:
        _move_rows(padded, _NONE, image, _NONE, _ONE, channels * depth * height * width, outward, like)
        return
    phase, row, line_row = d_size * h_size * w_size, width * size, w_size * size
    even_place, odd_place = (left % 2 * phase + left // 2) * size, ((left + 1) % 2 * phase + (left + 1) // 2) * size
    places = left, w_step, w_phases, phase
    for plane in range(channels * depth):
        c, d = plane // depth, plane % depth + front
        pixels = image + plane * height * row
        if outward and (d_phases < d_step or h_phases < h_step or w_phases < w_step):
            fill_row(pixels, like, height * width)
        if d % d_step >= d_phases:
            continue
        for p in range(h_phases):  # the rows of a phase are equally far apart
            first = low + (p - top - low) % h_step
            rows = -(-(high - first) // h_step)
            line = ((c * d_phases + d % d_step) * h_phases + p) * w_phases * phase
            line = padded + (line + (d // d_step * h_size + (first + top) // h_step) * w_size) * size
            outside = pixels + first * row
            if w_step == 1:
                _move_rows(line + left * size, line_row, outside, h_step * row, rows, width, outward, like)
            elif w_step == 2 and w_phases == 2:
                even, odd = line + even_place, line + odd_place
                if outward:
                    join_rows(even, odd, line_row, outside, h_step * row, rows, width, like)
                else:
                    split_rows(even, odd, line_row, outside, h_step * row, rows, width, like)
            else:
                for r in range(rows):
                    _move_strided(line + r * line_row, outside + r * h_step * row, width, places, outward, like)


@kernel(internal=True)
def _move_rows(inside, inside_row, outside, outside_row, rows, count, outward, like):
    target, target_row, source, source_row = inside, inside_row, outside, outside_row
    if outward:
        target, target_row, source, source_row = outside, outside_row, inside, inside_row
    copy_rows(target, target_row, source, source_row, rows, count, like)


@called
def _move_strided(inside, outside, width, places, outward, like):
    """A row, phase by phase; ``places`` are its padding, the step, how many phases are kept, and elements of one."""
    size = size_of(like)
    left, step, phases, phase = places
    for p in range(phases):
        first = (p - left) % step
        at = inside + (p * phase + (first + left) // step) * size
        for i in range(-(-(width - first) // step)):
            if outward:
                store(outside + (first + i * step) * size, load(at + i * size, like))
            else:
                store(at + i * size, load(outside + (first + i * step) * size, like))


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
            inside = panel + (r - low) * row + (column - first) * size
            _move_rows(inside, _NONE, outside, _NONE, _ONE, count, outward, like)
        column += count


@kernel(internal=True)
def add_panel_to_columns(code, panel, row, y, places, low, high, first, last, slope, like):
    """Add a panel to rows [low, high) and columns [first, last), and rectify the sums as ``add_rows`` does."""
    size = size_of(like)
    first_image, g, group, m, positions = places
    column = first
    while column < last:
        i, p = column // positions, column % positions
        count = min(positions - p, last - column)
        outside = y + ((((first_image + i) * group + g) * m + low) * positions + p) * size
        add_rows(code, outside, positions * size, panel + (column - first) * size, row, high - low, count, slope)
        column += count


@called
def gather(panel, row, padded, offsets, runs, like):
    """im2col of one panel, whose rows are ``row`` bytes long: row i holds the runs of pixels at ``offsets[i]``.

    It goes run by run, each for all rows.  A short run is copied as a whole chunk, whose excess the next run
    overwrites; but what lies behind the end of the row must not be touched.  If the runs make up an unbroken piece of
    memory it is copied as one, and the next piece, which the next panel will need, is prefetched.
    """
    size, rows, taps, run = size_of(like), offsets.size, offsets.ctypes.data, runs.ctypes.data
    last = run + (len(runs) - 1) * 3 * _WORD
    source, place = word(run), word(run + _WORD)
    if word(last) - source == word(last + _WORD) - place:
        count = word(last + _WORD) - place + word(last + 2 * _WORD) * size
        for i in range(rows):
            at = padded + source + word(taps + i * _WORD)
            copy_row(panel + place + i * row, at, quotient(count, size), like)
            for line in range(0, count, 64):
                prefetch(at + count + line)
        return
    for j in range(len(runs)):
        this = run + j * 3 * _WORD
        source, place, count = padded + word(this), word(this + _WORD), word(this + 2 * _WORD)
        target = panel + place
        if count * size == WIDTH:
            for i in range(rows):
                copy_register(target + i * row, source + word(taps + i * _WORD), like)
        elif place + CHUNK <= row:
            for i in range(rows):
                copy_chunk(target + i * row, source + word(taps + i * _WORD), like)
        else:
            for i in range(rows):
                copy_part(target + i * row, source + word(taps + i * _WORD), count, like)


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
