"""Rows taken apart, and windows slid over rows, register by register: against plain NumPy, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe.kernels.cpu.runtime.compile import kernel
from minicaffe.kernels.cpu.simd.pairs import join_row, split_row
from minicaffe.kernels.cpu.simd.taps import add_row_products, correlate_rows

GUARD = 7.25


@kernel()
def _there_and_back(row, even, odd, back, count):
    split_row(even.ctypes.data, odd.ctypes.data, row.ctypes.data, count, row.dtype.type(0))
    join_row(even.ctypes.data, odd.ctypes.data, back.ctypes.data, count, row.dtype.type(0))


@kernel()
def _windows(target, source, rows, width, taps, weights, start, totals):
    address = rows.ctypes.data, len(rows), width, taps.ctypes.data
    correlate_rows(target.ctypes.data, source.ctypes.data, *address, weights.ctypes.data, taps.size, start)
    add_row_products(totals.ctypes.data, target.ctypes.data, source.ctypes.data, *address, taps.size, start)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_is_split_by_even_and_odd_places_and_joined_again(dtype):
    rng = np.random.default_rng(0)
    for count in range(75):
        row = rng.standard_normal(count).astype(dtype)
        even, odd, back = (np.full(count + 4, GUARD, dtype) for _ in range(3))
        _there_and_back(row, even, odd, back, count)
        np.testing.assert_array_equal(even[: (count + 1) // 2], row[::2])
        np.testing.assert_array_equal(odd[: count // 2], row[1::2])
        np.testing.assert_array_equal(back[:count], row)
        for written, size in ((even, (count + 1) // 2), (odd, count // 2), (back, count)):
            assert (written[size:] == GUARD).all()


def test_windows_over_rows():
    rng, dtype, size = np.random.default_rng(0), np.float32, 4
    for width, window in [(1, 1), (5, 2), (16, 3), (17, 4), (33, 6), (7, 9), (40, 9), (9, 25)]:
        source = rng.standard_normal(40 * 60).astype(dtype)
        taps, starts = rng.choice(20 * 40, window, replace=False), rng.choice(900, 3, replace=False)
        target, weights = np.full(3 * (width + 2), GUARD, dtype), rng.standard_normal(window).astype(dtype)
        places = np.arange(3) * (width + 2)
        totals = rng.standard_normal(window)
        before = totals.copy()
        rows = np.stack([starts, places], axis=1) * size
        _windows(target, source, rows, width, taps * size, weights, dtype(0.5), totals)
        pixels = source.astype(np.float64)[starts[:, None, None] + np.arange(width)[:, None] + taps]
        found = target.reshape(3, width + 2)
        np.testing.assert_allclose(found[:, :width], 0.5 + pixels @ weights, rtol=1e-5, atol=1e-4)
        assert (found[:, width:] == GUARD).all()
        expected = before + (found[:, :width, None].astype(np.float64) * pixels).sum(axis=(0, 1))
        np.testing.assert_allclose(totals, expected, rtol=1e-4, atol=5e-4)
