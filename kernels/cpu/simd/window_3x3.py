"""Windows of 3 x 3 over one channel, which is read where it lies: there is no padded copy.

The positions of the windows are gone through in *strips*, as wide as a register and as high as the channel, or a band
of it.  Down a strip each row of pixels is read once, as three registers: what is under the left, the middle and the
right taps.  They stay in registers for all windows that the row is in.  Pixels beyond the margins are 0: within a row
they are masked, and rows outside are read from zeros.

``sizes`` are the rows and the columns of the pixels and those of the positions, the stride, which is 1 or 2, and the
padding above and on the left, which may be negative.  What is said to be an address is one; a channel's rows follow one
another there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import quotient, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.memory import (
    WIDTH,
    fma,
    get_masked,
    get_vector,
    prefetch_line,
    put_masked,
    put_vector,
    splat,
)
from minicaffe.kernels.cpu.simd.rectify import rectified

_WORD, _LANE = ir.IntType(64), ir.IntType(32)
_EXTENT, TAPS = 3, 9
_BAND = 1 << 13
"""Bytes of the rows of pixels that a strip goes down at most: what neighbouring strips share stays in the L1 cache."""
_AHEAD = 1 << 11
"""How many bytes ahead pixels and positions are prefetched: they may be in another core's cache."""


class _Code(NamedTuple):
    """What the pieces of code for a strip share."""

    builder: ir.IRBuilder
    kind: ir.Type
    """A register of elements."""
    size: int
    """Bytes of one."""

    def bytes_of(self, count: Any) -> Any:
        return self.builder.mul(count, _WORD(self.size))

    def lanes_within(self, first: Any, end: Any) -> Any:
        """The mask of the lanes whose number, ``first`` that of the first lane, is from 0 on and below ``end``."""
        builder, count = self.builder, self.kind.count
        places = ir.Constant(ir.VectorType(_LANE, count), list(range(count)))
        number = builder.add(splat(builder, builder.trunc(first, _LANE), count), places)
        return builder.icmp_unsigned("<", number, splat(builder, builder.trunc(end, _LANE), count))

    def get(self, address: Any, mask: Any) -> Any:
        """The lanes of a register that a mask tells; all of them if it is None."""
        if mask is None:
            return get_vector(self.builder, address, self.kind, self.size)
        return get_masked(self.builder, address, self.kind, self.size, mask)

    def put(self, vector: Any, address: Any, mask: Any) -> None:
        if mask is None:
            put_vector(self.builder, vector, address, self.size)
        else:
            put_masked(self.builder, vector, address, self.size, mask)

    def picked(self, a: Any, b: Any, places: Any) -> Any:
        """The elements at these places of two registers one behind the other."""
        places = list(places)
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_LANE, len(places)), places))

    def factors(self, weights: Any, step: Any) -> list[list[Any]]:
        """Registers full of each weight, row by row; the weights are ``step`` bytes apart."""
        places = [self.further(weights, _WORD(tap), step) for tap in range(TAPS)]
        return [[self.full_of(place) for place in places[i : i + _EXTENT]] for i in range(0, TAPS, _EXTENT)]

    def full_of(self, address: Any) -> Any:
        """A register full of the number at an address."""
        builder, kind = self.builder, self.kind
        return splat(builder, builder.load(builder.inttoptr(address, kind.element.as_pointer())), kind.count)

    def further(self, address: Any, count: Any, distance: Any) -> Any:
        """The address ``count`` times a distance further on."""
        return self.builder.add(address, self.builder.mul(count, distance))

    def weighted(self, total: Any, factors: list[Any], registers: list[Any]) -> Any:
        """The total plus each factor times its register; None counts as 0."""
        for factor, register in zip(factors, registers, strict=True):
            if total is None:
                total = self.builder.fmul(factor, register)
            else:
                total = fma(self.builder, factor, register, total)
        return total


