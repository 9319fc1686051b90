"""One compiled loop around any scalar formula."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

from numba import prange
from numba.extending import register_jitable

from minicaffe.kernels.cpu.jit import kernel
from minicaffe.kernels.reference import Array


def formula_stamp(function: Callable[..., float]) -> str:
    """What a loop around ``function`` must close over, too.

    Numba's cache tells closures apart by the values they close over, and a function there only by its name.
    """
    code = function.__code__
    return hashlib.sha1(code.co_code + repr((code.co_consts, code.co_names)).encode()).hexdigest()


@functools.cache
def _loop(function: Callable[..., float], arrays: int) -> Callable[..., None]:
    formula, stamp = register_jitable(function), formula_stamp(function)

    if arrays == 1:

        @kernel(parallel=True)
        def loop(out, scalars, a):
            len(stamp)
            for i in prange(out.size):
                out[i] = formula(a[i], *scalars)

    elif arrays == 2:

        @kernel(parallel=True)
        def loop(out, scalars, a, b):
            len(stamp)
            for i in prange(out.size):
                out[i] = formula(a[i], b[i], *scalars)

    elif arrays == 3:

        @kernel(parallel=True)
        def loop(out, scalars, a, b, c):
            len(stamp)
            for i in prange(out.size):
                out[i] = formula(a[i], b[i], c[i], *scalars)

    else:
        raise ValueError(f"a formula takes 1 to 3 arrays, not {arrays}")
    return loop


def elementwise(function: Callable[..., float], arrays: Sequence[Array], scalars: Sequence[float], out: Array) -> None:
    """See ``reference.elementwise``; at most three arrays.

    The formula is evaluated in the arrays' dtype where its literals allow, else in float64.
    """
    real = out.dtype.type
    _loop(function, len(arrays))(out.reshape(-1), tuple(map(real, scalars)), *(a.reshape(-1) for a in arrays))
