"""Windows of few taps over one channel: a stretch of the taps is kept in registers while rows of positions go by.

The pixel under a tap at position j of a row lies ``taps[t] + rows[r][0]`` bytes and j elements behind ``source``, the
position itself ``rows[r][1]`` bytes and j elements behind ``target`` or ``factors``.  ``like`` is a 0 of the dtype.
Whole registers are read at ``source``, no memory beyond a row anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import load, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.memory import (
    WIDTH,
    fma,
    get_first,
    get_vector,
    put_first,
    put_vector,
    splat,
    word_at,
)
from minicaffe.kernels.cpu.simd.rectify import rectified

_WORD = ir.IntType(64)
_NONE = np.intp(0)
_STEP = 8
"""Bytes of an offset."""
_OFFSETS = 2 * _STEP
"""Bytes of a row of ``rows``."""

At = Callable[[Any, Any, Any], None]
"""What is done at the positions of a register: ``(address under the first tap, address of the position, count)``, the
count None for a whole register.
"""


def _at_positions(
    builder: ir.IRBuilder, source: Any, target: Any, rows: Any, size: int, body: At, together: int = 1
) -> None:
    """Code that goes through all positions; ``rows`` are the address of the offsets, how many, and positions in
    each.  Of ``together`` rows, so many times, only those of the first are gone through.
    """
    table, count, width = rows
    lanes = WIDTH // size
    whole = builder.udiv(width, _WORD(lanes))
    left = builder.urem(width, _WORD(lanes))
    with cgutils.for_range(builder, count) as row:
        entry = builder.add(table, builder.mul(row.index, _WORD(together * _OFFSETS)))
        first = builder.add(source, word_at(builder, entry, _WORD(0)))
        place = builder.add(target, word_at(builder, entry, _WORD(1)))
        with cgutils.for_range(builder, whole) as register:
            along = builder.mul(register.index, _WORD(WIDTH))
            body(builder.add(first, along), builder.add(place, along), None)
        with builder.if_then(builder.icmp_unsigned("!=", left, _WORD(0))):
            along = builder.mul(whole, _WORD(WIDTH))
            body(builder.add(first, along), builder.add(place, along), left)


def _offsets(builder: ir.IRBuilder, taps: Any, count: int) -> list[Any]:
    return [word_at(builder, taps, _WORD(t)) for t in range(count)]


def _factors(builder: ir.IRBuilder, weights: Any, kind: ir.Type, count: int) -> list[Any]:
    """Code for registers full of each of the first weights."""
    pointer = builder.inttoptr(weights, kind.element.as_pointer())
    return [splat(builder, builder.load(builder.gep(pointer, [_WORD(t)])), kind.count) for t in range(count)]


def _is_one(builder: ir.IRBuilder, slope: Any) -> Any:
    return builder.fcmp_ordered("==", slope, ir.Constant(slope.type, 1.0))


def _put(builder: ir.IRBuilder, vector: Any, address: Any, size: int, count: Any) -> None:
    if count is None:
        put_vector(builder, vector, address, size)
    else:
        put_first(builder, vector, address, size, count)


def _get(builder: ir.IRBuilder, address: Any, kind: ir.Type, size: int, count: Any) -> Any:
    return get_vector(builder, address, kind, size) if count is None else get_first(builder, address, kind, size, count)


def _correlation(count: int) -> Any:
    """An intrinsic ``(target, source, rows, number, width, taps, weights, start, slope, adds, ends)`` that writes
    ``start``, or what is there if it ``adds``, and the sum over ``count`` taps of weight times pixel, rectified if it
    ``ends`` there.
    """

    @intrinsic
    def correlate(context, target, source, rows, number, width, taps, weights, start, slope, adds, ends):
        def generate(context, builder, signature, arguments):
            target, source, rows, number, width, taps, weights, start, slope, adds, ends = arguments
            size = context.get_abi_sizeof(start.type)
            kind = ir.VectorType(start.type, WIDTH // size)
            offsets = _offsets(builder, taps, count)
            factors = _factors(builder, weights, kind, count)
            begin = splat(builder, start, kind.count)
            kept = builder.or_(builder.not_(ends), _is_one(builder, slope))

            def sums(adds: bool) -> At:
                def body(first: Any, place: Any, left: Any) -> None:
                    total = _get(builder, place, kind, size, left) if adds else begin
                    for factor, offset in zip(factors, offsets, strict=True):
                        pixels = get_vector(builder, builder.add(first, offset), kind, size)
                        total = fma(builder, factor, pixels, total)
                    _put(builder, builder.select(kept, total, rectified(builder, total, slope)), place, size, left)

                return body

            with builder.if_else(adds) as (adding, setting):
                with adding:
                    _at_positions(builder, source, target, (rows, number, width), size, sums(adds=True))
                with setting:
                    _at_positions(builder, source, target, (rows, number, width), size, sums(adds=False))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7, start, slope, types.boolean, types.boolean), generate

    return correlate


@intrinsic
def _correlate_pairs(context, target, source, rows, pairs, width, taps, weights, start, slope):
    """Like ``_correlate_9``, for two rows at a time: of the 3 x 3 pixels under the taps of either they share 2 x 3,
    which are read once.
    """

    def generate(context, builder, signature, arguments):
        target, source, rows, pairs, width, taps, weights, start, slope = arguments
        size = context.get_abi_sizeof(start.type)
        kind = ir.VectorType(start.type, WIDTH // size)
        offsets = _offsets(builder, taps, 9)
        down = builder.sub(offsets[3], offsets[0])
        offsets += [builder.add(offset, down) for offset in offsets[6:]]
        factors = _factors(builder, weights, kind, 9)
        begin, kept = splat(builder, start, kind.count), _is_one(builder, slope)
        to_second = builder.sub(word_at(builder, rows, _WORD(3)), word_at(builder, rows, _WORD(1)))

        def body(first: Any, place: Any, left: Any) -> None:
            pixels = [get_vector(builder, builder.add(first, offset), kind, size) for offset in offsets]
            for shift, at in ((0, place), (3, builder.add(place, to_second))):
                total = begin
                for factor, under in zip(factors, pixels[shift:], strict=False):
                    total = fma(builder, factor, under, total)
                _put(builder, builder.select(kept, total, rectified(builder, total, slope)), at, size, left)

        _at_positions(builder, source, target, (rows, pairs, width), size, body, together=2)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7, start, slope), generate


def _products(count: int) -> Any:
    """An intrinsic ``(totals, factors, source, rows, number, width, taps, like)`` that adds to each of ``count``
    totals, float64, the sum over all positions of factor times the pixel under a tap.
    """

    @intrinsic
    def products(context, totals, factors, source, rows, number, width, taps, like):
        def generate(context, builder, signature, arguments):
            totals, factors, source, rows, number, width, taps, _ = arguments
            size, element = like.bitwidth // 8, context.get_value_type(like)
            kind = ir.VectorType(element, WIDTH // size)
            offsets = _offsets(builder, taps, count)
            zero = ir.Constant(kind, [0.0] * kind.count)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]

            def body(first: Any, place: Any, left: Any) -> None:
                values = _get(builder, place, kind, size, left)
                for total, offset in zip(sums, offsets, strict=True):
                    pixels = get_vector(builder, builder.add(first, offset), kind, size)
                    builder.store(fma(builder, values, pixels, builder.load(total)), total)

            _at_positions(builder, source, factors, (rows, number, width), size, body)
            pointer = builder.inttoptr(totals, ir.DoubleType().as_pointer())
            for t, total in enumerate(sums):
                place = builder.gep(pointer, [_WORD(t)])
                builder.store(builder.fadd(builder.load(place), _sum_of_lanes(builder, builder.load(total))), place)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7, like), generate

    return products


def _sum_of_lanes(builder: ir.IRBuilder, vector: Any) -> Any:
    """Code for the sum of a vector's elements in float64."""
    double = ir.DoubleType()
    wide = ir.VectorType(double, vector.type.count)
    values = vector if vector.type == wide else builder.fpext(vector, wide)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(double, [double, wide]), f"llvm.vector.reduce.fadd.v{wide.count}f64"
    )
    return builder.call(function, [ir.Constant(double, 0.0), values], fastmath=("reassoc",))


