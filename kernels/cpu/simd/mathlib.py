"""exp, tanh, log and a root that the compiler can vectorise in loops, which it cannot do with calls of the C library.

They are within 3 units in the last place on every processor, and give what the C library gives for zeros, infinities
and NaN.  They round a number to an integer by adding a large one and subtracting it again, and take the multiple of
ln 2 off in two steps: reassociated, both would be gone, so fast-math flags of the kernels around do not reach them.
"""

from __future__ import annotations

import math
import sys
import types as python_types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import DTypeLike

from minicaffe.kernels.cpu.simd.memory import fma


class _Format(NamedTuple):
    """The constants of exp, tanh and log for one floating-point format."""

    real: type
    bits: type
    fraction: int  # bits of the mantissa that are stored
    bias: int  # of the exponent
    round: float  # adding it rounds a number to an integer, in the last bits of the sum
    ln2_high: float  # ln 2 with so few bits that its product with any exponent is exact
    ln2_low: float
    lowest: float  # exp is 0 below
    highest: float  # exp is infinite above
    flat: float  # tanh is 1 above
    exp_terms: int  # of the Taylor series of exp on [-ln 2 / 2, ln 2 / 2]
    log_terms: int  # of the series of log in ((m - 1) / (m + 1))^2 on [sqrt(1/2), sqrt(2)]


_SINGLE = _Format(
    np.float32, np.int32, 23, 127, 1.5 * 2**23, 0.693359375, -2.12194440054690583e-4, -104.0, 89.0, 9.5, 7, 4
)
_DOUBLE = _Format(
    np.float64, np.int64, 52, 1023, 1.5 * 2**52, 6.93147180369123816490e-01, 1.90821492927058770002e-10,
    -746.0, 710.0, 20.0, 13, 10,
)  # fmt: skip


@intrinsic
def _bits(context, number):
    """The bits of a number as an integer."""
    kind = types.int32 if number.bitwidth == 32 else types.int64

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(kind))

    return kind(number), generate


@intrinsic
def _from_bits(context, bits):
    """The number with these bits."""
    kind = types.float32 if bits.bitwidth == 32 else types.float64

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(kind))

    return kind(bits), generate


@intrinsic
def _choose(context, condition, yes, no):
    """``yes if condition else no`` as a select instruction: a branch would keep the loop from being vectorised."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return yes(types.boolean, yes, yes), generate


@intrinsic
def _multiply_add(context, a, b, c):
    """``a b + c``, rounded once where the processor can."""

    def generate(context, builder, signature, arguments):
        return fma(builder, *arguments)

    return a(a, a, a), generate


def _polynomial(coefficients: list[float]) -> Callable[..., Any]:
    """The polynomial with these coefficients, the constant first, as a function of x."""

    @intrinsic
    def polynomial(context, x):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            total = kind(coefficients[-1])
            for coefficient in reversed(coefficients[:-1]):
                total = fma(builder, total, arguments[0], kind(coefficient))
            return total

        return x(x), generate

    return polynomial


def _reduction(form: _Format) -> Callable[..., Any]:
    """A function of x that returns ``exp(r) - 1`` and k, where ``x = r + k ln 2`` and r is small."""
    real, scale, rounder = form.real, form.real(1 / math.log(2)), form.real(form.round)
    high, low = form.real(-form.ln2_high), form.real(-form.ln2_low)
    tail = _polynomial([float(form.real(1 / math.factorial(k))) for k in range(2, form.exp_terms + 1)])
    integer, zero = form.bits, form.bits(real(form.round).view(form.bits))

    def reduce(x):
        shifted = _multiply_add(x, scale, rounder)
        k = shifted - rounder
        r = _multiply_add(k, low, _multiply_add(k, high, x))
        return _multiply_add(r * r, tail(r), r), integer(_bits(shifted) - zero)

    return register_jitable(reduce)


def _power_of_two(form: _Format) -> Callable[..., Any]:
    """2^k as a function of k, which must be in the range of the format's exponents."""
    integer, bias, fraction = form.bits, form.bits(form.bias), form.bits(form.fraction)

    def power_of_two(k):
        return _from_bits(integer((k + bias) << fraction))

    return register_jitable(power_of_two)


