"""The gradient of few weights as inner products of rows: for images with few channels and long rows, as a net's first
ones are.

``implicit_gemm`` gathers the pixels under all weights into panels, which takes most of the time where there are so few weights
to multiply them with.  Here the lanes of a register are neighbouring pixels.  dy's rows are copied as far apart as the
image's, with zeros between them, so that all of them are one: its product with the image, moved by a tap, is the
gradient of that tap's weight.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from minicaffe.kernels.cpu.conv.im2col import AXES
from minicaffe.kernels.cpu.conv.packing import image_to_frame
from minicaffe.kernels.cpu.conv.problem import WEIGHTS, Problem, Way
from minicaffe.kernels.cpu.conv.tables import Axes, from_table, row_plan
from minicaffe.kernels.cpu.matmul.microkernel import L2, LONGEST_TILE, VECTORS
from minicaffe.kernels.cpu.runtime.address import align, size_of
from minicaffe.kernels.cpu.runtime.compile import callback, caller, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, queue_length, share
from minicaffe.kernels.cpu.runtime.threads import product_threads
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    FEATURES,
    WIDTH,
    copy_chunk,
    copy_row,
    fill_row,
    fma,
    get_vector,
    put_vector,
)
from minicaffe.kernels.cpu.simd.sums import add_sums_part, row_sum
from minicaffe.kernels.window import Window

_REGISTERS = 32 if FEATURES & {"avx512f", "neon"} else 16
_MOST_TAPS = 7
_MOVED = 0.25  # cycles to gather a number
_OVERHEAD = 2.5  # cycles for each step of a tile, beside its multiplications
_WORTH = 1.15  # times as fast must it be: the count of cycles is rough


def _filters_at_once(taps: int) -> int:
    """As many that the registers hold a sum for each tap of each, and what they are multiplied with."""
    return max(1, (_REGISTERS - taps) // (taps + 1))


@intrinsic(prefer_literal=True)
def _add_dots(context, filters, taps, registers, dy, filter_step, given, x, sums, like):
    """``sums[f, t] += dy[f] * x[t:]`` lane by lane, over some registers; of the ``filters`` those beyond ``given``
    repeat the last.
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
        begun = [get_vector(builder, place, kind, size) for place in places]
        end = builder.mul(registers, word(WIDTH))
        entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        at, totals = builder.phi(word), [builder.phi(kind) for _ in places]
        slopes = [get_vector(builder, builder.add(row, at), kind, size) for row in rows]
        pixels = [
            get_vector(builder, builder.add(builder.add(x, at), word(t * size)), kind, size) for t in range(window)
        ]
        results = [
            fma(builder, a, b, totals[f * window + t]) for f, a in enumerate(slopes) for t, b in enumerate(pixels)
        ]
        following = builder.add(at, word(WIDTH))
        for phi, first, then in [(at, word(0), following), *zip(totals, begun, results, strict=True)]:
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
    """The code behind ``_dot``, for windows of so many columns."""
    like, filters = dtype.type(0), _filters_at_once(taps)

    @callback(types.void(*[types.intp] * 6))
    def dots(registers, dy, filter_step, given, x, sums):
        _add_dots(filters, taps, registers, dy, filter_step, given, x, sums, like)

    return dots


@part_kernel()
def _add_images_part(part, parts, worker, code, x, dy, sizes, sums, slopes_sums, base, stride, like, plan):
    """Sums, lane by lane, over some images: sums (part, group, filters / at once, rows of weights, filter, tap, lane).

    And those of dy for the bias, if ``slopes_sums`` (part, group * filters) is not empty.
    """
    at_once, columns, row, window = sizes
    frame, _, channel, _, taps, _, _, _ = plan
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
    slopes = base + worker * stride
    slope_step = registers * WIDTH
    frames = slopes + m * slope_step
    own = sums[part].ctypes.data
    fill_row(own, like, sums.shape[1])
    fill_row(slopes, like, stride // size)
    totals = np.zeros(group * m)
    low, high = share(part, parts, n)
    whole = columns * size // CHUNK * CHUNK  # bytes of a row; most have no rest, which would be copied lane by lane
    for item in range(low * group, high * group):
        i, g = item // group, item % group
        image_to_frame(x[i, g].ctypes.data, frames, c, frame, like)
        for f in range(m):
            if slopes_sums.size > 0:
                totals[g * m + f] += row_sum(dy[i, g, f])
            source, target = dy[i, g, f].ctypes.data, slopes + f * slope_step
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
                    code, registers, slopes + first * slope_step, slope_step, min(at_once, m - first),
                    frames + taps[k * window], place,
                )  # fmt: skip
    if slopes_sums.size > 0:
        for f in range(group * m):
            slopes_sums[part, f] = totals[f]