class _Rows:
    """Code for the rows of a channel, ``height`` of ``width`` elements, under a strip.

    Row 0 has the element that is number ``left`` of the row at ``source``.  Registers are read from there and from
    so many ``starts`` elements further on; only what is within the rows if the strip is not ``whole``.  What follows
    each row ``_AHEAD`` bytes further on is prefetched.
    """

    def __init__(
        self, code: _Code, source: Any, height: Any, width: Any, left: Any, starts: list[int], whole: bool
    ) -> None:
        self._code, self._source, self._height, self._row = code, source, height, code.bytes_of(width)
        builder = code.builder
        self._masks = {
            start: None if whole else code.lanes_within(builder.add(left, _WORD(start)), width) for start in starts
        }
        count = WIDTH + max(starts) * code.size
        zeros = ir.Constant(ir.ArrayType(ir.IntType(8), count), bytearray(count))
        self._zeros = builder.ptrtoint(cgutils.global_constant(builder, "zeros", zeros), _WORD)

    def at(self, index: Any) -> list[Any]:
        """The registers of a row, which may be outside."""
        code, builder = self._code, self._code.builder
        inside = builder.icmp_unsigned("<", index, self._height)
        address = builder.add(self._source, builder.mul(index, self._row))
        for start in range(0, max(self._masks) + 1, code.kind.count):
            prefetch_line(builder, builder.add(address, _WORD(_AHEAD + start * code.size)))
        address = builder.select(inside, address, self._zeros)
        return [code.get(builder.add(address, _WORD(start * code.size)), mask) for start, mask in self._masks.items()]


class _Windows:
    """Code for the rows of pixels under a strip of windows, whose left taps at the first position are the pixels
    number ``left``, that of row 0 at ``source``.
    """

    def __init__(self, code: _Code, stride: int, source: Any, sizes: Any, left: Any, whole: bool) -> None:
        lanes = code.kind.count
        starts = [0, 1, 2] if stride == 1 else [0, lanes, 1, lanes + 1]
        self._code, self._stride = code, stride
        self._rows = _Rows(code, source, sizes[0], sizes[1], left, starts, whole)

    def _under(self, index: Any) -> list[Any]:
        """The registers under the left, the middle and the right taps in a row."""
        read, code, both = self._rows.at(index), self._code, 2 * self._code.kind.count
        if self._stride == 1:
            return read
        even, odd = range(0, both, 2), range(1, both, 2)
        first, second, third, last = read
        return [code.picked(first, second, even), code.picked(first, second, odd), code.picked(third, last, odd)]

    @contextmanager
    def down(self, top: Any, number: Any) -> Iterator[tuple[Any, list[list[Any]]]]:
        """The body of a loop over rows of positions, the first with its upper taps in row ``top``: the row's number
        and the registers under its windows.
        """
        builder, stride = self._code.builder, self._stride
        above = [self._under(builder.add(top, _WORD(i))) for i in range(_EXTENT - stride)]
        kept = [[cgutils.alloca_once_value(builder, register) for register in row] for row in above]
        with cgutils.for_range(builder, number) as row:
            at = builder.add(top, builder.mul(row.index, _WORD(stride)))
            under = [[builder.load(place) for place in places] for places in kept]
            under += [self._under(builder.add(at, _WORD(i))) for i in range(_EXTENT - stride, _EXTENT)]
            yield row.index, under
            for places, registers in zip(kept, under[stride:], strict=True):
                for place, register in zip(places, registers, strict=True):
                    builder.store(register, place)


def _twice(builder: ir.IRBuilder, whole: Any, generate: Callable[[bool], None]) -> None:
    """Code for a strip that is whole, and for one that is not."""
    with builder.if_else(whole) as (then, otherwise):
        with then:
            generate(True)
        with otherwise:
            generate(False)


