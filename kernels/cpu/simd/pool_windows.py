"""SIMD over pooling windows: the lanes of a register are neighbouring outputs of a row, whatever the window and stride.

Addresses are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.simd.memory import WIDTH, get_vector, splat

_WORD = ir.IntType(32)


class Lanes:
    """Code for registers whose lanes are elements of a row, ``step`` apart; lanes beyond either end of it are masked.

    A step of 1 or 2 that is known at compile time is an ``int``; any other is an ``ir`` value, and needs gather and
    scatter instructions.
    """

    def __init__(self, builder: ir.IRBuilder, number: ir.Type, size: int, step: Any) -> None:
        self.builder, self.size, self.step = builder, size, step
        self.count = WIDTH // size
        self.taps_at_a_time = 2 if step == 2 else 1
        self.numbers, self.words = ir.VectorType(number, self.count), ir.VectorType(_WORD, self.count)

    def splat(self, value: Any) -> Any:
        return splat(self.builder, value, self.count)

    def columns(self, first: Any, step: Any) -> Any:
        """``first + step * lane``, in 32 bits."""
        lane = ir.Constant(self.words, list(range(self.count)))
        if step != 1:
            factor = _WORD(step) if isinstance(step, int) else self.builder.trunc(step, _WORD)
            lane = self.builder.mul(lane, self.splat(factor))
        return self.builder.add(self.splat(self.builder.trunc(first, _WORD)), lane)

    def place(self, row: Any, column: Any, size: int) -> Any:
        """The address of a column of a row whose elements have so many bytes."""
        return self.builder.add(row, self.builder.mul(column, column.type(size)))

    def _places(self, kind: ir.Type, row: Any, column: Any, width: Any, step: Any) -> tuple[str, list[Any]]:
        """The suffix of the names of LLVM's masked loads and stores, and their arguments: address, alignment
        and mask.
        """
        size = self.size if kind == self.numbers else 4
        place = self.place(row, column, size)
        pointer, address = kind.as_pointer(), "p0"
        if step != 1:
            lane = ir.Constant(ir.VectorType(place.type, self.count), list(range(self.count)))
            offset = self.builder.mul(lane, self.splat(self.builder.mul(step, step.type(size))))
            place = self.builder.add(self.splat(place), offset)
            pointer, address = ir.VectorType(kind.element.as_pointer(), self.count), f"v{self.count}p0"
        end = self.splat(self.builder.trunc(width, _WORD))
        inside = self.builder.icmp_unsigned("<", self.columns(column, step), end)
        suffix = f"v{self.count}{'f' if kind == self.numbers else 'i'}{8 * size}.{address}"
        return suffix, [self.builder.inttoptr(place, pointer), _WORD(size), inside]

    def _call(self, name: str, result: ir.Type, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.masked.{name}"), arguments
        )

    def read(self, row: Any, column: Any, width: Any, other: Any, step: Any = 1) -> Any:
        """The elements of a row from ``column`` on; beyond the row, the lanes of ``other``.  A step of 1 along a row
        whose ``width`` is None reads what is there.
        """
        if width is None:
            return get_vector(self.builder, self.place(row, column, self.size), other.type, self.size)
        suffix, places = self._places(other.type, row, column, width, step)
        return self._call(f"{'load' if step == 1 else 'gather'}.{suffix}", other.type, [*places, other])

    def read_taps(self, row: Any, column: Any, width: Any, other: Any) -> list[Any]:
        """What the windows, a step apart, read at one tap (the first of them at ``column``), or at two neighbouring
        taps if the step is 2: two loads have the pixels of both.
        """
        if self.taps_at_a_time == 1:
            return [self.read(row, column, width, other, self.step)]
        next_column = self.builder.add(column, column.type(self.count))
        return self.in_turn([self.read(row, place, width, other) for place in (column, next_column)])

    def in_turn(self, pair: list[Any]) -> list[Any]:
        """The even elements of two registers that follow one another, and the odd ones."""
        return [
            self.builder.shuffle_vector(*pair, ir.Constant(self.words, list(range(first, 2 * self.count, 2))))
            for first in (0, 1)
        ]

    def write(self, values: Any, row: Any, column: Any, width: Any, step: Any = 1) -> None:
        """Write the lanes to a row from ``column`` on, up to its end."""
        suffix, places = self._places(values.type, row, column, width, step)
        self._call(f"{'store' if step == 1 else 'scatter'}.{suffix}", ir.VoidType(), [values, *places])

    def write_in_turn(self, even: Any, odd: Any, row: Any, column: Any, width: Any) -> None:
        """Write the interleaved lanes of two registers to a row from ``column`` on, up to its end."""
        for half in (0, self.count // 2):
            order = [lane + other for lane in range(half, half + self.count // 2) for other in (0, self.count)]
            values = self.builder.shuffle_vector(even, odd, ir.Constant(self.words, order))
            self.write(values, row, self.builder.add(column, column.type(2 * half)), width)


def repeat(builder: ir.IRBuilder, count: Any, body: Callable[[Any], None], by: int = 1) -> None:
    """Code for ``body(i)`` for i in range(0, count, by): unrolled if the count is known at compile time, else a loop
    with ``by`` = 1.
    """
    if isinstance(count, int):
        for i in range(0, count, by):
            body(i)
    else:
        with cgutils.for_range(builder, count) as loop:
            body(loop.index)


def _plus(builder: ir.IRBuilder, value: Any, more: Any) -> Any:
    return builder.add(value, value.type(more) if isinstance(more, int) else more)


def _rows(builder: ir.IRBuilder, first: Any, last: Any) -> Any:
    """A loop over [first, last), which may be empty."""
    count = builder.sub(last, first)
    return cgutils.for_range(
        builder, builder.select(builder.icmp_signed(">", count, count.type(0)), count, count.type(0))
    )


def _gather(largest: bool) -> Callable[..., None]:
    @intrinsic
    def gather(context, y, mask, x, top, bottom, column, taps, stride, width, count, start, known_taps, known_stride):
        def generate(context, builder, signature, arguments):
            y, mask, x, top, bottom, column, taps, stride, width, count, start_value, _, _ = arguments
            size = start.bitwidth // 8
            step, taps = known_stride.count or stride, known_taps.count or taps
            lanes = Lanes(builder, start_value.type, size, step)
            other = lanes.splat(start_value)
            best, where = cgutils.alloca_once(builder, lanes.numbers), cgutils.alloca_once(builder, lanes.words)
            builder.store(other, best)
            builder.store(ir.Constant(lanes.words, [-1] * lanes.count), where)
            with _rows(builder, top, bottom) as row:
                first = builder.mul(builder.add(top, row.index), width)
                line = builder.add(x, builder.mul(first, first.type(size)))

                def take(pixel, at):
                    before = builder.load(best)
                    if largest:
                        # larger, or the first NaN
                        above = builder.and_(
                            builder.fcmp_unordered(">", pixel, before), builder.fcmp_ordered("ord", before, before)
                        )
                        place = lanes.columns(builder.add(first, at), step)
                        builder.store(builder.select(above, pixel, before), best)
                        builder.store(builder.select(above, place, builder.load(where)), where)
                    else:
                        builder.store(builder.fadd(before, pixel), best)

                def take_from(tap):
                    at = _plus(builder, column, tap)
                    for more, pixel in enumerate(lanes.read_taps(line, at, width, other)):
                        if more == 0 or tap + more < taps:
                            take(pixel, _plus(builder, at, more))

                repeat(builder, taps, take_from, lanes.taps_at_a_time)
            lanes.write(builder.load(best), y, count.type(0), count)
            if largest:
                lanes.write(builder.load(where), mask, count.type(0), count)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10, start, known_taps, known_stride), generate

    return gather


def _scatter(masked: bool) -> Callable[..., None]:
    @intrinsic
    def scatter(
        context,
        dx,
        dy,
        mask,
        first,
        last,
        place,
        column,
        window,
        taps,
        stride,
        width,
        count,
        like,
        known_taps,
        known_stride,
    ):
        def generate(context, builder, signature, arguments):
            dx, dy, mask, first, last, place, column, window, taps, stride, width, count, zero, _, _ = arguments
            size = like.bitwidth // 8
            step, taps = known_stride.count or stride, known_taps.count or taps
            lanes = Lanes(builder, zero.type, size, step)
            nothing, nowhere = lanes.splat(zero), ir.Constant(lanes.words, [-1] * lanes.count)

            def totals(offsets, visit):
                """The gradients of the pixels in columns ``column + offset``, a step apart.

                ``visit(add)`` calls ``add(j, which)`` for each window ``j`` of a row and the offsets that it covers.
                """
                kept = [cgutils.alloca_once(builder, lanes.numbers) for _ in offsets]
                here = [lanes.columns(builder.add(place, _plus(builder, column, offset)), step) for offset in offsets]
                for slot in kept:
                    builder.store(nothing, slot)
                with _rows(builder, first, last) as row:
                    line = builder.mul(builder.add(first, row.index), count)
                    values = builder.add(dy, builder.mul(line, line.type(size)))
                    places = builder.add(mask, builder.mul(line, line.type(4)))

                    def add(j, which):
                        value = lanes.read(values, j, count, nothing)
                        chosen = lanes.read(places, j, count, nowhere) if masked else None
                        for i in which:
                            part = value
                            if masked:
                                part = builder.select(builder.icmp_signed("==", chosen, here[i]), value, nothing)
                            builder.store(builder.fadd(builder.load(kept[i]), part), kept[i])

                    visit(add)
                return [builder.load(slot) for slot in kept]

            def visit_known(add):
                for back in reversed(range(-(-taps // step))):
                    add(_plus(builder, window, -back), [r for r in range(step) if r + back * step < taps])

            def write_any(offset):
                met = builder.sdiv(builder.add(builder.sub(taps, offset), _plus(builder, step, -1)), step)
                earliest = _plus(builder, builder.sub(window, met), 1)

                def visit(add):
                    repeat(builder, met, lambda i: add(builder.add(earliest, i), [0]))

                lanes.write(*totals([offset], visit), dx, builder.add(column, offset), width, step)

            if step == 1:
                lanes.write(*totals([0], visit_known), dx, column, width)
            elif step == 2:
                lanes.write_in_turn(*totals([0, 1], visit_known), dx, column, width)
            else:
                repeat(builder, step, write_any)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 12, like, known_taps, known_stride), generate

    return scatter


gather_max, gather_sum = _gather(largest=True), _gather(largest=False)
"""``(y, mask, x, top, bottom, column, taps, stride, width, count, start, known_taps, known_stride)``: neighbouring
outputs.

The windows cover rows ``top`` .. ``bottom`` - 1 of image x, which has rows of ``width`` pixels, and ``taps`` columns
each; the first one starts at ``column``, each of the others a stride later.  The first ``count`` outputs are written to
y. ``gather_max`` writes the first NaN, else the largest pixel above ``start``, to y and its index to the mask, or else
``start`` and -1;
``gather_sum`` adds the pixels to ``start``.
"""

scatter_max, scatter_sum = _scatter(masked=True), _scatter(masked=False)
"""``(dx, dy, mask, first, last, place, column, window, taps, stride, width, count, zero, known_taps, known_stride)``.

The gradient, for ``stride`` registers of columns of a row dx from ``column`` on, where window number ``window`` starts.
The row has ``width`` columns and starts at index ``place`` of its plane.  A pixel gets the sum of dy over the windows
that cover it, out of the rows of windows ``first`` .. ``last`` - 1, which have ``count`` windows each; ``scatter_max``
adds only those whose mask is the index of the pixel.
"""


def known(taps: int, stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tuples whose lengths tell the compiler the columns and the stride of a small window; empty ones leave
    them open.
    """
    return ((0,) * taps, (0,) * stride) if taps <= 5 and stride <= 2 else ((), ())