def _exp(form: _Format) -> Callable[..., Any]:
    reduce, power_of_two = _reduction(form), _power_of_two(form)
    real, integer, lowest, highest = form.real, form.bits, form.real(form.lowest), form.real(form.highest)

    def exp(x):
        inside = _choose(x > lowest, _choose(x > highest, highest, x), lowest)
        q, k = reduce(inside)
        half = integer(k >> 1)  # two factors, since 2^k itself may be out of range
        result = (real(1) + q) * power_of_two(half) * power_of_two(integer(k - half))
        return _choose(x == x, result, x)

    return exp


def _tanh(form: _Format) -> Callable[..., Any]:
    reduce, power_of_two = _reduction(form), _power_of_two(form)
    real, integer, flat = form.real, form.bits, form.real(form.flat)
    sign = form.bits(np.iinfo(form.bits).min)

    def tanh(x):
        size = _from_bits(integer(_bits(x) & ~sign))
        q, k = reduce(real(2) * _choose(size < flat, size, flat))
        factor = power_of_two(k)
        above = _multiply_add(factor, q, factor - real(1))  # exp(2 |x|) - 1
        result = _from_bits(integer(_bits(above / (above + real(2))) | (_bits(x) & sign)))
        return _choose(x == x, result, x)

    return tanh


def _log(form: _Format) -> Callable[..., Any]:
    real, integer, fraction = form.real, form.bits, form.bits(form.fraction)
    root = form.bits(real(math.sqrt(0.5)).view(form.bits))
    high, low = real(form.ln2_high), real(form.ln2_low)
    tiny, lift, lifted = real(np.finfo(real).tiny), real(2.0**form.fraction), real(form.fraction)
    zero, below, infinity, nothing = real(0), real(-np.inf), real(np.inf), real(np.nan)
    series = _polynomial([float(real(2 / (2 * k + 3))) for k in range(form.log_terms)])

    def log(x):
        small = x < tiny
        bits = _bits(_choose(small, x * lift, x))
        k = integer(integer(bits - root) >> fraction)
        f = _from_bits(integer(bits - (k << fraction))) - real(1)
        exponent = real(k) - _choose(small, lifted, zero)
        s = f / (real(2) + f)
        square, half = s * s, real(0.5) * f * f
        tail = _multiply_add(s, half + square * series(square), exponent * low)
        result = _multiply_add(exponent, high, f - (half - tail))
        result = _choose(x < infinity, result, x)
        return _choose(x > zero, result, _choose(x == zero, below, nothing))

    return log


def exp(x: float) -> float:
    """``math.exp``, infinite where that raises OverflowError."""
    return float(np.exp(x))


def tanh(x: float) -> float:
    """``math.tanh``."""
    return math.tanh(x)


def log(x: float) -> float:
    """``math.log``; for numbers that are not positive it returns what the C library returns."""
    return float(np.log(x))


def _register(function: Callable[[float], float], make: Callable[[_Format], Callable]) -> None:
    versions = {types.float32: make(_SINGLE), types.float64: make(_DOUBLE)}
    overload(function, jit_options={"forceinline": True, "fastmath": False}, strict=False)(lambda x: versions.get(x))


for _function, _make in ((exp, _exp), (tanh, _tanh), (log, _log)):
    _register(_function, _make)


sqrt = math.sqrt
_OWN = {math.exp: exp, math.tanh: tanh, math.log: log, math: sys.modules[__name__]}


def vectorizable(function: Callable[..., float], dtype: DTypeLike) -> Callable[..., float]:
    """A formula (see ``reference.elementwise``) as a function around which loops can be vectorised.

    exp, tanh and log are those of this module, and literals have ``dtype``, so that nothing is computed in a wider one.
    """
    real, code = np.dtype(dtype).type, function.__code__
    constants = tuple(real(c) if type(c) in (int, float) else c for c in code.co_consts)
    names = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    names = {name: _OWN.get(value, value) for name, value in names.items()}
    names["__name__"] = __name__  # the disk cache stores the name of its module, which must be importable
    return python_types.FunctionType(
        code.replace(co_consts=constants), names, function.__name__, None, function.__closure__
    )
