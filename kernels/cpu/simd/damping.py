"""Local response normalisation on registers: squares, their sums, and ``x s^(-3/4)``.

Addresses and distances are in bytes.  ``like`` is a 0 of the dtype of x and y; squares and sums are of float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import size_of
from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.memory import WIDTH, access, fma, get_vector, put_vector, splat

_REAL, REAL_SIZE = ir.DoubleType(), 8
LANES = WIDTH // 4
"""Elements at a time: a register of float32, two of float64."""

_LEAST, _MOST = (int(np.float32(limit).view(np.int32)) for limit in (1e-30, 1e30))
"""The bits of float32 between which s, and all powers that are made of it, are normal numbers."""
_GUESS = int(1.25 * (127 - 0.048) * 2**23)
_STEP = (15 / 128, 5 / 32, 1 / 4)
"""``(1 - h)^(-1/4) - 1`` without the terms from ``h^4`` on, as a polynomial: the highest power first, no constant."""
_LAST_STEP = (77 / 128, 21 / 32, 3 / 4)
"""``(1 - h)^(-3/4) - 1``, likewise."""


def _constant(kind: ir.Type, number: float) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count)


def _excess(builder: ir.IRBuilder, h: Any, coefficients: tuple[float, ...]) -> Any:
    """Code for a polynomial of h without a constant term."""
    value = _constant(h.type, coefficients[0])
    for coefficient in coefficients[1:]:
        value = fma(builder, value, h, _constant(h.type, coefficient))
    return builder.fmul(value, h)


def _rest(builder: ir.IRBuilder, s: Any, square: Any) -> Any:
    """Code for ``1 - s q^4``, given ``q^2``."""
    return fma(builder, builder.fneg(builder.fmul(s, square)), square, _constant(s.type, 1.0))


def _rough_root(builder: ir.IRBuilder, s: Any) -> Any:
    """Code for ``s^(-1/4)`` of float32: a guess from the bits, 3 % off at most, and a step, which leaves 2e-5."""
    words = ir.VectorType(ir.IntType(32), s.type.count)
    quarter = builder.lshr(builder.bitcast(s, words), _constant(words, 2))
    q = builder.bitcast(builder.sub(_constant(words, _GUESS), quarter), s.type)
    return fma(builder, q, _excess(builder, _rest(builder, s, builder.fmul(q, q)), _STEP), q)


def _damped(builder: ir.IRBuilder, x: Any, s: Any, q: Any) -> Any:
    """Code for ``x s^(-3/4)``, given a rough ``s^(-1/4)``.

    With ``h = 1 - s q^4``, it is ``x q^3 (1 - h)^(-3/4)`` whatever q is.  What the begin of the series leaves of an h
    of 8e-5, ``h^4 / 2``, is less than rounding.
    """
    square = builder.fmul(q, q)
    first = builder.fmul(builder.fmul(x, q), square)
    return fma(builder, first, _excess(builder, _rest(builder, s, square), _LAST_STEP), first)


def _in_range(builder: ir.IRBuilder, s: Any) -> Any:
    """Code for whether all lanes of float32 are in the range of ``_rough_root``; NaN is not."""
    words = ir.VectorType(ir.IntType(32), s.type.count)
    above = builder.sub(builder.bitcast(s, words), _constant(words, _LEAST))
    good = builder.bitcast(builder.icmp_unsigned("<", above, _constant(words, _MOST - _LEAST)), ir.IntType(LANES))
    return builder.icmp_unsigned("==", good, good.type(-1))


def _vector(number: ir.Type) -> ir.VectorType:
    return ir.VectorType(number, LANES)


def _converted(builder: ir.IRBuilder, vector: Any, kind: ir.VectorType) -> Any:
    if vector.type == kind:
        return vector
    return (builder.fpext if kind.element == ir.DoubleType() else builder.fptrunc)(vector, kind)


def _square(some: bool) -> Any:
    get, _ = access(some)

    @intrinsic
    def square(context, target, source, count, like):
        def generate(context, builder, signature, arguments):
            target, source, count, zero = arguments
            x = get(builder, source, _vector(zero.type), like.bitwidth // 8, count)
            x = _converted(builder, x, _vector(_REAL))
            put_vector(builder, builder.fmul(x, x), target, REAL_SIZE)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3, like), generate

    return square


def _damp(some: bool) -> Any:
    get, put = access(some)

    @intrinsic
    def damp(context, y, kept, x, squares, row, rows, count, factor, k, like):
        def generate(context, builder, signature, arguments):
            y, kept, x, squares, row, rows, count, scale, level, zero = arguments
            size, stored, real = like.bitwidth // 8, _vector(zero.type), _vector(_REAL)
            total = cgutils.alloca_once_value(builder, get_vector(builder, squares, real, REAL_SIZE))
            with cgutils.for_range(builder, rows, rows.type(1)) as loop:
                more = get_vector(builder, builder.add(squares, builder.mul(row, loop.index)), real, REAL_SIZE)
                builder.store(builder.fadd(builder.load(total), more), total)
            s = fma(builder, splat(builder, scale, LANES), builder.load(total), splat(builder, level, LANES))
            with builder.if_then(builder.icmp_signed("!=", kept, kept.type(0))):
                put(builder, _converted(builder, s, stored), kept, size, count)
            single = _converted(builder, s, _vector(ir.FloatType()))
            q = _converted(builder, _rough_root(builder, single), real)
            source = _converted(builder, get(builder, x, stored, size, count), real)
            put(builder, _converted(builder, _damped(builder, source, s, q), stored), y, size, count)
            return _in_range(builder, single)

        return types.boolean(*[types.intp] * 7, types.float64, types.float64, like), generate

    return damp


_square_register, _square_first = _square(some=False), _square(some=True)
_damp_register, _damp_first = _damp(some=False), _damp(some=True)


@kernel(internal=True)
def square_row(target, source, count, room, like):
    """The squares of ``count`` elements, and zeros behind them: ``room`` in all, or more to make whole ``LANES``."""
    size = size_of(like)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        _square_register(target + i * REAL_SIZE, source + i * size, LANES, like)
    for i in range(whole, room, LANES):
        _square_first(target + i * REAL_SIZE, source + i * size, count - i, like)


@kernel(internal=True)
def damp_row(y, kept, x, squares, row, rows, count, factor, k, like):
    """``x s^(-3/4)``, with ``s = k + factor (sum of squares)``, which is written to ``kept`` unless that is 0.

    ``squares`` are ``rows`` rows, ``row`` bytes apart, in whole ``LANES``.  Returns whether the result is right:
    it is not if some s is too small or large.
    """
    size, right = size_of(like), True
    whole = count // LANES * LANES
    step = size if kept else 0
    for i in range(0, whole, LANES):
        right &= _damp_register(
            y + i * size, kept + i * step, x + i * size, squares + i * REAL_SIZE, row, rows, LANES, factor, k, like
        )
    if whole < count:
        at = whole * size
        right &= _damp_first(
            y + at, kept + whole * step, x + at, squares + whole * REAL_SIZE, row, rows, count - whole, factor, k, like
        )
    return right
