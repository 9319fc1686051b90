"""The transforms of Winograd's minimal filtering F(m x m, r x r): they make a correlation of tiles an element-wise
product.

m neighbouring outputs of a correlation with r taps take m + r - 1 multiplications instead of m r (Winograd 1980; Lavin
and Gray 2016 for images):

.. math:: y = A^T \\left[ (G g) \\odot (B^T d) \\right]

In two dimensions the same matrices are applied from both sides.  They are those of polynomial interpolation (Toom and
Cook) at m + r - 2 points and infinity.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from minicaffe.kernels.cpu.runtime.compile import callback, caller
from minicaffe.kernels.cpu.simd.memory import WIDTH, fma, get_vector, put_vector

_POINTS = {4: (0, 1, -1), 6: (0, Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))}
"""Interpolation points by the side of a tile.  Two points that differ in sign share half of their sums.  For side 6
these have a third of the rounding error of 0, ±1, ±2.
"""

INPUT, FILTER, OUTPUT, INPUT_GRAD, FILTER_GRAD, OUTPUT_GRAD = range(6)
"""The transforms: B^T d B, G g G^T, A^T p A, and their adjoints, B p B^T, G^T p G and A dy A^T."""


def _times_root(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
    """The polynomial (its coefficients from x^0 up) times (x - root)."""
    return [up - root * here for up, here in zip([Fraction(0), *polynomial], [*polynomial, Fraction(0)], strict=True)]


@functools.cache
def matrices(outputs: int, taps: int) -> tuple[NDArray, NDArray, NDArray]:
    """A (side, outputs), G (side, taps) and B (side, side), float64, where side = outputs + taps - 1.

    Rows of G are scaled by powers of 2, and those of B by their inverses, so that their elements are of similar size.
    """
    points = [Fraction(point) for point in _POINTS[outputs + taps - 1]]
    unit = [Fraction(0)] * (max(outputs, taps) - 1) + [Fraction(1)]
    a = [[p**i for i in range(outputs)] for p in points] + [unit[-outputs:]]
    g, b = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = math.prod((p - q for q in others), start=Fraction(1))
        g.append([p**k / scale for k in range(taps)])
        b.append([*functools.reduce(_times_root, others, [Fraction(1)]), Fraction(0)])
    g.append(unit[-taps:])
    b.append(functools.reduce(_times_root, points, [Fraction(1)]))
    exact = [np.array(rows, dtype=object).astype(np.float64) for rows in (a, g, b)]
    powers = np.exp2(np.round(np.log2(abs(exact[2]).sum(1) / abs(exact[1]).sum(1)) / 2))[:, None]
    return exact[0], exact[1] * powers, exact[2] / powers


def _matrix(kind: int, outputs: int, taps: int) -> NDArray:
    a, g, b = matrices(outputs, taps)
    return {INPUT: b, FILTER: g, OUTPUT: a.T, INPUT_GRAD: b.T, FILTER_GRAD: g.T, OUTPUT_GRAD: a}[kind]


def _sum(builder: ir.IRBuilder, factors: NDArray, vectors: list[Any]) -> Any:
    """Code for the sum of vectors times factors; None if all factors are 0."""
    total = None
    for factor, vector in zip(factors, vectors, strict=True):
        if factor == 0:
            continue
        constant = ir.Constant(vector.type, [float(factor)] * vector.type.count)
        if total is None:
            total = vector if factor == 1 else builder.fmul(vector, constant)
        elif abs(factor) == 1:
            total = (builder.fadd if factor > 0 else builder.fsub)(total, vector)
        else:
            total = fma(builder, vector, constant, total)
    return total


def _twins(rows: NDArray) -> dict[int, int]:
    """Pairs of rows that differ only in signs: the second one's index by the first one's."""
    found: dict[int, int] = {}
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            if np.array_equal(abs(rows[i]), abs(rows[j])) and i not in found and j not in found.values():
                found[i] = j
    return found


def _product(builder: ir.IRBuilder, matrix: NDArray, vectors: list[Any]) -> list[Any]:
    """Code for a matrix times a column of vectors."""
    columns, inputs = list(matrix.T), list(vectors)
    for i, j in _twins(matrix.T).items():  # their sum and difference replace the two
        same = np.where(columns[i] == columns[j], columns[i], 0)
        columns[i], columns[j] = same, columns[i] - same
        inputs[i], inputs[j] = builder.fadd(vectors[i], vectors[j]), builder.fsub(vectors[i], vectors[j])
    rows = np.array(columns).T
    twins = _twins(rows)
    results: dict[int, Any] = {}
    for i, j in twins.items():
        same = np.where(rows[i] == rows[j], rows[i], 0)
        even, odd = _sum(builder, same, inputs), _sum(builder, rows[i] - same, inputs)
        results[i], results[j] = builder.fadd(even, odd), builder.fsub(even, odd)
    return [results[i] if i in results else _sum(builder, row, inputs) for i, row in enumerate(rows)]


def _word(builder: ir.IRBuilder, table: Any, index: int) -> Any:
    word = ir.IntType(64)
    return builder.load(builder.inttoptr(builder.add(table, word(8 * index)), word.as_pointer()))


@intrinsic(prefer_literal=True)
def _apply(context, kind, outputs, taps, target, target_table, source, source_table, registers, start, like):
    """``matrix X matrix^T`` for square X whose elements are rows of SIMD registers."""
    matrix = _matrix(kind.literal_value, outputs.literal_value, taps.literal_value)
    rows, columns = matrix.shape
    started, adds = kind.literal_value == OUTPUT, kind.literal_value == INPUT_GRAD

    def generate(context, builder, signature, arguments):
        target, target_table, source, source_table, registers, start, _ = arguments[3:]
        size, number = like.bitwidth // 8, context.get_value_type(like)
        vector = ir.VectorType(number, WIDTH // size)
        sources = [builder.add(source, _word(builder, source_table, i)) for i in range(columns**2)]
        targets = [builder.add(target, _word(builder, target_table, i)) for i in range(rows**2)]
        with cgutils.for_range(builder, registers) as loop:
            offset = builder.mul(loop.index, ir.IntType(64)(WIDTH))
            half = []
            for j in range(columns):
                column = [
                    get_vector(builder, builder.add(sources[i * columns + j], offset), vector, size)
                    for i in range(columns)
                ]
                half.append(_product(builder, matrix, column))
            first = get_vector(builder, builder.add(start, offset), vector, size) if started else None
            for i in range(rows):
                for j, result in enumerate(_product(builder, matrix, [column[i] for column in half])):
                    place = builder.add(targets[i * rows + j], offset)
                    earlier = get_vector(builder, place, vector, size) if adds else first
                    put_vector(builder, result if earlier is None else builder.fadd(result, earlier), place, size)
        return context.get_dummy_value()

    return types.void(kind, outputs, taps, *[types.intp] * 6, like), generate


@functools.cache
def transform(kind: int, outputs: int, taps: int, dtype: np.dtype) -> Any:
    """Compiled code ``(target, target_table, source, source_table, registers, start)`` of a transform, at its
    ``address``.

    Element (i, j) of a tile is a row of registers, at ``source`` or ``target`` plus entry (i, j) of its table of int64
    offsets in bytes.  OUTPUT adds the row at ``start`` to each result; INPUT_GRAD adds each result to what is at its
    place, since tiles of the input overlap.
    """
    like = dtype.type(0)

    @callback(types.void(*[types.intp] * 6))
    def transform(target, target_table, source, source_table, registers, start):
        _apply(kind, outputs, taps, target, target_table, source, source_table, registers, start, like)

    return transform


apply = caller("target", "target_table", "source", "source_table", "registers", "start")
"""``apply(code, ...)`` calls a ``transform`` at its address."""
