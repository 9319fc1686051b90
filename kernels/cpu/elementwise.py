"""One compiled loop around any scalar formula."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import as_written, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.mathlib import vectorizable
from minicaffe.kernels.reference import Array

_PIECE = np.uintp(1024)
_START = np.uintp(0)  # an unsigned index needs no check for negative values, which would keep a loop from vectorising


def formula_stamp(function: Callable[..., float], *kinds: object) -> str:
    """The ``stamp`` (see ``runtime.compile.kernel``) of the kernels around a formula, for these kinds of arguments."""
    code = function.__code__
    return "_" + hashlib.sha1(code.co_code + repr((code.co_consts, code.co_names, kinds)).encode()).hexdigest()


@intrinsic
def elements_at(context, arrays, i):
    """Of a tuple of arrays of one axis, the elements at index i, which is not negative."""
    kinds = arrays.types

    def generate(context, builder, signature, arguments):
        from numba.np.arrayobj import load_item  # as in address.array_at

        elements = []
        for k, kind in enumerate(kinds):
            array = context.make_array(kind)(context, builder, builder.extract_value(arguments[0], k))
            place = cgutils.get_item_pointer(context, builder, kind, array, [arguments[1]])
            elements.append(load_item(context, builder, kind, place))
        return context.make_tuple(builder, signature.return_type, elements)

    return types.Tuple([kind.dtype for kind in kinds])(arrays, i), generate


@functools.cache
def _loop(function: Callable[..., float], arrays: int, scalars: int, dtype: np.dtype) -> Callable[..., None]:
    formula = as_written(vectorizable(function, dtype))
    stamp = formula_stamp(function, arrays, scalars, dtype)

    @part_kernel(stamp=stamp)
    def loop_part(part, parts, out, arrays, scalars):
        low, high = share(part, parts, out.size)
        # results pass through a buffer, so that the loop is vectorised even if the output is one of the inputs
        buffer = np.empty(np.intp(_PIECE), out.dtype)
        for first in range(np.uintp(low), np.uintp(high), _PIECE):
            count = min(_PIECE, np.uintp(high) - first)
            for i in range(_START, count):
                buffer[i] = formula(*(elements_at(arrays, first + i) + scalars))
            for i in range(_START, count):
                out[first + i] = buffer[i]

    @kernel(stamp=stamp)
    def loop(parts, out, arrays, scalars):
        parallel(loop_part, parts, (out, arrays, scalars))

    return loop


@capturable
def elementwise(function: Callable[..., float], arrays: Sequence[Array], scalars: Sequence[float], out: Array) -> None:
    """See ``reference.elementwise``.  The formula is evaluated in the arrays' dtype."""
    loop = _loop(function, len(arrays), len(scalars), out.dtype)
    loop(parts(out.size), out.ravel(), tuple(a.ravel() for a in arrays), tuple(map(out.dtype.type, scalars)))
