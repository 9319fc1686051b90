"""Regions of interest of images: rows (item, x1, y1, x2, y2), pooled to grids of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minicaffe.kernels.reference.arrays import FLT_MAX, Array

FAR = 1e8
"""Where a coordinate ends, in pixels: beyond any image, and still an integer; NaN is there, on the left."""


def roi_pool(x: Array, rois: Array, y: Array, mask: Array, scale: Sequence[float], pad_ratio: float) -> None:
    """The largest value of each bin of a region: x (N, C, H, W), rois (R, 5) -> y (R, C, P, Q).

    Corners, moved outward by ``pad_ratio`` of the size, are multiplied by ``scale`` (of x and of y) and rounded, halves
    away from 0; both belong to the region, which has at least one pixel.  mask int32 like y is ``h * W + w`` of the
    first largest value; NaN is the largest.  An empty bin, or one of an item that there is not, gives 0 and -1.
    """
    y[...], mask[...] = 0, -1
    for r, item in _items(rois, len(x)):
        columns, rows = _whole_bins(rois[r], y.shape[2:], x.shape[2:], scale, pad_ratio)
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if bottom > top and right > left:
                    flat = x[item, :, top:bottom, left:right].reshape(x.shape[1], -1)
                    flat = np.where(flat <= -FLT_MAX, -np.inf, flat)
                    best = flat.argmax(axis=1)
                    value = flat[np.arange(len(flat)), best]
                    place = (top + best // (right - left)) * x.shape[3] + left + best % (right - left)
                    y[r, :, i, j] = np.maximum(value, -FLT_MAX)
                    mask[r, :, i, j] = np.where(value <= -FLT_MAX, -1, place)


def roi_pool_grad(dy: Array, mask: Array, rois: Array, dx: Array, scale: Sequence[float], pad_ratio: float) -> None:
    """Sends each dy (R, C, P, Q) to the pixel of dx (N, C, H, W) that its mask names."""
    dx[...] = 0
    for r, item in _items(rois, len(dx)):
        planes = dx[item].reshape(dx.shape[1], -1)
        where = mask[r].reshape(dx.shape[1], -1)
        rows, entries = np.nonzero(where >= 0)
        np.add.at(planes, (rows, where[rows, entries]), dy[r].reshape(where.shape)[rows, entries])


def position_sensitive_pool(x: Array, rois: Array, y: Array, scale: float) -> None:
    """The mean of each bin of a region, in a channel of its own: x (N, D G^2, H, W), rois (R, 5) -> y (R, D, G, G).

    Bin (i, j) of output d lies in channel (d G + i) G + j.  Corners are rounded, halves away from 0, the lower right
    one moved by 1, and multiplied by ``scale``; a region is at least 0.1 wide and high, an empty bin 0.
    """
    y[...] = 0
    for r, item in _items(rois, len(x)):
        for d, i, j, channel, area in _bins_of_channels(rois[r], y.shape, x.shape[2:], scale):
            y[r, d, i, j] = x[item, channel][area].mean()


def position_sensitive_pool_grad(dy: Array, rois: Array, dx: Array, scale: float) -> None:
    """Spreads each dy (R, D, G, G) evenly over its bin of dx (N, D G^2, H, W)."""
    dx[...] = 0
    for r, item in _items(rois, len(dx)):
        for d, i, j, channel, area in _bins_of_channels(rois[r], dy.shape, dx.shape[2:], scale):
            part = dx[item, channel][area]
            part += dy[r, d, i, j] / part.size


def roi_sample(x: Array, rois: Array, y: Array, scale: float, pad_ratio: float) -> None:
    """Values between pixels at a grid of points from corner to corner: x (N, C, H, W), rois (R, 5) -> y (R, C, P, Q).

    Corners are moved outward by ``pad_ratio`` of the size and multiplied by ``scale``; the middle of a pixel is at 0.5.
    What is outside the image, and a region without area, is 0.
    """
    y[...] = 0
    for r, item in _items(rois, len(x)):
        down, right = _point_shares(rois[r], y.shape[2:], x.shape[2:], scale, pad_ratio)
        y[r] = down @ x[item] @ right.T


def roi_sample_grad(dy: Array, rois: Array, dx: Array, scale: float, pad_ratio: float) -> None:
    """The transpose of ``roi_sample``: dy (R, C, P, Q) -> dx (N, C, H, W)."""
    dx[...] = 0
    for r, item in _items(rois, len(dx)):
        down, right = _point_shares(rois[r], dy.shape[2:], dx.shape[2:], scale, pad_ratio)
        dx[item] += down.T @ dy[r] @ right


def _items(rois: Array, count: int) -> Iterator[tuple[int, int]]:
    """The regions of items that there are, and their items."""
    for r, item in enumerate(rois[:, 0]):
        if 0 <= item < count:
            yield r, int(item)


def _rounded(value: Array) -> int:
    """The nearest integer, halves away from 0, not beyond ``FAR``."""
    if not value > -FAR:
        return -int(FAR)
    whole = np.trunc(min(value, value.dtype.type(FAR)))
    return int(whole + np.sign(value)) if value < FAR and abs(value - whole) >= 0.5 else int(whole)


def _ends(roi: Array, axis: int, pad_ratio: float) -> tuple[Array, Array]:
    """Both ends of a region along x (0) or y (1), moved outward."""
    low, high = roi[1 + axis], roi[3 + axis]
    pad = (high - low + 1) * roi.dtype.type(pad_ratio)
    return low - pad, high + pad


def _clipped_bins(start: Any, size: Array, bins: int, pixels: int) -> list[tuple[int, int]]:
    """[first, last) pixels of an axis for each of the ``bins`` that a length is divided into.

    ``start`` is an integer that is added after rounding, or a float that is added before.
    """
    share, found = size / size.dtype.type(bins), []
    whole = isinstance(start, int)
    for k in range(bins):
        low, high = (size.dtype.type(end) * share + (0 if whole else start) for end in (k, k + 1))
        ends = np.floor(low), np.ceil(high)
        first, last = (int(np.clip(np.nan_to_num(end, nan=-FAR), -4 * FAR, 4 * FAR)) for end in ends)
        offset = start if whole else 0
        found.append((min(max(first + offset, 0), pixels), min(max(last + offset, 0), pixels)))
    return found


def _whole_bins(
    roi: Array, bins: Sequence[int], image: Sequence[int], scale: Sequence[float], pad_ratio: float
) -> list[list[tuple[int, int]]]:
    """The bins along x and along y."""
    found = []
    for axis in (0, 1):
        low, high = (_rounded(end * roi.dtype.type(scale[axis])) for end in _ends(roi, axis, pad_ratio))
        size = roi.dtype.type(max(high - low + 1, 1))
        found.append(_clipped_bins(low, size, bins[1 - axis], image[1 - axis]))
    return found


def _bins_of_channels(
    roi: Array, shape: Sequence[int], image: Sequence[int], scale: float
) -> Iterator[tuple[int, int, int, int, tuple[slice, slice]]]:
    """(output, row, column, channel, pixels) of each bin that is not empty."""
    T, along = roi.dtype.type, []
    for axis in (0, 1):
        low = T(_rounded(roi[1 + axis])) * T(scale)
        high = T(_rounded(roi[3 + axis]) + 1) * T(scale)
        along.append(_clipped_bins(low, max(high - low, T(0.1)), shape[2 + axis], image[1 - axis]))
    for d, i, j in np.ndindex(*shape[1:]):
        (top, bottom), (left, right) = along[1][i], along[0][j]
        if bottom > top and right > left:
            channel = (d * shape[2] + i) * shape[3] + j
            yield d, i, j, channel, (slice(top, bottom), slice(left, right))


def _point_shares(
    roi: Array, grid: Sequence[int], image: Sequence[int], scale: float, pad_ratio: float
) -> tuple[Array, Array]:
    """How much of each row (P, H) and column (Q, W) of pixels is in each point of the grid."""
    T, shares, empty = roi.dtype.type, [], False
    for axis in (1, 0):
        low, high = (end * T(scale) - T(0.5) for end in _ends(roi, axis, pad_ratio))
        count, pixels = grid[1 - axis], image[1 - axis]
        empty |= not high - low > 0
        share = np.zeros((count, pixels), roi.dtype)
        for k in range(count):
            at = low + T(k) * ((high - low) / T(max(count - 1, 1)))
            if -0.5 <= at <= pixels - 0.5:
                first = int(np.floor(at))
                inside = min(max(at, T(0)), T(pixels - 1))
                near, far = (min(max(pixel, 0), pixels - 1) for pixel in (first, first + 1))
                share[k, near] += 1 - (inside - near)
                share[k, far] += inside - near
        shares.append(share)
    return (shares[0] * 0, shares[1] * 0) if empty else (shares[0], shares[1])
