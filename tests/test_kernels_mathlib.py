"""exp, tanh, log and powers over all numbers, in loops of each kind, on processors with and without multiply-add."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from targets import TARGETS

from minicaffe.kernels import cpu
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel
from minicaffe.kernels.cpu.simd import mathlib

DTYPES = [np.float32, np.float64]
ULPS = {"exp": 1.5, "tanh": 3, "log": 1.5}
"""How many units in the last place each may be off."""
USUAL = {"exp": (-745.0, 710.0), "tanh": (-20.0, 20.0), "log": (0.4, 2.5)}
"""Where the results are neither all 0, 1 nor infinite, nor the rounding error that of a large sum."""


def all_numbers(dtype, low, high):
    """Numbers of every exponent and sign, denormal ones, infinities and NaN, and more of them where it matters."""
    random = np.random.default_rng(1701)
    bits = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    some = random.integers(0, np.iinfo(bits).max, 100_000, bits, endpoint=True).view(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal]
    return np.concatenate([some, np.array(special, dtype), random.uniform(low, high, 100_000).astype(dtype)])


def exact(function, x):
    """A function of NumPy's, computed in a wider format and returned in it."""
    wider = np.float64 if x.dtype == np.float32 else np.longdouble
    assert np.finfo(wider).eps < np.finfo(x.dtype).eps
    with np.errstate(all="ignore"):
        return function(x.astype(wider))


def ulps(found, expected):
    """The largest error in units in the last place; 0 and infinity where the format has no such number are right."""
    with np.errstate(all="ignore"):
        nearest = expected.astype(found.dtype)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(nearest))
        np.testing.assert_array_equal(found[np.isinf(nearest)], nearest[np.isinf(nearest)])
        some = np.isfinite(nearest)
        assert np.isfinite(found[some]).all()
        unit = np.spacing(abs(nearest[some])).astype(expected.dtype)
        return float((abs(found[some] - expected[some]) / unit).max())


def loop_around(name, flags):
    function = getattr(mathlib, name)

    @kernel(fastmath=flags, stamp=f"{name}{bool(flags)}")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


@pytest.mark.parametrize("flags", [False, REASSOCIATE], ids=["as written", "reassociated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(ULPS))
def test_functions_are_right_in_the_last_places(name, dtype, flags):
    x = all_numbers(dtype, *USUAL[name])
    y = np.empty_like(x)
    loop_around(name, flags)(x, y)
    assert ulps(y, exact(getattr(np, name), x)) < ULPS[name]
    zero = x == 0
    if name == "tanh":
        np.testing.assert_array_equal(np.signbit(y[zero]), np.signbit(x[zero]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keeps", [True, False])
def test_the_power_of_the_response_normalisation_is_right_in_the_last_places(dtype, keeps):
    exponents = np.random.default_rng(1701).uniform(-15, 15, 100_000)
    x = np.concatenate([10**exponents, [1, 2, 4, 8, 16]]).astype(dtype).reshape(1, 1, -1)
    scale, y = np.empty_like(x) if keeps else None, np.empty_like(x)
    cpu.lrn(x, scale, y, 1, 1.0, 0.75, 0.0)
    assert ulps(y, exact(lambda x: x * (x * x) ** -0.75, x)) < (0.51 if dtype == np.float32 else 6)
    if keeps:
        assert ulps(scale, exact(np.square, x)) < 0.6


def test_the_response_normalisation_of_sums_of_any_size():
    """Beyond where the root is taken by its series, too; k is all that there is in the last of the images."""
    x = np.array([1e-25, 1e-18, 1.0, 1e15, 1e18, 1e30, 0.0], np.float32).reshape(7, 1, 1)
    for k in (0.0, 1e-32, 1.0):
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = x * (k + np.square(x, dtype=np.float64)) ** -0.75
        for scale in (np.empty_like(x), None):
            y = np.empty_like(x)
            cpu.lrn(x, scale, y, 5, 5.0, 0.75, k)
            np.testing.assert_allclose(y, expected, rtol=1e-6)


def sigmoid(x):
    return 0.5 * math.tanh(0.5 * x) + 0.5


def softplus(x):
    return max(x, 0) + math.log(1 + math.exp(-abs(x)))


def power(x, exponent):
    return abs(x) ** exponent


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "formula, scalars, wanted",
    [
        (sigmoid, [], lambda x: 1 / (1 + np.exp(-x))),
        (softplus, [], lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))),
        (power, [2.3], lambda x: abs(x) ** x.dtype.type(2.3)),
        (power, [-0.75], lambda x: abs(x) ** x.dtype.type(-0.75)),
    ],
)
def test_formulas(formula, scalars, wanted, dtype):
    x = np.random.default_rng(1701).uniform(-30, 30, 20_000).astype(dtype)
    y, total = np.empty_like(x), np.zeros(1, dtype)
    scalars = [float(dtype(s)) for s in scalars]
    cpu.elementwise(formula, [x], scalars, y)
    expected = exact(wanted, x)
    step = np.finfo(dtype).eps
    np.testing.assert_allclose(y, expected.astype(dtype), rtol=4 * step, atol=2 * step)
    cpu.channel_sum(formula, [x.reshape(1, 1, -1)], [], scalars, total)
    np.testing.assert_allclose(total, expected.sum(), rtol=40 * step)


@pytest.mark.parametrize("exponent", [-0.75, -0.5, -0.6, 1.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_the_response_normalisation(dtype, exponent):
    x = np.exp(np.random.default_rng(1701).uniform(-4, 4, 20_000)).astype(dtype).reshape(1, 1, 1, -1)
    scale, y = np.empty_like(x), np.empty_like(x)
    cpu.lrn_within(x, scale, y, 1, 1.0, float(dtype(-exponent)))
    # of a product of a logarithm with an exponent, exp makes an absolute error a relative one
    expected = exact(lambda x: x * (1 + x * x) ** x.dtype.type(dtype(exponent)), x)
    assert ulps(y, expected) < 4 + 2 * abs(exponent) * math.log(1 + math.exp(8))


@pytest.mark.parametrize("name", list(TARGETS))
def test_on_other_processors(name, tmp_path):
    target = TARGETS[name]
    if "NUMBA_CPU_NAME" in os.environ:
        pytest.skip("these tests run for one processor already")
    if target.missing:
        pytest.skip(f"this machine has no {', '.join(target.missing)}")
    own = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)} | target.environment
    own.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-k", "last_places"]
    run = subprocess.run(command, env=own, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
