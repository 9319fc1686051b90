"""The micro-kernel and the macro-kernel of every matrix product, in the terms of Goto and van de Geijn (2008) and BLIS.

A *micro-kernel* updates a tile of C, MR rows by NR columns, which it holds in SIMD registers while it sums over k.  The
*macro-kernel* runs it down the rows of A for one *panel* of B: a block of k rows and NR columns, whose rows are
``vectors`` registers and mostly packed, one behind the other in memory.  A is not packed: its elements are read where
they are, one at a time, and broadcast.

Memory is addressed in bytes, so that one kernel serves matrices of any layout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import LINE, size_of
from minicaffe.kernels.cpu.runtime.compile import callback, caller, kernel
from minicaffe.kernels.cpu.simd.memory import (
    REGISTERS,
    WIDTH,
    copy_row,
    fma,
    get_vector,
    prefetch_line,
    prefetch_rows,
    put_vector,
    splat,
)
from minicaffe.kernels.cpu.simd.rectify import rectified

VECTORS = 4 if REGISTERS == 32 else 2
"""Registers in a row of a full panel.  With six rows of C they make as many accumulators as the 32 or 16 registers of
the processor can hold."""
PANEL = VECTORS * WIDTH
"""NR of a full panel, in bytes."""
KC = 128
"""Rows of a full panel that are multiplied at a time; see ``panel_kc``."""
MR_MAX = 8
"""The largest MR: a tile has 4, 5 or 6 rows if its panel is full, and 8 if it is not."""
MC = 60
"""Rows of A that meet all panels in the cache before the next rows do, where their product is to stay in the L1 cache:
a multiple of 4, 5 and 6.
"""
L2 = 1 << 19
"""Bytes that may be expected to stay in the L2 cache."""
MULTIPLICATIONS_PER_CYCLE = 26
"""Multiplications, each with an addition, that the micro-kernel makes in a cycle; measured, for estimates only."""


def _define_micro_kernel(
    module: ir.Module, name: str, rows: int, vectors: int, scalar: ir.Type, size: int
) -> ir.Function:
    """The LLVM function behind ``_micro_kernel``: ``C = initial + A B`` for C (rows, vectors registers), rectified
    unless ``slope`` is 0.
    """
    word = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 16), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    k, a, a_row, a_step, a_rows, b, b_row, initial, initial_row, c, c_row, slope, *far = function.args
    lanes = WIDTH // size
    kind = ir.VectorType(scalar, lanes)
    labels = "entry", "apart", "ready", "started", "numbers", "matrix", "loop", "done", "rectifying", "plain"
    entry, apart, ready, started, *labelled = map(function.append_basic_block, labels)
    numbers, matrix, loop, done, rectifying, plain = labelled
    places = [(r, v) for r in range(rows) for v in range(vectors)]

    builder = ir.IRBuilder(entry)
    last = builder.sub(a_rows, word(1))
    # rows beyond the last one of A repeat it, so that nothing outside A is read
    a_number = [builder.select(builder.icmp_signed("<", word(r), a_rows), word(r), last) for r in range(rows)]
    a_offsets = [builder.mul(a_row, r) for r in a_number]
    zero = ir.Constant(kind, [0.0] * lanes)
    # the hardware prefetches no rows of C that are far apart
    builder.cbranch(builder.icmp_signed(">", c_row, word(PANEL)), apart, ready)
    builder.position_at_end(apart)
    for r, v in places:
        at = builder.add(builder.add(c, builder.mul(c_row, word(r))), word(v * WIDTH))
        prefetch_line(builder, at, writes=True)
    builder.branch(ready)
    builder.position_at_end(ready)
    builder.cbranch(builder.icmp_signed("!=", initial, word(0)), started, loop)
    builder.position_at_end(started)
    builder.cbranch(builder.icmp_signed("!=", initial_row, word(0)), matrix, numbers)

    def number_at(address: Any) -> Any:
        return splat(builder, builder.load(builder.inttoptr(address, scalar.as_pointer())), lanes)

    def places_of(first: Any, row: Any) -> dict[tuple[int, int], Any]:
        lines = [builder.add(first, builder.mul(row, word(r))) for r in range(rows)]
        return {(r, v): builder.add(lines[r], word(v * WIDTH)) for r, v in places}

    builder.position_at_end(numbers)
    row_numbers = [number_at(builder.add(initial, builder.mul(r, word(size)))) for r in a_number]
    builder.branch(loop)

    builder.position_at_end(matrix)
    earlier = {place: get_vector(builder, at, kind, size) for place, at in places_of(initial, initial_row).items()}
    builder.branch(loop)

    builder.position_at_end(loop)
    left, at, panel, *coming = (builder.phi(word) for _ in range(3 + len(far) // 2))
    sums = {place: builder.phi(kind) for place in places}
    b_numbers = [get_vector(builder, builder.add(panel, word(v * WIDTH)), kind, size) for v in range(vectors)]
    for line in coming:
        prefetch_line(builder, line)
    totals = {}
    for r in range(rows):
        broadcast = number_at(builder.add(at, a_offsets[r]))
        for v in range(vectors):
            totals[r, v] = fma(builder, broadcast, b_numbers[v], sums[r, v])
    next_left = builder.sub(left, word(1))
    following = [
        (left, k, next_left),
        (at, a, builder.add(at, a_step)),
        (panel, b, builder.add(panel, b_row)),
        *(
            (line, first, builder.add(line, step))
            for line, first, step in zip(coming, far[::2], far[1::2], strict=True)
        ),
    ]
    for phi, first, then in following:
        for before in (ready, numbers, matrix):
            phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    for place in places:
        sums[place].add_incoming(zero, ready)
        sums[place].add_incoming(row_numbers[place[0]], numbers)
        sums[place].add_incoming(earlier[place], matrix)
        sums[place].add_incoming(totals[place], loop)
    builder.cbranch(builder.icmp_signed(">", next_left, word(0)), loop, done)

    builder.position_at_end(done)
    builder.cbranch(builder.icmp_signed("!=", slope, word(0)), rectifying, plain)

    def finish(block: ir.Block, result: Callable[[Any], Any]) -> None:
        builder.position_at_end(block)
        for place, at in places_of(c, c_row).items():
            put_vector(builder, result(totals[place]), at, size)
        builder.ret_void()

    finish(plain, lambda total: total)
    builder.position_at_end(rectifying)
    factor = builder.load(builder.inttoptr(slope, scalar.as_pointer()))
    finish(rectifying, lambda total: rectified(builder, total, factor))
    return function


def _micro_kernel(rows: int, vectors: int) -> Callable[..., None]:
    """A function that computes a tile; arguments: ``(k, a, a_row, a_step, a_rows, b, b_row, initial, initial_row, c,
    c_row, slope, ahead, ahead_step, line, line_step, like)``.

    C (rows, vectors registers) becomes the initial value plus A (a_rows <= rows, k > 0) times the panel b (k, vectors).
    a_row, a_step, b_row, initial_row and c_row are the distances in bytes between rows, and between neighbours in a row
    of A.
    With each row of the panel the lines at ``ahead`` and ``line`` are prefetched, which then move on by
    ``ahead_step`` and ``line_step`` bytes; ``like`` has the dtype.  See ``macro_kernel`` for ``initial`` and
    ``slope``.
    """

    @intrinsic
    def micro_kernel(
        context,
        k,
        a,
        a_row,
        a_step,
        a_rows,
        b,
        b_row,
        initial,
        initial_row,
        c,
        c_row,
        slope,
        ahead,
        ahead_step,
        line,
        line_step,
        like,
    ):
        def generate(context, builder, signature, arguments):
            size = like.bitwidth // 8
            name = f"minicaffe.micro_kernel.{rows}x{vectors}.{like}"
            function = builder.module.globals.get(name) or _define_micro_kernel(
                builder.module, name, rows, vectors, context.get_value_type(like), size
            )
            builder.call(function, arguments[:-1])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 16, like), generate

    return micro_kernel


_micro_4x4, _micro_5x4, _micro_6x4 = (_micro_kernel(rows, VECTORS) for rows in (4, 5, 6))
_micro_8x2, _micro_8x1 = _micro_kernel(MR_MAX, 2), _micro_kernel(MR_MAX, 1)


@kernel(inline=True)
def panel_kc(vectors):
    """KC of a panel: the rows that fill as much of the L1 cache as KC rows of a full panel."""
    return KC * VECTORS // vectors


@kernel(inline=True)
def panel_vectors(columns, lanes):
    """Registers in a row of the panel that holds this many columns."""
    if columns > 2 * lanes:
        return VECTORS
    return min(2 if columns > lanes else 1, VECTORS)


@kernel(inline=True)
def _choose_mr(rows, vectors):
    """The MR that costs least: tiles may reach beyond the last row, and each has an overhead of about one row."""
    if vectors < VECTORS:
        return MR_MAX
    best, least = 6, -(-rows // 6) * 7
    for mr in (5, 4):
        cost = -(-rows // mr) * (mr + 1)
        if cost < least:
            best, least = mr, cost
    return best


macro_kernel = caller(
    "rows",
    "columns",
    "k",
    "a",
    "a_row",
    "a_step",
    "panel",
    "panel_row",
    "vectors",
    "initial",
    "initial_row",
    "c",
    "c_row",
    "scratch",
    "slope",
    "first",
    "ahead",
    "ahead_bytes",
    "lines_ahead",
    "line_step",
)
"""``macro_kernel(code, ...)``: C (rows, columns) = an initial value + A (rows, k) times a panel (k, vectors), of rows
``panel_row`` bytes apart.

