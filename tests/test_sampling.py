"""FlowNet2's layers that nobody has run on a CPU, against their definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe import testing

RNG = np.random.default_rng(5)


def correlated(a, b, kernel, reach, pad, stride_1, stride_2, differ):
    padding = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    a, b = np.pad(a, padding), np.pad(b, padding)
    border = reach + kernel // 2
    rows, columns = (-(-(size - 2 * border) // stride_1) for size in a.shape[2:])
    steps = range(-(reach // stride_2), reach // stride_2 + 1)
    y = np.zeros((len(a), len(steps) ** 2, rows, columns))
    for (k, (p, q)), i, j in itertools.product(enumerate(itertools.product(steps, steps)), range(rows), range(columns)):
        at, left = i * stride_1 + reach, j * stride_1 + reach
        ours = a[:, :, at : at + kernel, left : left + kernel]
        at, left = at + p * stride_2, left + q * stride_2
        theirs = b[:, :, at : at + kernel, left : left + kernel]
        y[:, k, i, j] = (abs(ours - theirs) if differ else ours * theirs).mean(axis=(1, 2, 3))
    return y


@pytest.mark.parametrize("how", [(1, 2, 2, 1, 1, False), (3, 4, 4, 2, 2, False), (3, 2, 3, 1, 1, True)])
def test_correlation(how):
    kernel, reach, pad, stride_1, stride_2, differ = how
    a, b = RNG.standard_normal((2, 2, 3, 7, 8))
    found = testing.run(
        "Correlation", [a, b], kernel_size=kernel, max_displacement=reach, pad=pad, stride_1=stride_1,
        stride_2=stride_2, correlation_type="SUBTRACT" if differ else "MULTIPLY",
    ).tops[0]  # fmt: skip
    np.testing.assert_allclose(found, correlated(a, b, *how), rtol=1e-4, atol=1e-5)


def cubic(x):
    x = abs(x)
    return x * x * (1.5 * x - 2.5) + 1 if x <= 1 else x * (x * (-0.5 * x + 2.5) - 4) + 2 if x < 2 else 0


def resampled(x, height, width, formula, antialias):
    fy, fx = x.shape[2] / height, x.shape[3] / width
    antialias = antialias and max(fx, fy) > 1
    ay, ax = (1 / fy, 1 / fx) if antialias else (1, 1)
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in itertools.product(range(height), range(width)):
        row, column = i * fy + fx / 2 - 0.5, j * fx + fy / 2 - 0.5
        weights = np.array([
            [formula(ay * (row - r)) * formula(ax * (column - c)) for c in range(x.shape[3])]
            for r in range(x.shape[2])
        ])  # fmt: skip
        y[:, :, i, j] = (x * weights).sum(axis=(2, 3)) / weights.sum() if weights.sum() else 0
    return y


@pytest.mark.parametrize("size", [(3, 4), (9, 5), (12, 16)])
@pytest.mark.parametrize("kind", ["LINEAR", "CUBIC"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resample(size, kind, antialias):
    x = RNG.standard_normal((2, 2, 6, 8))
    formula = cubic if kind == "CUBIC" else lambda x: max(0, 1 - abs(x))
    how = {"type": kind, "antialias": antialias, "height": size[0], "width": size[1]}
    found = testing.run("Resample", [x], resample_param=how).tops[0]
    np.testing.assert_allclose(found, resampled(x, *size, formula, antialias), rtol=1e-4, atol=1e-5)


def test_accum_enlarges_from_corner_to_corner():
    x, z = np.arange(6.0).reshape(1, 1, 2, 3), np.zeros((1, 2, 3, 5))
    found = testing.run("Accum", [x, z]).tops[0]
    assert found.shape == (1, 3, 3, 5)
    np.testing.assert_allclose(found[0, 0], [[0, 0.5, 1, 1.5, 2], [1.5, 2, 2.5, 3, 3.5], [3, 3.5, 4, 4.5, 5]])
