"""Windows of 3 x 3 over channels that are read in place: whatever the sizes, nothing beyond them counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe.kernels import cpu, reference
from minicaffe.kernels.cpu.conv import depthwise_3x3
from minicaffe.kernels.cpu.conv.problem import KINDS, Problem
from minicaffe.kernels.window import Window

GUARD = 7.25
SIZES = [(1, 1), (2, 17), (3, 16), (5, 18), (7, 7), (9, 33), (14, 14), (4, 48), (70, 34), (6, 65)]


def guarded(array):
    """A copy of an array between guards, and the memory that it lies in."""
    memory = np.full(array.size + 64, GUARD, array.dtype)
    inner = memory[32:-32].reshape(array.shape)
    inner[...] = array
    return inner, memory


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("each", [1, 2])
def test_windows_of_3_x_3_of_any_size(dtype, stride, each):
    """With any padding, with filters of their own for each channel, and with fewer positions than there is room for."""
    rng, close = np.random.default_rng(0), {"rtol": 0, "atol": 1e-4 if dtype == np.float32 else 1e-12}
    pads = itertools.cycle([(1, 1), (0, 0), (2, 1), (1, 3), (0, 2)])
    for turn, (size, pad) in enumerate(zip(SIZES * 2, pads, strict=False)):
        size = tuple(max(n, 3 - 2 * p) for n, p in zip(size, pad, strict=True))
        out = [(n + 2 * p - 3) // stride + 1 for n, p in zip(size, pad, strict=True)]
        out = [max(1, n - turn % 3 // 2) for n in out]
        window, groups = Window((3, 3), (stride, stride), pad, (1, 1)), 2
        x, y, w = ((2, groups, *size), (2, groups * each, *out), (groups * each, 1, 3, 3))
        assert all(depthwise_3x3.fits(Problem(kind, x, y, window, groups, np.dtype(dtype), 1)) for kind in KINDS) == (
            each == 1
        )
        x, y, w = (rng.standard_normal(shape).astype(dtype) for shape in (x, y, w))
        bias, slope = rng.standard_normal(len(w)).astype(dtype), (0.0, 1.0, 0.25, 2.0)[turn % 4]
        room = cpu.convolution_workspace(x.shape, y.shape, window, groups, dtype)
        room = max(room, reference.convolution_workspace(x.shape, y.shape, window, groups))
        memory, accumulate = np.full(room, np.nan, dtype), turn % 2 == 0
        (source, _), (result, around_y), (dx, around_x) = guarded(x), guarded(y), guarded(x)
        expected, dx_expected, dw, dw_expected = y.copy(), x.copy(), w.copy(), w.copy()
        for ops, at in ((cpu, result), (reference, expected)):
            ops.convolve(source, w, bias, at, window, groups, memory, slope)
        for ops, at in ((cpu, dx), (reference, dx_expected)):
            ops.convolve_data_grad(y, w, at, window, groups, memory)
        for ops, at in ((cpu, dw), (reference, dw_expected)):
            ops.convolve_weight_grad(x, y, at, window, groups, memory, accumulate)
        np.testing.assert_allclose(result, expected, **close)
        np.testing.assert_allclose(dx, dx_expected, **close)
        np.testing.assert_allclose(dw, dw_expected, rtol=1e-5, atol=close["atol"])
        for around in (around_x, around_y):
            assert (around[:32] == GUARD).all() and (around[-32:] == GUARD).all()


def test_gradients_of_many_positions_keep_their_digits():
    """Sums of products are taken over in float64 before they grow long: equal terms show what is lost."""
    window, shape = Window((3, 3), (1, 1), (1, 1), (1, 1)), (400, 2, 16, 16)
    x, dy = np.full(shape, 1.1, np.float32), np.full(shape, 0.7, np.float32)
    dw, memory = np.zeros((2, 1, 3, 3), np.float32), np.zeros(1, np.float32)
    cpu.convolve_weight_grad(x, dy, dw, window, 2, memory, False)
    exact = float(x[0, 0, 0, 0]) * float(dy[0, 0, 0, 0]) * len(x) * np.outer([15, 16, 15], [15, 16, 15])
    np.testing.assert_allclose(dw, np.broadcast_to(exact, dw.shape), rtol=1e-5)


def test_negative_zeros_stay_where_the_slope_is_1():
    window, x = Window((3, 3), (1, 1), (1, 1), (1, 1)), np.zeros((1, 2, 4, 20), np.float32)
    weights, bias, y = np.full((2, 1, 3, 3), -1, np.float32), np.full(2, -0.0, np.float32), np.ones_like(x)
    memory = np.zeros(1, np.float32)
    cpu.convolve(x, weights, bias, y, window, 2, memory, 1.0)
    assert np.signbit(y).all()
    cpu.convolve(x, weights, bias, y, window, 2, memory, 0.0)
    assert not np.signbit(y).any()
