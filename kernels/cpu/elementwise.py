"""One compiled loop around any scalar formula."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numba.extending import register_jitable

from minicaffe.kernels.cpu.jit import kernel, parallel, part_kernel, share
from minicaffe.kernels.cpu.maths import vectorizable
from minicaffe.kernels.cpu.threads import parts
from minicaffe.kernels.reference import Array

_PIECE = np.uintp(1024)
_START = np.uintp(0)  # unsigned places need no check whether they count from the end, which would keep loops from SIMD


def formula_stamp(function: Callable[..., float], *kinds: object) -> str:
    """What tells the kernels around a formula, for some kinds of arguments, from those around others; see ``jit.kernel``."""
    code = function.__code__
    return "_" + hashlib.sha1(code.co_code + repr((code.co_consts, code.co_names, kinds)).encode()).hexdigest()


@register_jitable
def _one(arrays, i):
    return (arrays[0][i],)


@register_jitable
def _two(arrays, i):
    return arrays[0][i], arrays[1][i]


@register_jitable
def _three(arrays, i):
    return arrays[0][i], arrays[1][i], arrays[2][i]


_AT = {1: _one, 2: _two, 3: _three}


@functools.cache
def _loop(function: Callable[..., float], arrays: int, dtype: np.dtype) -> Callable[..., None]:
    if arrays not in _AT:
        raise ValueError(f"a formula takes 1 to 3 arrays, not {arrays}")
    formula, at = register_jitable(vectorizable(function, dtype)), _AT[arrays]
    stamp = formula_stamp(function, arrays, dtype)

    @part_kernel(stamp=stamp)
    def loop_part(part, parts, out, scalars, arrays):
        low, high = share(part, parts, out.size)
        # results pass through a buffer: the loop is then vectorised even where the output is one of the inputs
        buffer = np.empty(_PIECE, out.dtype)
        for first in range(np.uintp(low), np.uintp(high), _PIECE):
            count = min(_PIECE, np.uintp(high) - first)
            for i in range(_START, count):
                buffer[i] = formula(*(at(arrays, first + i) + scalars))
            for i in range(_START, count):
                out[first + i] = buffer[i]

    @kernel(stamp=stamp)
    def loop(out, scalars, arrays, parts):
        parallel(loop_part, parts, (out, scalars, arrays))

    return loop


def elementwise(function: Callable[..., float], arrays: Sequence[Array], scalars: Sequence[float], out: Array) -> None:
    """See ``reference.elementwise``; at most three arrays.  The formula is evaluated in the arrays' dtype."""
    real = out.dtype.type
    loop = _loop(function, len(arrays), out.dtype)
    flat = tuple([a.ravel() for a in arrays])
    loop(out.ravel(), tuple([real(scalar) for scalar in scalars]), flat, parts(out.size))