@part_kernel()
def _add_lanes_part(part, parts, sums, at_once, dw, accumulate):
    """Add up the parts and the lanes of ``sums``, and what is in dw (group, filters, rows of weights, tap) if
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
def _weight_grad(code, sizes, count, stride, parts, threads, table, x, dy, dw, dbias, memory, accumulate):
    like, plan = dy.dtype.type(0), from_table(table)
    (group, m, c, taps), window, start = dw.shape, sizes[3], memory.ctypes.data
    slopes_sums = memory[: parts * dbias.size].reshape(parts, dbias.size)
    first = (align(start + slopes_sums.size * memory.itemsize) - start) // memory.itemsize
    sums = memory[first : first + parts * count].reshape(parts, count)
    base = align(start + (first + parts * count) * memory.itemsize)
    arguments = code, x, dy, sizes, sums, slopes_sums, base, stride, like, plan
    parallel_queue(_add_images_part, parts, threads, arguments)
    weights = dw.reshape(group, m, c * taps // window, window)
    parallel(_add_lanes_part, threads, (sums, sizes[0], weights, accumulate))
    if dbias.size:
        parallel(add_sums_part, 1, (slopes_sums, dbias))


# --- the op -------------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """What the gradient needs."""

    table: NDArray
    """The plan of its images."""
    sizes: tuple[int, int, int, int]
    """Filters of a tile; elements of a row of dy, of the image with its padding, and of the window."""
    area: int
    """Elements of scratch memory for each worker: dy of an image, the image, and room to align them."""
    sums: int
    """Elements of the sums of one part, lane by lane."""


@functools.lru_cache(maxsize=1024)
def _job(x_shape: Axes, y_shape: Axes, window: Window, group: int, itemsize: int) -> _Job | None:
    """None if inner products are not for it, or slower."""
    if not (
        len(x_shape) == 4
        and max(window.stride + window.dilation) == 1
        and 1 < window.kernel[1] <= _MOST_TAPS
        and min(x_shape + y_shape) > 0
    ):
        return None
    c, m, (rows, columns) = x_shape[1] // group, y_shape[1] // group, y_shape[2:]
    lanes, taps, at_once = WIDTH // itemsize, window.kernel[1], _filters_at_once(window.kernel[1])
    row, blocks, rows_of_weights = x_shape[3] + 2 * window.pad[1], -(-m // at_once), c * window.kernel[0]
    registers = -(-rows * row // lanes)
    sums = group * blocks * rows_of_weights * at_once * taps * lanes
    cycles = registers * (blocks * rows_of_weights * (at_once * taps / 2 + _OVERHEAD) + 2 * m)
    if sums * itemsize > L2 // 4 or _direct_cycles(rows * columns, rows_of_weights * taps, m, lanes) < _WORTH * cycles:
        return None
    plan = row_plan(c, (1, *x_shape[2:]), (1, rows, columns), window.with_axes(AXES), itemsize)
    area = m * registers * lanes + (-(-(plan.channel * c + taps) // lanes) + 2) * lanes
    return _Job(plan.table, (at_once, columns, row, taps), area, sums)


def _direct_cycles(positions: int, weights: int, m: int, lanes: int) -> float:
    """Roughly what ``implicit_gemm`` takes for an image and a group, with panels and tiles that are not full."""
    full, rest = divmod(-(-weights // lanes), VECTORS)
    last = VECTORS if rest > 2 else rest
    rows = -(-m // LONGEST_TILE) * LONGEST_TILE
    return positions * (rows * (full * VECTORS + last) / 2 + _MOVED * weights)


def workspace(x_shape: Axes, y_shape: Axes, window: Window, group: int) -> int:
    """Elements of scratch memory for as many threads as Numba can use."""
    needed = 0
    for itemsize in (4, 8):
        job = _job(x_shape, y_shape, window, group, itemsize)
        if job:
            threads = config.NUMBA_NUM_THREADS
            needed = max(needed, queue_length(threads) * (job.sums + y_shape[1]) + threads * job.area + 2 * 64)
    return needed


def way(problem: Problem) -> Way | None:
    """How to solve a problem, given arrays by group, if it is the gradient of weights and this is the fastest way."""
    kind, x_shape, y_shape, window, group, dtype, threads = problem
    job = _job(x_shape, y_shape, window, group, dtype.itemsize) if kind == WEIGHTS else None
    if job is None:
        return None
    threads = product_threads(math.prod(y_shape) * (x_shape[1] // group) * window.taps, threads)
    code, parts = _dots(window.kernel[1], dtype).address, min(x_shape[0], queue_length(threads))
    stride = job.area * dtype.itemsize
    return functools.partial(_weight_grad, code, job.sizes, job.sums, stride, parts, threads, job.table)
