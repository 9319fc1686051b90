"""The inner loop of every matrix product: a tile of C held in registers while it sums over k.

Memory is addressed in bytes, so that one kernel serves matrices of any layout.  A *panel* is a block of B copied to
contiguous rows of ``vectors`` SIMD registers each; rows of A are read where they are, one number at a time, and
broadcast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import size_of
from minicaffe.kernels.cpu.runtime.compile import callback, caller, kernel
from minicaffe.kernels.cpu.simd.memory import (
    FEATURES,
    WIDTH,
    copy_row,
    fma,
    get_vector,
    prefetch_rows_to_write,
    put_vector,
    splat,
)

VECTORS = 4 if FEATURES & {"avx512f", "neon"} else 2
"""Registers in a full row of a panel: with six rows, as many accumulators as the 32 or 16 registers can hold."""
PANEL = VECTORS * WIDTH
"""Bytes of a full row of a panel."""
DEPTH = 128
"""Rows of a full panel that are worked on at a time; see ``panel_depth``."""
LONGEST_TILE = 8
"""Most rows of a tile."""
ROWS = 60
"""Rows of a product that are worked on before others, where they are to stay in the L1 cache: a multiple of the tile
heights 4, 5 and 6.
"""
L2 = 1 << 19
"""Bytes that may be expected to stay in the L2 cache."""


def _define_tile(module: ir.Module, name: str, rows: int, vectors: int, scalar: ir.Type, size: int) -> ir.Function:
    """``C = begin + A B`` for C (rows, vectors registers): see ``tile``."""
    word = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 10), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    k, a, a_row, a_step, a_rows, b, begin, begin_row, c, c_row = function.args
    lanes = WIDTH // size
    kind = ir.VectorType(scalar, lanes)
    labels = "entry", "begun", "numbers", "matrix", "loop", "done"
    entry, begun, numbers, matrix, loop, done = map(function.append_basic_block, labels)
    places = [(r, v) for r in range(rows) for v in range(vectors)]

    builder = ir.IRBuilder(entry)
    last = builder.sub(a_rows, word(1))
    # rows that A does not have repeat its last one, so that nothing outside A is read
    a_number = [builder.select(builder.icmp_signed("<", word(r), a_rows), word(r), last) for r in range(rows)]
    a_offsets = [builder.mul(a_row, r) for r in a_number]
    zero = ir.Constant(kind, [0.0] * lanes)
    builder.cbranch(builder.icmp_signed("!=", begin, word(0)), begun, loop)
    builder.position_at_end(begun)
    builder.cbranch(builder.icmp_signed("!=", begin_row, word(0)), matrix, numbers)

    def number_at(address: Any) -> Any:
        return splat(builder, builder.load(builder.inttoptr(address, scalar.as_pointer())), lanes)

    def places_of(first: Any, row: Any) -> dict[tuple[int, int], Any]:
        lines = [builder.add(first, builder.mul(row, word(r))) for r in range(rows)]
        return {(r, v): builder.add(lines[r], word(v * WIDTH)) for r, v in places}

    builder.position_at_end(numbers)
    row_numbers = [number_at(builder.add(begin, builder.mul(r, word(size)))) for r in a_number]
    builder.branch(loop)

    builder.position_at_end(matrix)
    earlier = {place: get_vector(builder, at, kind, size) for place, at in places_of(begin, begin_row).items()}
    builder.branch(loop)

    builder.position_at_end(loop)
    left, at, panel = builder.phi(word), builder.phi(word), builder.phi(word)
    sums = {place: builder.phi(kind) for place in places}
    b_row = [get_vector(builder, builder.add(panel, word(v * WIDTH)), kind, size) for v in range(vectors)]
    totals = {}
    for r in range(rows):
        broadcast = number_at(builder.add(at, a_offsets[r]))
        for v in range(vectors):
            totals[r, v] = fma(builder, broadcast, b_row[v], sums[r, v])
    next_left = builder.sub(left, word(1))
    following = [
        (left, k, next_left),
        (at, a, builder.add(at, a_step)),
        (panel, b, builder.add(panel, word(vectors * WIDTH))),
    ]
    for phi, first, then in following:
        for before in (entry, numbers, matrix):
            phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    for place in places:
        sums[place].add_incoming(zero, entry)
        sums[place].add_incoming(row_numbers[place[0]], numbers)
        sums[place].add_incoming(earlier[place], matrix)
        sums[place].add_incoming(totals[place], loop)
    builder.cbranch(builder.icmp_signed(">", next_left, word(0)), loop, done)

    builder.position_at_end(done)
    for place, at in places_of(c, c_row).items():
        put_vector(builder, totals[place], at, size)
    builder.ret_void()
    return function


def _tile(rows: int, vectors: int) -> Callable[..., None]:
    """A function of ``(k, a, a_row, a_step, a_rows, b, begin, begin_row, c, c_row, like)`` that computes one tile.

    C (rows, vectors) becomes what the sums begin with plus A (a_rows <= rows, k > 0) times panel b (k, vectors); a_row,
    a_step, begin_row and c_row are the bytes between neighbours; ``like`` has the dtype.  See ``multiply`` for
    ``begin``.
    """

    @intrinsic
    def tile(context, k, a, a_row, a_step, a_rows, b, begin, begin_row, c, c_row, like):
        def generate(context, builder, signature, arguments):
            size = like.bitwidth // 8
            name = f"minicaffe.tile.{rows}x{vectors}.{like}"
            function = builder.module.globals.get(name) or _define_tile(
                builder.module, name, rows, vectors, context.get_value_type(like), size
            )
            builder.call(function, arguments[:-1])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10, like), generate

    return tile


_tile_4x4, _tile_5x4, _tile_6x4 = (_tile(rows, VECTORS) for rows in (4, 5, 6))
_tile_8x2, _tile_8x1 = _tile(LONGEST_TILE, 2), _tile(LONGEST_TILE, 1)


@kernel(inline=True)
def panel_depth(vectors):
    """Rows of a panel that are worked on at a time: they stay in the L1 cache."""
    return DEPTH * VECTORS // vectors


@kernel(inline=True)
def panel_vectors(columns, lanes):
    """Registers in a row of the panel that holds this many columns."""
    if columns > 2 * lanes:
        return VECTORS
    return min(2 if columns > lanes else 1, VECTORS)


@kernel(inline=True)
def _tile_rows(rows, vectors):
    """The height of tile that wastes least: rows beyond the last, and the higher cost of a row in a low tile."""
    if vectors < VECTORS:
        return LONGEST_TILE
    best, least = 6, -(-rows // 6) * 7
    for height in (5, 4):
        cost = -(-rows // height) * (height + 1)
        if cost < least:
            best, least = height, cost
    return best


multiply = caller(
    "rows", "columns", "k", "a", "a_row", "a_step", "panel", "vectors", "begin", "begin_row", "c", "c_row", "scratch"
)
"""``multiply(code, ...)``: C (rows, columns) = what the sums begin with + A (rows, k) times a panel (k, vectors).

