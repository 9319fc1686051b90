"""Neuron formulas in Python become C++; what cannot is named. (That the C++ computes the same: test_cuda_host.py.)"""

from __future__ import annotations

import math

import pytest

from minicaffe.kernels.cuda.translate import translate


def leaky(x, slope):
    """Leaky ReLU."""
    return max(x, 0) + slope * min(x, 0.0)


def test_formula():
    assert translate(leaky) == (
        "template <typename T>\n__device__ T function(T x_, T slope_) "
        "{ return (Larger()(x_, T(0.0)) + (slope_ * Smaller()(x_, T(0.0)))); }\n\n"
    )


def two_statements(x):
    y = x * x
    return y


def other_name(x):
    return x * undefined  # noqa: F821


def other_function(x):
    return math.sin(x)


def floor_division(x):
    return x // 2


def boolean(x):
    return x > 0 and x < 1


def membership(x):
    return x in (1, 2)


def string(x):
    return "x"


def keyword(x):
    return max(x, 0, key=abs)


def inverse(x):
    return not x


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (two_statements, "one return"),
        (other_name, "'undefined' .Name."),
        (other_function, r"'math.sin\(x\)' .Call."),
        (floor_division, "'x // 2' .BinOp."),
        (boolean, "'x > 0 and x < 1' .BoolOp."),
        (membership, r"'x in \(1, 2\)' .Compare."),
        (string, "\"'x'\" .Constant."),
        (keyword, r"'max\(x, 0, key=abs\)' .Call."),
        (inverse, "'not x' .UnaryOp."),
        (lambda x: x, "lambda"),
        (math.exp, "cannot be read"),
    ],
)
def test_what_cannot_be_translated_is_named(function, named):
    with pytest.raises(TypeError, match=named):
        translate(function)
