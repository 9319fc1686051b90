"""Windows of few taps over one channel: a stretch of the taps is kept in registers while rows of positions go by.

The pixel under a tap at position j of a row lies ``taps[t] + rows[r][0]`` bytes and j elements behind ``source``, the
position itself ``rows[r][1]`` bytes and j elements behind ``target`` or ``factors``.  ``like`` is a 0 of the dtype.
Whole registers are read at ``source``, no memory beyond a row anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import size_of
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
_STEP = 8
"""Bytes of an offset."""
_OFFSETS = 2 * _STEP
"""Bytes of a row of ``rows``."""

At = Callable[[Any, Any, Any], None]
"""What is done at the positions of a register: ``(address under the first tap, address of the position, count)``, the
count None for a whole register.
"""


def _at_positions(builder: ir.IRBuilder, source: Any, target: Any, rows: Any, size: int, body: At) -> None:
    """Code that goes through all positions; ``rows`` are the address of the offsets, how many, and positions in
    each.
    """
    table, count, width = rows
    lanes = WIDTH // size
    whole = builder.udiv(width, _WORD(lanes))
    left = builder.urem(width, _WORD(lanes))
    with cgutils.for_range(builder, count) as row:
        entry = builder.add(table, builder.mul(row.index, _WORD(_OFFSETS)))
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

            def body(first: Any, place: Any, left: Any) -> None:
                total = builder.select(adds, _get(builder, place, kind, size, left), begin)
                for factor, offset in zip(factors, offsets, strict=True):
                    pixels = get_vector(builder, builder.add(first, offset), kind, size)
                    total = fma(builder, factor, pixels, total)
                _put(builder, builder.select(ends, rectified(builder, total, slope), total), place, size, left)

            _at_positions(builder, source, target, (rows, number, width), size, body)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7, start, slope, types.boolean, types.boolean), generate

    return correlate


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


@kernel(internal=True)
def correlate_rows(target, source, rows, number, width, taps, weights, window, start, slope):
    """Write, at all positions, ``start`` and the sum of weight times pixel over a window, what is negative times
    ``slope``; ``rows``, ``taps`` and ``weights`` are addresses, of ``number`` rows of ``width`` positions and of
    ``window`` taps.
    """
    done = 0
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
