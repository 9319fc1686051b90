"""Largest, average and random pixels of windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from minicaffe.kernels.reference.arrays import FLT_MAX, Array
from minicaffe.kernels.window import Window


def _pool_windows(window: Window, pixels: Sequence[int], pooled: Sequence[int]) -> Iterator[tuple]:
    """Each output position with its window clipped to the image, and the divisor of average pooling."""
    (height, width), (kh, kw), (sh, sw), (ph, pw) = pixels, window.kernel, window.stride, window.pad
    for i, j in itertools.product(range(pooled[0]), range(pooled[1])):
        top, left = i * sh - ph, j * sw - pw
        bottom, right = min(top + kh, height + ph), min(left + kw, width + pw)
        area = (bottom - top) * (right - left)
        yield (
            i,
            j,
            slice(max(top, 0), max(min(bottom, height), 0)),
            slice(max(left, 0), max(min(right, width), 0)),
            area,
        )


def max_pool(x: Array, y: Array, mask: Array | None, window: Window) -> None:
    """Largest pixel of each window: x (N, C, H, W) -> y (N, C, P, Q), mask int32 like y: its place ``h * W + w``.

    The first of equal pixels wins, and the first NaN before all others.  A window with no pixel above -FLT_MAX gives
    -FLT_MAX and mask -1, which gets no gradient (Caffe; it corrupts memory going backward).  Caffe: NaN never wins.
    Nobody reads a mask of None.
    """
    mask = np.empty(y.shape, np.int32) if mask is None else mask
    n, c, height, width = x.shape
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        if patch.size == 0:
            y[:, :, i, j], mask[:, :, i, j] = -FLT_MAX, -1
            continue
        flat = patch.reshape(n, c, -1)
        best = flat.argmax(axis=2)
        value = np.take_along_axis(flat, best[..., None], axis=2)[..., 0]
        h, w = rows.start + best // patch.shape[3], cols.start + best % patch.shape[3]
        y[:, :, i, j] = np.where(value <= -FLT_MAX, -FLT_MAX, value)
        mask[:, :, i, j] = np.where(value <= -FLT_MAX, -1, h * width + w)


def max_pool_grad(dy: Array, mask: Array, dx: Array, window: Window) -> None:
    """Sends each dy (N, C, P, Q) to the pixel of dx (N, C, H, W) that its mask names; serves stochastic pooling too."""
    n, c, height, width = dx.shape
    dx[...] = 0
    planes = dx.reshape(n * c, height * width)
    where = mask.reshape(n * c, -1)
    rows, entries = np.nonzero(where >= 0)
    np.add.at(planes, (rows, where[rows, entries]), dy.reshape(n * c, -1)[rows, entries])


def average_pool(x: Array, y: Array, window: Window) -> None:
    """Sum of each window over its area clipped to H + pad, W + pad: x (N, C, H, W) -> y (N, C, P, Q).

    The area counts padding inside that border, and a window that lies wholly beyond it gives NaN (Caffe).
    """
    for i, j, rows, cols, area in _pool_windows(window, x.shape[2:], y.shape[2:]):
        y[:, :, i, j] = x[:, :, rows, cols].sum(axis=(2, 3)) / area if area else np.nan


def average_pool_grad(dy: Array, dx: Array, window: Window) -> None:
    """Spreads each dy (N, C, P, Q) evenly over its window of dx (N, C, H, W)."""
    dx[...] = 0
    for i, j, rows, cols, area in _pool_windows(window, dx.shape[2:], dy.shape[2:]):
        if area:
            dx[:, :, rows, cols] += (dy[:, :, i, j] / area)[:, :, None, None]


def stochastic_pool(x: Array, u: Array, y: Array, mask: Array, window: Window) -> None:
    """Picks a pixel of each window with probability proportional to its value (Zeiler and Fergus 2013).

    x (N, C, H, W) is not negative; u like y, uniform in (0, 1].  y is the first pixel in raster order whose running sum
    reaches u times the window's sum; mask int32 like y is its place ``h * W + w`` (-1 and y 0 for an empty window).  A
    window that holds NaN gives NaN, and the place of its first.
    """
    n, c, height, width = x.shape
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        if patch.size == 0:
            y[:, :, i, j], mask[:, :, i, j] = 0, -1
            continue
        flat = patch.reshape(n, c, -1)
        running = np.cumsum(flat, axis=2)
        reached = (running >= (u[:, :, i, j] * running[:, :, -1])[..., None]) | np.isnan(running)
        pick = np.where(reached.any(axis=2), reached.argmax(axis=2), flat.shape[2] - 1)
        y[:, :, i, j] = np.take_along_axis(flat, pick[..., None], axis=2)[..., 0]
        mask[:, :, i, j] = (rows.start + pick // patch.shape[3]) * width + cols.start + pick % patch.shape[3]


def stochastic_pool_mean(x: Array, y: Array, window: Window) -> None:
    """What stochastic pooling gives on average, used when testing: ``sum(x^2) / sum(x)``, 0 where the sum is
    0 or less.
    """
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        total, squares = patch.sum(axis=(2, 3)), (patch * patch).sum(axis=(2, 3))
        y[:, :, i, j] = np.where(total <= 0, 0, squares / np.where(total <= 0, 1, total))
