"""Rows taken apart into elements of even and of odd places, and put together again."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import size_of
from minicaffe.kernels.cpu.runtime.compile import called, kernel
from minicaffe.kernels.cpu.simd.memory import WIDTH, get_first, get_vector, put_first, put_vector

_WORD = ir.IntType(64)


def _get(builder: ir.IRBuilder, address: Any, kind: ir.Type, size: int, count: Any) -> Any:
    """Code that reads a register, or its first ``count`` elements."""
    return get_vector(builder, address, kind, size) if count is None else get_first(builder, address, kind, size, count)


def _put(builder: ir.IRBuilder, vector: Any, address: Any, size: int, count: Any) -> None:
    """Code that writes a register, or its first ``count`` elements."""
    if count is None:
        put_vector(builder, vector, address, size)
    else:
        put_first(builder, vector, address, size, count)


def _shuffled(builder: ir.IRBuilder, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _pairs(splits: bool, whole: bool, with_odd: bool = True) -> Any:
    """An intrinsic ``(even, odd, row, count, like)`` that splits two registers of a row into one of each, or joins
    them; if not ``whole``, only the first ``count`` elements of the row, fewer than two registers.  Unless
    ``with_odd``, the odd elements are not written, or are zeros.
    """

    @intrinsic
    def move(context, even, odd, row, count, like):
        def generate(context, builder, signature, arguments):
            even, odd, row, count, _ = arguments
            size = like.bitwidth // 8
            lanes = WIDTH // size
            kind = ir.VectorType(context.get_value_type(like), lanes)
            halves = row, builder.add(row, _WORD(WIDTH))
            parts: list[Any] = [None, None]
            evens = odds = None
            if not whole:
                over = builder.sub(count, _WORD(lanes))
                none = builder.icmp_signed("<", over, _WORD(0))
                parts = [count, builder.select(none, _WORD(0), over)]
                evens, odds = builder.lshr(builder.add(count, _WORD(1)), _WORD(1)), builder.lshr(count, _WORD(1))
            if splits:
                a, b = (_get(builder, at, kind, size, part) for at, part in zip(halves, parts, strict=True))
                _put(builder, _shuffled(builder, a, b, list(range(0, 2 * lanes, 2))), even, size, evens)
                if with_odd:
                    _put(builder, _shuffled(builder, a, b, list(range(1, 2 * lanes, 2))), odd, size, odds)
            else:
                a, b = _get(builder, even, kind, size, evens), ir.Constant(kind, [0.0] * lanes)
                if with_odd:
                    b = _get(builder, odd, kind, size, odds)
                woven = [i // 2 + i % 2 * lanes for i in range(2 * lanes)]
                for at, part, places in zip(halves, parts, (woven[:lanes], woven[lanes:]), strict=True):
                    _put(builder, _shuffled(builder, a, b, places), at, size, part)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4, like), generate

    return move


_split, _split_rest = _pairs(splits=True, whole=True), _pairs(splits=True, whole=False)
_join, _join_rest = _pairs(splits=False, whole=True), _pairs(splits=False, whole=False)
_take, _take_rest = _pairs(True, whole=True, with_odd=False), _pairs(True, whole=False, with_odd=False)
_spread, _spread_rest = _pairs(False, whole=True, with_odd=False), _pairs(False, whole=False, with_odd=False)


@called
def split_rows(even, odd, part_row, row, step, rows, count, like):
    """Copy the elements 0, 2, 4 ... of each of some rows of ``count`` to ``even``, the others to ``odd``.

    All are addresses; the rows are ``step`` bytes apart, their parts ``part_row`` bytes.
    """
    size = size_of(like)
    two = 2 * (WIDTH // size)
    whole = count // two * two
    for r in range(rows):
        even_r, odd_r, row_r = even + r * part_row, odd + r * part_row, row + r * step
        for i in range(0, whole, two):
            _split(even_r + i // 2 * size, odd_r + i // 2 * size, row_r + i * size, two, like)
        if whole < count:
            half = whole // 2 * size
            _split_rest(even_r + half, odd_r + half, row_r + whole * size, count - whole, like)


@called
def join_rows(even, odd, part_row, row, step, rows, count, like):
    """Copy what ``split_rows`` took apart back into the rows."""
    size = size_of(like)
    two = 2 * (WIDTH // size)
    whole = count // two * two
    for r in range(rows):
        even_r, odd_r, row_r = even + r * part_row, odd + r * part_row, row + r * step
        for i in range(0, whole, two):
            _join(even_r + i // 2 * size, odd_r + i // 2 * size, row_r + i * size, two, like)
        if whole < count:
            half = whole // 2 * size
            _join_rest(even_r + half, odd_r + half, row_r + whole * size, count - whole, like)


@kernel(internal=True)
def take_even(even, row, count, like):
    """Copy the elements 0, 2, 4 ... of a row of ``count`` elements."""
    size = size_of(like)
    two = 2 * (WIDTH // size)
    whole = count // two * two
    for i in range(0, whole, two):
        _take(even + i // 2 * size, 0, row + i * size, two, like)
    if whole < count:
        _take_rest(even + whole // 2 * size, 0, row + whole * size, count - whole, like)


@kernel(internal=True)
def spread_even(even, row, count, like):
    """Copy what ``take_even`` took back into the row, with zeros between."""
    size = size_of(like)
    two = 2 * (WIDTH // size)
    whole = count // two * two
    for i in range(0, whole, two):
        _spread(even + i // 2 * size, 0, row + i * size, two, like)
    if whole < count:
        _spread_rest(even + whole // 2 * size, 0, row + whole * size, count - whole, like)