They begin with the matrix at ``begin``, whose rows are ``begin_row`` bytes apart; if that is 0, with one number for
each row; and with 0 if ``begin`` is 0.  Addresses and distances are in bytes.  ``scratch`` has room for one tile,
``code`` is the address of the ``multiplier`` of the dtype.
"""


@functools.cache
def multiplier(dtype: np.dtype) -> Any:
    """The code behind ``multiply``, compiled once and apart from the many kernels that call it at its ``address``."""
    like = dtype.type(0)

    @callback(types.void(*[types.intp] * 13))
    def multiplier(rows, columns, k, a, a_row, a_step, panel, vectors, begin, begin_row, c, c_row, scratch):
        size = size_of(like)
        height = _tile_rows(rows, vectors)
        for i in range(0, rows, height):
            inside = min(height, rows - i)
            a_tile, c_tile, tile, tile_row = a + i * a_row, c + i * c_row, c + i * c_row, c_row
            start, start_row = begin, begin_row
            if begin != 0:
                start += i * (begin_row if begin_row != 0 else size)
            whole = columns * size == vectors * WIDTH and inside == height
            if c_row > PANEL:  # rows lie far apart: the processor does not foresee the next ones
                following = min(height, rows - i - inside)
                prefetch_rows_to_write(c_tile + height * c_row, c_row, following, columns * size)
            if not whole:
                tile, tile_row = scratch, vectors * WIDTH
                if begin != 0 and begin_row != 0:
                    for r in range(inside):
                        copy_row(tile + r * tile_row, start + r * begin_row, columns, like)
                    start, start_row = tile, tile_row
            if vectors == 1:
                _tile_8x1(k, a_tile, a_row, a_step, inside, panel, start, start_row, tile, tile_row, like)
            elif vectors < VECTORS:
                _tile_8x2(k, a_tile, a_row, a_step, inside, panel, start, start_row, tile, tile_row, like)
            elif height == 6:
                _tile_6x4(k, a_tile, a_row, a_step, inside, panel, start, start_row, tile, tile_row, like)
            elif height == 5:
                _tile_5x4(k, a_tile, a_row, a_step, inside, panel, start, start_row, tile, tile_row, like)
            else:
                _tile_4x4(k, a_tile, a_row, a_step, inside, panel, start, start_row, tile, tile_row, like)
            if not whole:
                for r in range(inside):
                    copy_row(c_tile + r * c_row, tile + r * tile_row, columns, like)

    return multiplier