# as many taps at once as a window of 3 x 3 has, or the parts of one that a stride of 2 makes
_correlate_9, _correlate_4, _correlate_2, _correlate_1 = map(_correlation, (9, 4, 2, 1))
_products_9, _products_4, _products_1 = map(_products, (9, 4, 1))


@kernel(inline=True)
def _pairs(rows, number, taps):
    """How many pairs of rows there are whose second lies under the first as the taps of a 3 x 3 window lie under each
    other: as many as fit, or none.
    """
    down = load(taps + 3 * _STEP, _NONE) - load(taps, _NONE)
    for t in range(1, 6):
        if load(taps + (t + 3) * _STEP, _NONE) - load(taps + t * _STEP, _NONE) != down:
            return 0
    apart = load(rows + _OFFSETS + _STEP, _NONE) - load(rows + _STEP, _NONE) if number > 1 else 0
    for r in range(0, number - 1, 2):
        at = rows + r * _OFFSETS
        if load(at + _OFFSETS, _NONE) - load(at, _NONE) != down:
            return 0
        if load(at + _OFFSETS + _STEP, _NONE) - load(at + _STEP, _NONE) != apart:
            return 0
    return number // 2


@kernel(internal=True)
def correlate_rows(target, source, rows, number, width, taps, weights, window, start, slope):
    """Write, at all positions, ``start`` and the sum of weight times pixel over a window, what is negative times
    ``slope``; ``rows``, ``taps`` and ``weights`` are addresses, of ``number`` rows of ``width`` positions and of
    ``window`` taps.
    """
    done = 0
    if window == 9:
        pairs = _pairs(rows, number, taps)
        _correlate_pairs(target, source, rows, pairs, width, taps, weights, start, slope)
        rows, number = rows + 2 * pairs * _OFFSETS, number - 2 * pairs
    while done < window:
        left, at, w, adds = window - done, taps + _STEP * done, weights + size_of(start) * done, done > 0
        if left >= 9:
            _correlate_9(target, source, rows, number, width, at, w, start, slope, adds, left == 9)
            done += 9
        elif left >= 4:
            _correlate_4(target, source, rows, number, width, at, w, start, slope, adds, left == 4)
            done += 4
        elif left >= 2:
            _correlate_2(target, source, rows, number, width, at, w, start, slope, adds, left == 2)
            done += 2
        else:
            _correlate_1(target, source, rows, number, width, at, w, start, slope, adds, left == 1)
            done += 1


@kernel(internal=True)
def add_row_products(totals, factors, source, rows, number, width, taps, window, like):
    """Add to each of ``window`` totals the sum over all positions of factor times the pixel under its tap."""
    done = 0
    while done < window:
        left, at, sums = window - done, taps + 8 * done, totals + 8 * done
        if left >= 9:
            _products_9(sums, factors, source, rows, number, width, at, like)
            done += 9
        elif left >= 4:
            _products_4(sums, factors, source, rows, number, width, at, like)
            done += 4
        else:
            _products_1(sums, factors, source, rows, number, width, at, like)
            done += 1
