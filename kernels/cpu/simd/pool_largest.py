"""The largest pixels of windows, without their places: first down the columns of an image, then along what that gives.

Addresses and distances are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite.ir import IRBuilder
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.simd.memory import get_vector, put_first, put_vector
from minicaffe.kernels.cpu.simd.pool_windows import Lanes, repeat


def _larger(builder: IRBuilder, best: Any, pixels: Any) -> Any:
    """Code for the larger of two vectors; NaN is larger than all numbers."""
    larger = builder.select(builder.fcmp_ordered(">", pixels, best), pixels, best)
    return builder.select(builder.fcmp_unordered("uno", pixels, pixels), pixels, larger)


@intrinsic
def largest_down(context, target, x, row, rows, count, least):
    """The largest above ``least`` of each of the first ``count`` columns, at most a register, of ``rows`` rows of x,
    which are ``row`` bytes apart.  A whole register is written to ``target``, ``least`` in all other lanes.
    """

    def generate(context, builder, signature, arguments):
        target, x, row, rows, count, start = arguments
        size = least.bitwidth // 8
        lanes = Lanes(builder, start.type, size, 1)
        other = lanes.splat(start)
        best = cgutils.alloca_once(builder, lanes.numbers)

        def take_rows(get):
            builder.store(other, best)
            with cgutils.for_range(builder, rows) as loop:
                pixels = get(builder.add(x, builder.mul(loop.index, row)))
                builder.store(_larger(builder, builder.load(best), pixels), best)

        with builder.if_else(builder.icmp_signed(">=", count, count.type(lanes.count))) as (whole, part):
            with whole:
                take_rows(lambda line: get_vector(builder, line, lanes.numbers, size))
            with part:
                take_rows(lambda line: lanes.read(line, count.type(0), count, other))
        put_vector(builder, builder.load(best), target, size)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5, least), generate


@intrinsic
def largest_along(context, y, line, taps, stride, width, count, least, known_taps, known_stride):
    """The largest of ``taps`` neighbours along a line of ``width`` pixels, at the first place and at each a stride
    later; the first ``count``, at most a register, are written to y.

    A ``known_stride`` promises that the line goes on for twice a register and the taps.
    """

    def generate(context, builder, signature, arguments):
        y, line, taps, stride, width, count, start, _, _ = arguments
        size = least.bitwidth // 8
        step, taps = known_stride.count or stride, known_taps.count or taps
        end = None if known_stride.count else width
        lanes = Lanes(builder, start.type, size, step)
        best = cgutils.alloca_once(builder, lanes.numbers)
        builder.store(lanes.splat(start), best)

        def take_from(tap):
            at = width.type(tap) if isinstance(tap, int) else tap
            for more, pixels in enumerate(lanes.read_taps(line, at, end, lanes.splat(start))):
                if more == 0 or tap + more < taps:
                    builder.store(_larger(builder, builder.load(best), pixels), best)

        repeat(builder, taps, take_from, lanes.taps_at_a_time)
        with builder.if_else(builder.icmp_signed(">=", count, count.type(lanes.count))) as (whole, part):
            with whole:
                put_vector(builder, builder.load(best), y, size)
            with part:
                put_first(builder, builder.load(best), y, size, count)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6, least, known_taps, known_stride), generate
