"""The rectification of what a kernel has just written, and its sum with what was there, while it is in the L1 cache."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import load, size_of
from minicaffe.kernels.cpu.runtime.compile import callback, called, caller
from minicaffe.kernels.cpu.simd.memory import WIDTH, access, fma, splat


def rectified(builder: ir.IRBuilder, vector: Any, slope: Any) -> Any:
    """Code for ``max(x, 0) + slope min(x, 0)``: an added 0 makes no negative zeros of what a slope of 0 takes away.

    A slope of 1 leaves every number alone, negative zeros included: a negative 0 is then added.
    """
    kind = vector.type
    plus, minus = (ir.Constant(slope.type, number) for number in (0.0, -0.0))
    level = builder.select(builder.fcmp_ordered("==", slope, ir.Constant(slope.type, 1.0)), minus, plus)
    below = fma(builder, vector, splat(builder, slope, kind.count), splat(builder, level, kind.count))
    return builder.select(builder.fcmp_ordered(">", vector, ir.Constant(kind, [0.0] * kind.count)), vector, below)


def _rectify(adds: bool, some: bool) -> Any:
    """Rectify a register's worth of elements at ``target``, or their sums with those at ``source``; or ``some`` of
    them, and touch no memory beyond these.
    """
    get, put = access(some)

    @intrinsic
    def rectify(context, target, source, slope, count):
        def generate(context, builder, signature, arguments):
            target, source, slope, count = arguments
            size = signature.args[2].bitwidth // 8
            kind = ir.VectorType(slope.type, WIDTH // size)
            vector = get(builder, target, kind, size, count)
            if adds:
                vector = builder.fadd(vector, get(builder, source, kind, size, count))
            put(builder, rectified(builder, vector, slope), target, size, count)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, slope, types.intp), generate

    return rectify


_rectify_register, _rectify_first = _rectify(adds=False, some=False), _rectify(adds=False, some=True)
_add_register, _add_first = _rectify(adds=True, some=False), _rectify(adds=True, some=True)


@called
def rectify_rows(place, row, rows, count, slope):
    """Multiply what is negative in ``rows`` rows of ``count`` elements, ``row`` bytes apart, by ``slope``."""
    size = size_of(slope)
    lanes = WIDTH // size
    for r in range(rows):
        first, j = place + r * row, 0
        while j + lanes <= count:
            _rectify_register(first + j * size, 0, slope, lanes)
            j += lanes
        if j < count:
            _rectify_first(first + j * size, 0, slope, count - j)


add_rows = caller("target", "target_row", "source", "source_row", "rows", "count", "slope")
"""``add_rows(code, ...)``: add rows of ``count`` elements to those at ``target``; what is negative in a sum is
multiplied by the number at ``slope``.

Addresses, and the distances between rows, are in bytes.  ``code`` is the address of the dtype's ``compiled_add_rows``.
"""


@functools.cache
def compiled_add_rows(dtype: np.dtype) -> Any:
    """The code behind ``add_rows``: it is compiled where something is to be added."""
    like = dtype.type(0)

    @callback(types.void(*[types.intp] * 7))
    def compiled(target, target_row, source, source_row, rows, count, slope):
        size, factor = size_of(like), load(slope, like)
        lanes = WIDTH // size
        for r in range(rows):
            first, term, j = target + r * target_row, source + r * source_row, 0
            while j + lanes <= count:
                _add_register(first + j * size, term + j * size, factor, lanes)
                j += lanes
            if j < count:
                _add_first(first + j * size, term + j * size, factor, count - j)

    return compiled
