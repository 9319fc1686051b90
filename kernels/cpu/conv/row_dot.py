"""The weight gradient as inner products of rows: for few filters of few channels and long rows, as in a net's first
layers.

``implicit_gemm`` gathers the pixels under all taps into panels, which takes most of the time where there are few
filters to multiply them with.  Here the lanes of a register are neighbouring pixels.  The rows of dy are copied as far
apart as those of the padded image, with zeros between them, so that together they are one long row: its inner product
with the image, shifted by a tap, is the gradient of that tap's weight.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.conv.packing import pad_image
from minicaffe.kernels.cpu.conv.problem import AXES, WEIGHT_GRAD, Problem, Solver, grouped, three_axes
from minicaffe.kernels.cpu.conv.tables import Tables, tap_columns, unpack
from minicaffe.kernels.cpu.matmul.microkernel import L2
from minicaffe.kernels.cpu.runtime.address import align, size_of
from minicaffe.kernels.cpu.runtime.compile import callback, caller, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, queue_length, share
from minicaffe.kernels.cpu.runtime.threads import product_threads
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    REGISTERS,
    WIDTH,
    copy_chunk,
    copy_row,
    fill_row,
    fma,
    get_vector,
    put_vector,
)
from minicaffe.kernels.cpu.simd.sums import add_partial_sums_part, row_sum

_MOST_TAPS = 7
_MULTIPLICATIONS_PER_CYCLE = 32  # of the inner loop at its best
_OVERHEAD = 2.5  # cycles of a step of the inner loop beside its multiplications


def _filters_at_once(taps: int) -> int:
    """As many filters as leave registers for a sum for each tap of each of them, and for the factors."""
    return max(1, (REGISTERS - taps) // (taps + 1))


@intrinsic(prefer_literal=True)
def _add_dots(context, filters, taps, registers, dy, filter_step, given, x, sums, like):
    """``sums[f, t] += dy[f] * x[t:]`` lane by lane, over so many registers; filters beyond the ``given`` ones repeat
    the last of these.
    """
    count, window = filters.literal_value, taps.literal_value

    def generate(context, builder, signature, arguments):
        registers, dy, filter_step, given, x, sums, _ = arguments[2:]
        size, word = like.bitwidth // 8, registers.type
        kind = ir.VectorType(context.get_value_type(like), WIDTH // size)
        places = [builder.add(sums, word(i * WIDTH)) for i in range(count * window)]
        last = builder.sub(given, word(1))
        numbers = [builder.select(builder.icmp_signed("<", word(f), given), word(f), last) for f in range(count)]
        rows = [builder.add(dy, builder.mul(number, filter_step)) for number in numbers]
        initial = [get_vector(builder, place, kind, size) for place in places]
        end = builder.mul(registers, word(WIDTH))
        entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        at, totals = builder.phi(word), [builder.phi(kind) for _ in places]
        gradients = [get_vector(builder, builder.add(row, at), kind, size) for row in rows]
        pixels = [
            get_vector(builder, builder.add(builder.add(x, at), word(t * size)), kind, size) for t in range(window)
        ]
        results = [
            fma(builder, a, b, totals[f * window + t]) for f, a in enumerate(gradients) for t, b in enumerate(pixels)
        ]
        following = builder.add(at, word(WIDTH))
        for phi, first, then in [(at, word(0), following), *zip(totals, initial, results, strict=True)]:
            phi.add_incoming(first, entry)
            phi.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", following, end), loop, done)

        builder.position_at_end(done)
        for place, result in zip(places, results, strict=True):
            put_vector(builder, result, place, size)
        return context.get_dummy_value()

    return types.void(filters, taps, *[types.intp] * 6, like), generate


_dot = caller("registers", "dy", "filter_step", "given", "x", "sums")


@functools.cache
def _dots(taps: int, dtype: np.dtype) -> Any:
    """The code behind ``_dot`` for a window of so many columns."""
    like, filters = dtype.type(0), _filters_at_once(taps)

    @callback(types.void(*[types.intp] * 6))
    def dots(registers, dy, filter_step, given, x, sums):
        _add_dots(filters, taps, registers, dy, filter_step, given, x, sums, like)

    return dots


@part_kernel()
def _add_images_part(part, parts, worker, code, x, dy, sizes, sums, dy_sums, base, scratch_per_worker, like, tables):
    """Sums over some of the images, lane by lane: sums (part, group, block of filters, rows of weights, filter, tap,
    lane).

    If ``dy_sums`` (part, group * filters) is not empty, dy is summed for the bias, too.
    """
    at_once, columns, row, window = sizes
    layout, _, channel, _, taps, _, _, _ = tables
    size = size_of(like)
    n, group, c, _ = x.shape
    m, positions = dy.shape[2:]
    blocks, rows_of_weights, rows, tile = (
        -(-m // at_once),
        taps.size // window,
        positions // columns,
        at_once * window * WIDTH,
    )
    registers = -(-rows * row * size // WIDTH)
    spread = base + worker * scratch_per_worker
    spread_step = registers * WIDTH
    padded = spread + m * spread_step
    own = sums[part].ctypes.data
    fill_row(own, like, sums.shape[1])
    fill_row(spread, like, scratch_per_worker // size)
    totals = np.zeros(group * m)
    low, high = share(part, parts, n)
    whole = columns * size // CHUNK * CHUNK  # bytes of a row in whole chunks, mostly all of it
    for item in range(low * group, high * group):
        i, g = item // group, item % group
        pad_image(x[i, g].ctypes.data, padded, c, layout, like)
        for f in range(m):
            if dy_sums.size > 0:
                totals[g * m + f] += row_sum(dy[i, g, f])
            source, target = dy[i, g, f].ctypes.data, spread + f * spread_step
            for _ in range(rows):
                for j in range(0, whole, CHUNK):
                    copy_chunk(target + j, source + j, like)
                if whole < columns * size:
                    copy_row(target + whole, source + whole, columns - whole // size, like)
                source, target = source + columns * size, target + row * size
        for block in range(blocks):
            first = block * at_once
            for k in range(rows_of_weights):
                place = own + ((g * blocks + block) * rows_of_weights + k) * tile
                _dot(
                    code, registers, spread + first * spread_step, spread_step, min(at_once, m - first),
                    padded + taps[k * window], place,
                )  # fmt: skip
    if dy_sums.size > 0:
        for f in range(group * m):
            dy_sums[part, f] = totals[f]


@part_kernel()
def _add_lanes_part(part, parts, sums, at_once, dw, accumulate):
    """Add up the parts and the lanes of ``sums`` into dw (group, filters, rows of weights, tap), and what it holds if
    ``accumulate``.
    """
    group, m, rows_of_weights, window = dw.shape
    blocks, lanes = -(-m // at_once), WIDTH // dw.itemsize
    low, high = share(part, parts, sums.shape[1] // lanes)
    for item in range(low, high):
        tile, weight = item // (at_once * window), item % (at_once * window)
        k, f = tile % rows_of_weights, tile // rows_of_weights % blocks * at_once + weight // window
        g, t = tile // (rows_of_weights * blocks), weight % window
        if f < m:
            total = np.float64(dw[g, f, k, t] if accumulate else 0)
            for i in range(len(sums)):
                total += row_sum(sums[i, item * lanes : (item + 1) * lanes])
            dw[g, f, k, t] = total


@kernel()
def _weight_grad(code, sizes, count, scratch_per_worker, parts, threads, packed, x, dy, dw, dbias, memory, accumulate):
    like, tables = dy.dtype.type(0), unpack(packed)
    (group, m, c, taps), window, start = dw.shape, sizes[3], memory.ctypes.data
    dy_sums = memory[: parts * dbias.size].reshape(parts, dbias.size)
    first = (align(start + dy_sums.size * memory.itemsize) - start) // memory.itemsize
    sums = memory[first : first + parts * count].reshape(parts, count)
    base = align(start + (first + parts * count) * memory.itemsize)
    arguments = code, x, dy, sizes, sums, dy_sums, base, scratch_per_worker, like, tables
    parallel_queue(_add_images_part, parts, threads, arguments)
    weights = dw.reshape(group, m, c * taps // window, window)
    parallel(_add_lanes_part, threads, (sums, sizes[0], weights, accumulate))
    if dbias.size:
        parallel(add_partial_sums_part, 1, (dy_sums, dbias))


# --- the algorithm ------------------------------------------------------------------------------------------------


class _Config(NamedTuple):
    """What the kernel needs for a convolution."""

    tables: Tables
    """Those of the padded image."""
    sizes: tuple[int, int, int, int]
    """Filters at once; elements of a row of dy, of the padded image, and of the window."""
    scratch_per_worker: int
    """In elements: dy and the padded image, and room to align them."""
    sums: int
    """Elements of the sums of one part, lane by lane."""
    cycles: float
    """For an image and a group."""


def cycles(problem: Problem) -> float | None:
    """See ``Algorithm``."""
    config = _config(problem)
    return config and problem.x_shape[0] * problem.group * config.cycles


def workspace(problem: Problem) -> int:
    """See ``Algorithm``."""
    config = _config(problem)
    if config is None:
        return 0
    sums = queue_length(problem.threads) * (config.sums + problem.y_shape[1])
    return sums + problem.threads * config.scratch_per_worker + 2 * 64


def bind(problem: Problem) -> Solver:
    """See ``Algorithm``."""
    config = _config(problem)
    assert config is not None
    threads = product_threads(problem.multiplications, problem.threads)
    parts = min(problem.x_shape[0], queue_length(threads))
    code = _dots(problem.window.kernel[1], problem.dtype).address
    scratch_per_worker = config.scratch_per_worker * problem.dtype.itemsize
    arguments = code, config.sizes, config.sums, scratch_per_worker, parts, threads, config.tables.packed
    return grouped(problem, functools.partial(_weight_grad, *arguments))


def _config(problem: Problem) -> _Config | None:
    return _shape_config(problem._replace(threads=1)) if problem.kind == WEIGHT_GRAD else None


@functools.lru_cache(maxsize=1024)
def _shape_config(problem: Problem) -> _Config | None:
    """None if it is not a gradient that the kernel computes."""
    x_shape, y_shape, window, itemsize = problem.x_shape, problem.y_shape, problem.window, problem.dtype.itemsize
    if not (
        len(x_shape) == 4
        and max(window.stride + window.dilation) == 1
        and 1 < window.kernel[1] <= _MOST_TAPS
        and min(x_shape + y_shape) > 0
    ):
        return None
    c, m, (rows, columns) = problem.channels, problem.filters, y_shape[2:]
    lanes, taps, at_once = WIDTH // itemsize, window.kernel[1], _filters_at_once(window.kernel[1])
    row, blocks, rows_of_weights = x_shape[3] + 2 * window.pad[1], -(-m // at_once), c * window.kernel[0]
    registers = -(-rows * row // lanes)
    sums = problem.group * blocks * rows_of_weights * at_once * taps * lanes
    if sums * itemsize > L2 // 4:
        return None
    step = at_once * taps * lanes / _MULTIPLICATIONS_PER_CYCLE + _OVERHEAD
    tables = tap_columns(c, three_axes(x_shape), three_axes(y_shape), window.with_axes(AXES), itemsize)
    return _Config(
        tables,
        (at_once, columns, row, taps),
        scratch_per_worker=m * registers * lanes + (-(-(tables.channel * c + taps) // lanes) + 2) * lanes,
        sums=sums,
        cycles=registers * (blocks * rows_of_weights * step + 2 * m),
    )
