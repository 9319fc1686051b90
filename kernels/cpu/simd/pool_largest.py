"""The largest pixels of windows, without their places: first down the columns of an image, then along what that gives.

Addresses and distances are in bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.simd.memory import fma, put_first, put_vector
from minicaffe.kernels.cpu.simd.pool_windows import Lanes, repeat


def _larger(builder: ir.IRBuilder, best: Any, pixels: Any) -> Any:
    """Code for the larger of two vectors of numbers."""
    return builder.select(builder.fcmp_ordered(">", pixels, best), pixels, best)


def _check(builder: ir.IRBuilder, pixels: Any, kept: Any) -> None:
    """Code that keeps zeros as long as all pixels are finite, and NaN for good where one is not."""
    zero = ir.Constant(pixels.type, [0.0] * pixels.type.count)
    builder.store(fma(builder, pixels, zero, builder.load(kept)), kept)


def _are_numbers(builder: ir.IRBuilder, checks: list[Any]) -> Any:
    """Code for whether no ``_check`` met what is not finite."""
    total = builder.load(checks[0])
    for kept in checks[1:]:
        total = builder.fadd(total, builder.load(kept))
    numbers = builder.bitcast(builder.fcmp_ordered("ord", total, total), ir.IntType(total.type.count))
    return builder.icmp_unsigned("==", numbers, numbers.type(-1))


def _for_registers(builder: ir.IRBuilder, lanes: Lanes, width: Any, body: Callable[[Any, Any], None]) -> None:
    """Code for ``body(column, end)`` at each register of a row of ``width`` elements, and its end, or None if it is
    whole.
    """
    count = width.type(lanes.count)
    whole = builder.mul(builder.udiv(width, count), count)
    with cgutils.for_range_slice(builder, width.type(0), whole, count) as (column, _):
        body(column, None)
    with builder.if_then(builder.icmp_signed("<", whole, width)):
        body(whole, width)


@intrinsic
def largest_down(context, target, x, row, rows, width, least, known_rows):
    """The largest of each of ``width`` columns of x: of ``known_rows`` rows, ``row`` bytes apart, or if there are other
    ``rows`` of these and ``least``.  Whole registers are written to ``target``, with ``least`` beyond the columns.

    Returns whether all numbers are finite: if not, what was written may be wrong.
    """

    def generate(context, builder, signature, arguments):
        target, x, row, rows, width, start, _ = arguments
        size, known = least.bitwidth // 8, known_rows.count
        lanes = Lanes(builder, start.type, size, 1)
        other, zero = lanes.splat(start), ir.Constant(lanes.numbers, [0.0] * lanes.count)
        best = cgutils.alloca_once(builder, lanes.numbers)
        checks = [cgutils.alloca_once_value(builder, zero) for _ in range(max(known, 1))]

        def line(r):
            return builder.add(x, builder.mul(row, row.type(r) if isinstance(r, int) else r))

        def check(number, pixels):
            _check(builder, pixels, checks[number])

        def take_known(column, end):
            for r in range(known):
                pixels = lanes.read(line(r), column, end, other)
                check(r, pixels)
                builder.store(_larger(builder, builder.load(best), pixels) if r else pixels, best)
            put_vector(builder, builder.load(best), lanes.place(target, column, size), size)

        def take_any():
            with cgutils.for_range_slice(builder, width.type(0), width, width.type(lanes.count)) as (column, _):
                builder.store(other, best)
                with cgutils.for_range(builder, rows) as loop:
                    pixels = lanes.read(line(loop.index), column, width, other)
                    check(0, pixels)
                    builder.store(_larger(builder, builder.load(best), pixels), best)
                put_vector(builder, builder.load(best), lanes.place(target, column, size), size)

        if known:
            with builder.if_else(builder.icmp_signed("==", rows, rows.type(known))) as (usual, rare):
                with usual:
                    _for_registers(builder, lanes, width, take_known)
                with rare:
                    take_any()
        else:
            take_any()
        return _are_numbers(builder, checks)

    return types.boolean(*[types.intp] * 5, least, known_rows), generate


@intrinsic
def largest_of_squares(context, y, x, height, width, rows, columns, column, top, left, least, taps):
    """The largest of ``least`` and the pixels of an image (height, width) in square windows a pixel apart, whose number
    of ``taps`` along an axis is known: a register of each of the ``rows`` of y (rows, columns), from ``column`` on.

    The first window begins ``top`` rows above the image, fewer than it has, and ``left`` columns before it.  What a row
    gives is kept in registers for the windows below.  Returns whether all numbers are finite: if not, what was written
    may be wrong.
    """

    def generate(context, builder, signature, arguments):
        y, x, height, width, rows, columns, column, top, left, start, _ = arguments
        size, word = least.bitwidth // 8, width.type
        lanes = Lanes(builder, start.type, size, 1)
        other, zero = lanes.splat(start), ir.Constant(lanes.numbers, [0.0] * lanes.count)
        checks = [cgutils.alloca_once_value(builder, zero) for _ in range(taps.count)]
        above = [cgutils.alloca_once_value(builder, other) for _ in range(taps.count - 1)]  # the nearest row first
        along = cgutils.alloca_once(builder, lanes.numbers)
        before = builder.sub(word(taps.count - 1), top)  # rows of the image above the last one of the first windows
        with cgutils.for_range(builder, builder.add(rows, before)) as loop:
            builder.store(other, along)
            with builder.if_then(builder.icmp_signed("<", loop.index, height)):
                line, first = lanes.place(x, builder.mul(loop.index, width), size), builder.sub(column, left)
                for tap in range(taps.count):
                    pixels = lanes.read(line, builder.add(first, word(tap)), width, other)
                    _check(builder, pixels, checks[tap])
                    builder.store(_larger(builder, builder.load(along), pixels), along)
            rows_of_window = [builder.load(row) for row in (along, *above)]
            for kept, row in zip(above, rows_of_window, strict=False):
                builder.store(row, kept)
            done = builder.sub(loop.index, before)
            with builder.if_then(builder.icmp_signed(">=", done, word(0))):
                best = functools.reduce(functools.partial(_larger, builder), rows_of_window)
                lanes.write(best, lanes.place(y, builder.mul(done, columns), size), column, columns)
        return _are_numbers(builder, checks)

    return types.boolean(*[types.intp] * 9, least, taps), generate


@intrinsic
def largest_two_apart(context, y, x, row, rows, width, columns, column, least, taps):
    """The largest of ``least`` and the pixels in square windows of two or three ``taps`` along an axis, which follow
    each other two pixels apart: the ``columns`` numbers of a row of y.

    The windows have ``rows`` rows of the image, at least one and no more than taps, ``row`` bytes apart; they begin at
    ``column`` of the ``width`` columns, or before the first if it is negative.  Returns whether all numbers are finite:
    if not, what was written may be wrong.
    """

    def generate(context, builder, signature, arguments):
        y, x, row, rows, width, columns, column, start, _ = arguments
        size, word = least.bitwidth // 8, width.type
        lanes = Lanes(builder, start.type, size, 2)
        other, zero = lanes.splat(start), ir.Constant(lanes.numbers, [0.0] * lanes.count)
        checks = [cgutils.alloca_once_value(builder, zero) for _ in range(taps.count)]
        even, odd, next_even, next_odd = (cgutils.alloca_once_value(builder, other) for _ in range(4))
        last = builder.sub(rows, word(1))
        # rows beyond the last one repeat it, which changes nothing
        places = [builder.select(builder.icmp_signed("<", word(r), last), word(r), last) for r in range(taps.count)]
        lines = [builder.add(x, builder.mul(row, place)) for place in places]

        def largest_of_columns(first, end):
            found = []
            for r, line in enumerate(lines):
                found.append(lanes.read(line, first, end, other))
                _check(builder, found[-1], checks[r])
            return functools.reduce(functools.partial(_larger, builder), found)

        def read_into(slots, first, end):
            halves = [largest_of_columns(builder.add(first, word(half * lanes.count)), end) for half in (0, 1)]
            for slot, chosen in zip(slots, lanes.in_turn(halves), strict=True):
                builder.store(chosen, slot)

        def read(slots, at):
            first = builder.add(column, builder.mul(at, word(2)))
            room = builder.sub(width, first)
            whole = builder.icmp_signed(">=", room, word(2 * lanes.count))
            with builder.if_else(builder.and_(whole, builder.icmp_signed(">=", first, word(0)))) as (usual, rare):
                with usual:
                    read_into(slots, first, None)
                with rare:
                    read_into(slots, first, width)

        def write(at):
            best = _larger(builder, builder.load(even), builder.load(odd))
            if taps.count == 3:
                third = list(range(1, lanes.count + 1))
                pair = builder.load(even), builder.load(next_even)
                best = _larger(builder, best, builder.shuffle_vector(*pair, ir.Constant(lanes.words, third)))
            target, left = lanes.place(y, at, size), builder.sub(columns, at)
            with builder.if_else(builder.icmp_signed(">=", left, word(lanes.count))) as (whole, part):
                with whole:
                    put_vector(builder, best, target, size)
                with part:
                    put_first(builder, best, target, size, left)

        read((next_even, next_odd), word(0))
        with cgutils.for_range_slice(builder, word(0), columns, word(lanes.count)) as (at, _):
            for now, then in ((even, next_even), (odd, next_odd)):
                builder.store(builder.load(then), now)
                builder.store(other, then)
            following = builder.add(at, word(lanes.count))
            first = builder.add(column, builder.mul(following, word(2)))
            with builder.if_then(builder.icmp_signed("<", first, width)):
                read((next_even, next_odd), following)
            write(at)
        return _are_numbers(builder, checks)

    return types.boolean(*[types.intp] * 7, least, taps), generate


@intrinsic
def largest_along(context, y, line, taps, stride, width, count, least, known_taps, known_stride):
    """The largest of ``least`` and ``taps`` neighbours along a line of ``width`` numbers, at the first place and at
    each a stride later; the first ``count``, at most a register, are written to y.

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
            for more, numbers in enumerate(lanes.read_taps(line, at, end, lanes.splat(start))):
                if more == 0 or tap + more < taps:
                    builder.store(_larger(builder, builder.load(best), numbers), best)

        repeat(builder, taps, take_from, lanes.taps_at_a_time)
        with builder.if_else(builder.icmp_signed(">=", count, count.type(lanes.count))) as (whole, part):
            with whole:
                put_vector(builder, builder.load(best), y, size)
            with part:
                put_first(builder, builder.load(best), y, size, count)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6, least, known_taps, known_stride), generate