The initial value is the matrix at ``initial``, whose rows are ``initial_row`` bytes apart; if that is 0, one number for
each row; and 0 if ``initial`` is 0.  What is negative in C is multiplied by the number at ``slope``, unless that is 0.
Addresses and distances are in bytes.  ``scratch`` has room for one tile.  ``first`` is 1 if A is read for the first
time, so that it may be far away, and 0 if not.  ``ahead_bytes`` at ``ahead``, which will be needed next, are prefetched
bit by bit, unless ``ahead`` is 0.  So are, unless ``lines_ahead`` is 0, k pieces of memory ``line_step`` bytes apart,
of which the first begins there: of each the line that it begins in and those that follow, one for each tile.
``code`` is the address of the dtype's ``compiled_macro_kernel``.
"""


@functools.cache
def compiled_macro_kernel(dtype: np.dtype) -> Any:
    """The code behind ``macro_kernel``: compiled once, apart from the many kernels that call it at its ``address``."""
    like = dtype.type(0)

    @callback(types.void(*[types.intp] * 20))
    def compiled(
        rows,
        columns,
        k,
        a,
        a_row,
        a_step,
        panel,
        panel_row,
        vectors,
        initial,
        initial_row,
        c,
        c_row,
        scratch,
        slope,
        first,
        ahead,
        ahead_bytes,
        lines_ahead,
        line_step,
    ):
        size = size_of(like)
        mr = _choose_mr(rows, vectors)
        coming, step = panel, 0
        if ahead != 0:
            coming, step = ahead, -(-ahead_bytes // (-(-rows // mr) * k))
        line, next_line = lines_ahead, LINE
        if lines_ahead == 0:
            line, next_line, line_step = panel, 0, 0
        for i in range(0, rows, mr):
            inside = min(mr, rows - i)
            a_tile, c_tile, tile, tile_row = a + i * a_row, c + i * c_row, c + i * c_row, c_row
            start, start_row = initial, initial_row
            if initial != 0:
                start += i * (initial_row if initial_row != 0 else size)
            whole = columns * size == vectors * WIDTH and inside == mr
            if first != 0 and a_step == size:  # rows of A are too far apart for the hardware to prefetch the next ones
                prefetch_rows(a_tile + mr * a_row, a_row, min(mr, rows - i - inside), k * size)
            if not whole:
                tile, tile_row = scratch, vectors * WIDTH
                if initial != 0 and initial_row != 0:
                    for r in range(inside):
                        copy_row(tile + r * tile_row, start + r * initial_row, columns, like)
                    start, start_row = tile, tile_row
            if vectors == 1:
                _micro_8x1(
                    k, a_tile, a_row, a_step, inside, panel, panel_row, start, start_row, tile, tile_row, slope,
                    coming, step, line, line_step, like,
                )  # fmt: skip
            elif vectors < VECTORS:
                _micro_8x2(
                    k, a_tile, a_row, a_step, inside, panel, panel_row, start, start_row, tile, tile_row, slope,
                    coming, step, line, line_step, like,
                )  # fmt: skip
            elif mr == 6:
                _micro_6x4(
                    k, a_tile, a_row, a_step, inside, panel, panel_row, start, start_row, tile, tile_row, slope,
                    coming, step, line, line_step, like,
                )  # fmt: skip
            elif mr == 5:
                _micro_5x4(
                    k, a_tile, a_row, a_step, inside, panel, panel_row, start, start_row, tile, tile_row, slope,
                    coming, step, line, line_step, like,
                )  # fmt: skip
            else:
                _micro_4x4(
                    k, a_tile, a_row, a_step, inside, panel, panel_row, start, start_row, tile, tile_row, slope,
                    coming, step, line, line_step, like,
                )  # fmt: skip
            coming += step * k
            line += next_line
            if not whole:
                for r in range(inside):
                    copy_row(c_tile + r * c_row, tile + r * tile_row, columns, like)

    return compiled