def _correlation(stride: int) -> Any:
    """An intrinsic that goes down a strip of ``number`` rows in some channels for ``correlate_3x3``; ``place`` is what
    ``_place`` tells of it.
    """

    @intrinsic
    def correlate(context, target, source, place, number, sizes, channels, weights, step, starts, slope):
        def generate(context, builder, signature, arguments):
            target, source, place, number, sizes, channels, weights, step, starts, slope = arguments
            top, left, count, whole = cgutils.unpack_tuple(builder, place)
            sizes, size = cgutils.unpack_tuple(builder, sizes), context.get_abi_sizeof(slope.type)
            code = _Code(builder, ir.VectorType(slope.type, WIDTH // size), size)
            pixels, positions = (code.bytes_of(builder.mul(*sizes[i : i + 2])) for i in (0, 2))
            target_row = code.bytes_of(sizes[3])

            def strip(whole: bool) -> None:
                written = None if whole else code.lanes_within(_WORD(0), count)
                with cgutils.for_range(builder, channels) as channel:
                    first = code.further(target, channel.index, positions)
                    factors = code.factors(code.further(weights, channel.index, _WORD(TAPS * size)), step)
                    start = code.full_of(code.further(starts, channel.index, _WORD(size)))
                    under_it = code.further(source, channel.index, pixels)
                    with _Windows(code, stride, under_it, sizes, left, whole).down(top, number) as (row, under):
                        total = start
                        for own, registers in zip(factors, under, strict=True):
                            total = code.weighted(total, own, registers)
                        at = code.further(first, row, target_row)
                        prefetch_line(builder, builder.add(at, _WORD(_AHEAD)), writes=True)
                        code.put(rectified(builder, total, slope), at, written)

            _twice(builder, builder.icmp_signed("!=", whole, _WORD(0)), strip)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 2, place, types.intp, sizes, *[types.intp] * 4, slope), generate

    return correlate


def _products(stride: int) -> Any:
    """An intrinsic that goes down a strip of ``number`` rows for ``add_products_3x3``."""

    @intrinsic
    def products(context, sums, factors, source, place, number, sizes, like):
        def generate(context, builder, signature, arguments):
            sums, factors, source, place, number, sizes, _ = arguments
            top, left, count, whole = cgutils.unpack_tuple(builder, place)
            sizes, size = cgutils.unpack_tuple(builder, sizes), like.bitwidth // 8
            code = _Code(builder, ir.VectorType(context.get_value_type(like), WIDTH // size), size)
            row_bytes = code.bytes_of(sizes[3])
            places = [builder.add(sums, _WORD(tap * WIDTH)) for tap in range(TAPS)]

            def strip(whole: bool) -> None:
                read = None if whole else code.lanes_within(_WORD(0), count)
                totals = [cgutils.alloca_once_value(builder, code.get(at, None)) for at in places]
                windows = _Windows(code, stride, source, sizes, left, whole)
                with windows.down(top, number) as (row, under):
                    values = code.get(builder.add(factors, builder.mul(row, row_bytes)), read)
                    for total, register in zip(totals, [each for row in under for each in row], strict=True):
                        builder.store(fma(builder, values, register, builder.load(total)), total)
                for total, at in zip(totals, places, strict=True):
                    code.put(builder.load(total), at, None)

            _twice(builder, builder.icmp_signed("!=", whole, _WORD(0)), strip)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3, place, types.intp, sizes, like), generate

    return products


@intrinsic
def _spread(context, target, source, first, column, number, whole, sizes, weights, like):
    """Go down a strip of ``number`` rows for ``spread_3x3``, from row ``first`` of the gradients on, and from
    ``column`` on.

    Of the padded image, row 2 p is under the upper taps at row p and under the lower ones at row p - 1, row 2 p + 1
    under those in the middle at row p; its columns likewise.
    """

    def generate(context, builder, signature, arguments):
        target, source, first, column, number, whole, sizes, weights, _ = arguments
        height, width, rows, columns, _, above, before = cgutils.unpack_tuple(builder, sizes)
        size = like.bitwidth // 8
        code = _Code(builder, ir.VectorType(context.get_value_type(like), WIDTH // size), size)
        lanes, factors, row_bytes = code.kind.count, code.factors(weights, _WORD(size)), code.bytes_of(width)
        left = builder.sub(builder.mul(column, _WORD(2)), before)

        def sums(terms: list[tuple[list[Any], list[Any]]]) -> tuple[Any, Any]:
            """Of rows of weights and what is under them at a column and at the one before: for the even and for the
            odd columns.
            """
            even = odd = None
            for (outer, middle, other), (here, behind) in terms:
                even = code.weighted(even, [outer, other], [here, behind])
                odd = code.weighted(odd, [middle], [here])
            return even, odd

        def strip(whole: bool) -> None:
            starts = left, builder.add(left, _WORD(lanes))
            written = [None if whole else code.lanes_within(start, width) for start in starts]
            gradients = _Rows(code, source, rows, columns, builder.sub(column, _WORD(1)), [1, 0], whole)
            kept = [cgutils.alloca_once_value(builder, each) for each in gradients.at(builder.sub(first, _WORD(1)))]
            with cgutils.for_range(builder, number) as step:
                p = builder.add(first, step.index)
                under, before = gradients.at(p), [builder.load(place) for place in kept]
                for parity, terms in enumerate(([(factors[0], under), (factors[2], before)], [(factors[1], under)])):
                    even, odd = sums(terms)
                    row = builder.sub(builder.add(builder.mul(p, _WORD(2)), _WORD(parity)), above)
                    with builder.if_then(builder.icmp_unsigned("<", row, height)):
                        at = builder.add(target, builder.mul(row, row_bytes))
                        for half, mask in enumerate(written):
                            woven = [i // 2 + i % 2 * lanes for i in range(half * lanes, (half + 1) * lanes)]
                            code.put(code.picked(even, odd, woven), builder.add(at, _WORD(half * WIDTH)), mask)
                for register, place in zip(under, kept, strict=True):
                    builder.store(register, place)

        _twice(builder, builder.icmp_signed("!=", whole, _WORD(0)), strip)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6, sizes, types.intp, like), generate


_correlate_1, _correlate_2 = map(_correlation, (1, 2))
_products_1, _products_2 = map(_products, (1, 2))


@kernel(inline=True)
def _band(sizes, size):
    """Rows of positions in a band."""
    return max(1, quotient(_BAND, sizes[4] * sizes[1] * size))


@kernel(inline=True)
def _place(sizes, row, column, lanes):
    """Where the strip from a position on lies: the row and the column of the pixel under its first window's corner, how
    many columns are left, and whether it is whole.
    """
    _, width, _, columns, stride, above, before = sizes
    left, count = column * stride - before, columns - column
    whole = count >= lanes and left >= 0 and left + (lanes - 1) * stride + _EXTENT <= width
    return row * stride - above, left, count, np.intp(whole)


@kernel(internal=True)
def correlate_3x3(target, source, sizes, channels, weights, step, starts, slope):
    """Write, at all positions of some channels that follow one another, the channel's number at ``starts`` and the sum
    of weight times pixel, what is negative times ``slope``.

    ``target``, ``source``, ``weights`` and ``starts`` are addresses; the weights are ``step`` bytes apart.
    """
    _, _, rows, columns, stride, _, _ = sizes
    size = size_of(slope)
    lanes, band = WIDTH // size, _band(sizes, size)
    for row in range(0, rows, band):
        number = min(band, rows - row)
        for column in range(0, columns, lanes):
            place = _place(sizes, row, column, lanes)
            to, at = target + (row * columns + column) * size, source + place[1] * size
            if stride == 1:
                _correlate_1(to, at, place, number, sizes, channels, weights, step, starts, slope)
            else:
                _correlate_2(to, at, place, number, sizes, channels, weights, step, starts, slope)


@kernel(internal=True)
def add_products_3x3(sums, factors, source, sizes, like):
    """Add to the sum of each tap, a register whose lanes add up to it, factor times the pixel under it at all
    positions.

    ``sums``, ``factors`` and ``source`` are addresses.
    """
    _, _, rows, columns, stride, _, _ = sizes
    size = size_of(like)
    lanes, band = WIDTH // size, _band(sizes, size)
    for row in range(0, rows, band):
        number = min(band, rows - row)
        for column in range(0, columns, lanes):
            place = _place(sizes, row, column, lanes)
            to, at = factors + (row * columns + column) * size, source + place[1] * size
            if stride == 1:
                _products_1(sums, to, at, place, number, sizes, like)
            else:
                _products_2(sums, to, at, place, number, sizes, like)


@kernel(internal=True)
def spread_3x3(target, source, sizes, weights, like):
    """Write to the pixels their gradients: the sum of weight times gradient of the positions whose windows they are
    in.  The stride is 2; ``target``, ``source`` and ``weights`` are addresses.
    """
    height, width, _, columns, _, above, before = sizes
    size = size_of(like)
    lanes, band = WIDTH // size, _band(sizes, size)
    pairs = quotient(height + above + 1, 2)
    for first in range(0, pairs, band):
        number = min(band, pairs - first)
        for column in range(0, quotient(width + before + 1, 2), lanes):
            left = 2 * column - before
            whole = column > 0 and column + lanes <= columns and left >= 0 and left + 2 * lanes <= width
            to, at = target + left * size, source + (column - 1) * size
            _spread(to, at, first, column, number, np.intp(whole), sizes, weights, like)
