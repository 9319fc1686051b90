"""One compiled loop around any scalar formula."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numba.extending import register_jitable

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


@functools.cache
def elements_at(count: int) -> Callable[[tuple, int], tuple]:
    """A function for compiled code: of a tuple of so many arrays, and i, the elements at index i."""
    if count == 0:
        return register_jitable(lambda arrays, i: ())
    before, k = elements_at(count - 1), count - 1
    return register_jitable(lambda arrays, i: before(arrays, i) + (arrays[k][i],))


@functools.cache
def _loop(function: Callable[..., float], arrays: int, scalars: int, dtype: np.dtype) -> Callable[..., None]:
    formula, at = as_written(vectorizable(function, dtype)), elements_at(arrays)
    stamp = formula_stamp(function, arrays, scalars, dtype)

    @part_kernel(stamp=stamp)
    def loop_part(part, parts, out, arrays, scalars):
        low, high = share(part, parts, out.size)
        # results pass through a buffer, so that the loop is vectorised even if the output is one of the inputs
        buffer = np.empty(_PIECE, out.dtype)
        for first in range(np.uintp(low), np.uintp(high), _PIECE):
            count = min(_PIECE, np.uintp(high) - first)
            for i in range(_START, count):
                buffer[i] = formula(*(at(arrays, first + i) + scalars))
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
