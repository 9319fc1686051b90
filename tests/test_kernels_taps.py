"""Rows taken apart, and windows slid over rows, register by register: against plain NumPy, whatever the sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.pairs import join_rows, split_rows
from minicaffe.kernels.cpu.simd.taps import add_row_products, correlate_rows

GUARD = 7.25


@kernel()
def _there_and_back(rows, even, odd, back, count):
    parts = even.ctypes.data, odd.ctypes.data, even.shape[1] * even.itemsize
    step, like = rows.shape[1] * rows.itemsize, rows.dtype.type(0)
    split_rows(*parts, rows.ctypes.data, step, len(rows), count, like)
    join_rows(*parts, back.ctypes.data, step, len(rows), count, like)


@kernel()
def _windows(target, source, rows, width, taps, weights, start, slope, totals):
    address = rows.ctypes.data, len(rows), width, taps.ctypes.data
    correlate_rows(target.ctypes.data, source.ctypes.data, *address, weights.ctypes.data, taps.size, start, slope)
    add_row_products(totals.ctypes.data, target.ctypes.data, source.ctypes.data, *address, taps.size, start)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_split_by_even_and_odd_places_and_joined_again(dtype):
    rng = np.random.default_rng(0)
    for count in range(75):
        rows = rng.standard_normal((3, count + 5)).astype(dtype)
        even, odd, back = (np.full((3, count + 5), GUARD, dtype) for _ in range(3))
        _there_and_back(rows, even, odd, back, count)
        np.testing.assert_array_equal(even[:, : (count + 1) // 2], rows[:, :count:2])
        np.testing.assert_array_equal(odd[:, : count // 2], rows[:, 1:count:2])
        np.testing.assert_array_equal(back[:, :count], rows[:, :count])
        for written, size in ((even, (count + 1) // 2), (odd, count // 2), (back, count)):
            assert (written[:, size:] == GUARD).all()


def test_windows_over_rows():
    rng, dtype, size = np.random.default_rng(0), np.float32, 4
    sizes = [(1, 1), (5, 2), (16, 3), (17, 4), (33, 6), (7, 9), (40, 9), (9, 25)]
    for slope, (width, window) in itertools.product((1, 0.25), sizes):
        source = rng.standard_normal(40 * 60).astype(dtype)
        taps, starts = rng.choice(20 * 40, window, replace=False), rng.choice(900, 3, replace=False)
        target, weights = np.full(3 * (width + 2), GUARD, dtype), rng.standard_normal(window).astype(dtype)
        places = np.arange(3) * (width + 2)
        totals = rng.standard_normal(window)
        before = totals.copy()
        rows = np.stack([starts, places], axis=1) * size
        _windows(target, source, rows, width, taps * size, weights, dtype(0.5), dtype(slope), totals)
        pixels = source.astype(np.float64)[starts[:, None, None] + np.arange(width)[:, None] + taps]
        found = target.reshape(3, width + 2)
        sums = 0.5 + pixels @ weights
        np.testing.assert_allclose(found[:, :width], np.where(sums > 0, sums, slope * sums), rtol=1e-5, atol=1e-4)
        assert (found[:, width:] == GUARD).all()
        expected = before + (found[:, :width, None].astype(np.float64) * pixels).sum(axis=(0, 1))
        np.testing.assert_allclose(totals, expected, rtol=1e-4, atol=5e-4)
