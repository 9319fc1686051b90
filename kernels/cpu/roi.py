"""Regions of interest, pooled: channels of regions are divided among the threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicaffe.kernels.cpu.permute import permute
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.scratch import scratch
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.memory import transpose
from minicaffe.kernels.reference import FLT_MAX, Array
from minicaffe.kernels.reference.roi import FAR


@kernel(inline=True)
def _rounded(value):
    """The nearest integer, halves away from 0, not beyond ``FAR``."""
    if not value > -FAR:
        return -int(FAR)
    if value > FAR:
        return int(FAR)
    whole = int(value)
    if value - whole >= 0.5:
        return whole + 1
    return whole - 1 if value - whole <= -0.5 else whole


@kernel(inline=True)
def _whole_region(roi, axis, scale, pad_ratio, bins):
    """The first pixel of a region along an axis, and the pixels of one of its bins."""
    low, high = roi[1 + axis], roi[3 + axis]
    pad = (high - low + roi.dtype.type(1)) * pad_ratio
    first, last = _rounded((low - pad) * scale), _rounded((high + pad) * scale)
    return first, roi.dtype.type(max(last - first + 1, 1)) / roi.dtype.type(bins)


@kernel(internal=True)
def _take_larger(best, place, pixel, at):
    """Take, for each channel, the pixel at a place if it is larger than the best so far; the first NaN stays."""
    for c in range(np.uintp(0), np.uintp(best.size)):
        value, before = pixel[c], best[c]
        larger = value > before or (value != value and before == before)
        best[c] = value if larger else before
        place[c] = np.int32(at) if larger else place[c]


@part_kernel()
def _pool_part(part, parts, pixels, width, rois, y, mask, scale_x, scale_y, pad_ratio):
    """Pool some regions of images (items, pixels, channels), all channels at a time."""
    items, area, channels = pixels.shape
    height = area // width
    rows, columns = y.shape[2:]
    bins = rows * columns
    T = pixels.dtype.type
    best, place = np.empty((bins, channels), pixels.dtype), np.empty((bins, channels), np.int32)
    low, high = share(part, parts, len(rois))
    for r in range(low, high):
        roi = rois[r]
        known = 0 <= roi[0] < items
        item = int(roi[0]) if known else 0
        start_x, size_x = _whole_region(roi, 0, scale_x, pad_ratio, columns)
        start_y, size_y = _whole_region(roi, 1, scale_y, pad_ratio, rows)
        for i in range(rows):
            top = min(max(int(np.floor(T(i) * size_y)) + start_y, 0), height)
            bottom = min(max(int(np.ceil(T(i + 1) * size_y)) + start_y, 0), height)
            for j in range(columns):
                left = min(max(int(np.floor(T(j) * size_x)) + start_x, 0), width)
                right = min(max(int(np.ceil(T(j + 1) * size_x)) + start_x, 0), width)
                here = i * columns + j
                inside = known and bottom > top and right > left
                best[here], place[here] = T(-FLT_MAX) if inside else T(0), -1
                if inside:
                    for h in range(top, bottom):
                        for w in range(left, right):
                            _take_larger(best[here], place[here], pixels[item, h * width + w], h * width + w)
        size, out = y.itemsize, r * channels * bins
        transpose(y.ctypes.data + out * size, bins * size, best.ctypes.data, channels * size, bins, channels, T(0))
        like = np.float32(0)  # places are moved as if they were that
        transpose(mask.ctypes.data + out * 4, bins * 4, place.ctypes.data, channels * 4, bins, channels, like)


@kernel()
def _pool(parts, pixels, width, rois, y, mask, scale_x, scale_y, pad_ratio):
    parallel(_pool_part, parts, (pixels, width, rois, y, mask, scale_x, scale_y, pad_ratio))


@part_kernel()
def _pool_grad_part(part, parts, dy, mask, rois, dx):
    low, high = share(part, parts, dx.shape[1])  # by channels: regions may overlap
    for c in range(low, high):
        for n in range(len(dx)):
            dx[n, c] = 0
        for r in range(len(rois)):
            if not 0 <= rois[r, 0] < len(dx):
                continue
            item = int(rois[r, 0])
            for i in range(dy.shape[2]):
                for j in range(dy.shape[3]):
                    place = mask[r, c, i, j]
                    if place >= 0:
                        dx[item, c, place // dx.shape[3], place % dx.shape[3]] += dy[r, c, i, j]


@kernel()
def _pool_grad(parts, dy, mask, rois, dx):
    parallel(_pool_grad_part, parts, (dy, mask, rois, dx))


@kernel(inline=True)
def _own_bin(roi, axis, scale, k, bins, pixels):
    """[first, last) pixels of bin k of a region along an axis."""
    T = roi.dtype.type
    low = T(_rounded(roi[1 + axis])) * scale
    high = T(_rounded(roi[3 + axis]) + 1) * scale
    size = max(high - low, T(0.1)) / T(bins)
    first, last = np.floor(T(k) * size + low), np.ceil(T(k + 1) * size + low)
    return _clipped(first, pixels), _clipped(last, pixels)


@kernel(inline=True)
def _clipped(value, limit):
    """An integer in 0 .. limit; 0 for NaN."""
    return limit if value > limit else int(value) if value > 0 else 0


@part_kernel()
def _own_pool_part(part, parts, x, rois, y, scale):
    items, _, height, width = x.shape
    outputs, bins = y.shape[1:3]
    low, high = share(part, parts, len(rois) * outputs)
    for plane in range(low, high):
        r, d = plane // outputs, plane % outputs
        roi = rois[r]
        known = 0 <= roi[0] < items
        item = int(roi[0]) if known else 0
        for i in range(bins):
            top, bottom = _own_bin(roi, 1, scale, i, bins, height)
            for j in range(bins):
                left, right = _own_bin(roi, 0, scale, j, bins, width)
                total = x.dtype.type(0)
                if known and bottom > top and right > left:
                    image = x[item, (d * bins + i) * bins + j]
                    for h in range(top, bottom):
                        for w in range(left, right):
                            total += image[h, w]
                    total /= x.dtype.type((bottom - top) * (right - left))
                y[r, d, i, j] = total


@kernel()
def _own_pool(parts, x, rois, y, scale):
    parallel(_own_pool_part, parts, (x, rois, y, scale))


@part_kernel()
def _own_pool_grad_part(part, parts, dy, rois, dx, scale):
    items, _, height, width = dx.shape
    bins = dy.shape[2]
    low, high = share(part, parts, dx.shape[1])
    for c in range(low, high):
        d, i, j = c // (bins * bins), c // bins % bins, c % bins
        for n in range(items):
            dx[n, c] = 0
        for r in range(len(rois)):
            if not 0 <= rois[r, 0] < items:
                continue
            image = dx[int(rois[r, 0]), c]
            top, bottom = _own_bin(rois[r], 1, scale, i, bins, height)
            left, right = _own_bin(rois[r], 0, scale, j, bins, width)
            if bottom > top and right > left:
                value = dy[r, d, i, j] / dx.dtype.type((bottom - top) * (right - left))
                for h in range(top, bottom):
                    for w in range(left, right):
                        image[h, w] += value


@kernel()
def _own_pool_grad(parts, dy, rois, dx, scale):
    parallel(_own_pool_grad_part, parts, (dy, rois, dx, scale))


@kernel(inline=True)
def _span(roi, axis, scale, pad_ratio):
    """Where a region begins along an axis, and how long it is."""
    T = roi.dtype.type
    low, high = roi[1 + axis], roi[3 + axis]
    pad = (high - low + T(1)) * pad_ratio
    start = (low - pad) * scale - T(0.5)
    return start, (high + pad) * scale - T(0.5) - start


@kernel(inline=True)
def _point(roi, start, length, k, count, pixels):
    """Point k: the pixels before and after it (-1: outside), and the share of the latter."""
    T = roi.dtype.type
    at = start + T(k) * (length / T(max(count - 1, 1)))
    if not -0.5 <= at <= pixels - T(0.5):
        return -1, -1, T(0)
    first = int(np.floor(at))
    near, far = min(max(first, 0), pixels - 1), min(max(first + 1, 0), pixels - 1)
    return near, far, min(max(at, T(0)), T(pixels - 1)) - T(near)


@part_kernel()
def _sample_part(part, parts, x, rois, y, scale, pad_ratio):
    items, channels, height, width = x.shape
    rows, columns = y.shape[2:]
    T = x.dtype.type
    low, high = share(part, parts, len(rois) * channels)
    for plane in range(low, high):
        r, c = plane // channels, plane % channels
        roi = rois[r]
        start_x, length_x = _span(roi, 0, scale, pad_ratio)
        start_y, length_y = _span(roi, 1, scale, pad_ratio)
        known = 0 <= roi[0] < items and length_x > 0 and length_y > 0
        image = x[int(roi[0]) if known else 0, c]
        for i in range(rows):
            top, bottom, down = _point(roi, start_y, length_y, i, rows, height)
            for j in range(columns):
                left, right, along = _point(roi, start_x, length_x, j, columns, width)
                value = T(0)
                if known and top >= 0 and left >= 0:
                    above = (T(1) - along) * image[top, left] + along * image[top, right]
                    below = (T(1) - along) * image[bottom, left] + along * image[bottom, right]
                    value = (T(1) - down) * above + down * below
                y[r, c, i, j] = value


@kernel()
def _sample(parts, x, rois, y, scale, pad_ratio):
    parallel(_sample_part, parts, (x, rois, y, scale, pad_ratio))


@part_kernel()
def _sample_grad_part(part, parts, dy, rois, dx, scale, pad_ratio):
    items, _, height, width = dx.shape
    rows, columns = dy.shape[2:]
    T = dx.dtype.type
    low, high = share(part, parts, dx.shape[1])
    for c in range(low, high):
        for n in range(items):
            dx[n, c] = 0
        for r in range(len(rois)):
            roi = rois[r]
            start_x, length_x = _span(roi, 0, scale, pad_ratio)
            start_y, length_y = _span(roi, 1, scale, pad_ratio)
            if not (0 <= roi[0] < items and length_x > 0 and length_y > 0):
                continue
            image = dx[int(roi[0]), c]
            for i in range(rows):
                top, bottom, down = _point(roi, start_y, length_y, i, rows, height)
                for j in range(columns):
                    left, right, along = _point(roi, start_x, length_x, j, columns, width)
                    if top >= 0 and left >= 0:
                        value = dy[r, c, i, j]
                        image[top, left] += (T(1) - down) * (T(1) - along) * value
                        image[top, right] += (T(1) - down) * along * value
                        image[bottom, left] += down * (T(1) - along) * value
                        image[bottom, right] += down * along * value


@kernel()
def _sample_grad(parts, dy, rois, dx, scale, pad_ratio):
    parallel(_sample_grad_part, parts, (dy, rois, dx, scale, pad_ratio))


def roi_pool(x: Array, rois: Array, y: Array, mask: Array, scale: Sequence[float], pad_ratio: float) -> None:
    """See ``reference.roi_pool``."""
    T, (items, channels, height, width) = x.dtype.type, x.shape
    if 0 in (x.size, y.size):
        y[...], mask[...] = 0, -1
        return
    pixels = scratch(x.nbytes)[: x.nbytes].view(x.dtype).reshape(items, height * width, channels)
    permute(x.reshape(items, channels, height * width), (0, 2, 1), pixels)
    _pool(parts(4 * y.size), pixels, width, rois, y, mask, T(scale[0]), T(scale[1]), T(pad_ratio))


def roi_pool_grad(dy: Array, mask: Array, rois: Array, dx: Array, scale: Sequence[float], pad_ratio: float) -> None:
    """See ``reference.roi_pool_grad``."""
    _pool_grad(parts(dx.size + dy.size), dy, mask, rois, dx)


def position_sensitive_pool(x: Array, rois: Array, y: Array, scale: float) -> None:
    """See ``reference.position_sensitive_pool``."""
    _own_pool(parts(4 * y.size), x, rois, y, x.dtype.type(scale))


def position_sensitive_pool_grad(dy: Array, rois: Array, dx: Array, scale: float) -> None:
    """See ``reference.position_sensitive_pool_grad``."""
    _own_pool_grad(parts(dx.size + dy.size), dy, rois, dx, dx.dtype.type(scale))


def roi_sample(x: Array, rois: Array, y: Array, scale: float, pad_ratio: float) -> None:
    """See ``reference.roi_sample``."""
    _sample(parts(4 * y.size), x, rois, y, x.dtype.type(scale), x.dtype.type(pad_ratio))


def roi_sample_grad(dy: Array, rois: Array, dx: Array, scale: float, pad_ratio: float) -> None:
    """See ``reference.roi_sample_grad``."""
    _sample_grad(parts(dx.size + 4 * dy.size), dy, rois, dx, dx.dtype.type(scale), dx.dtype.type(pad_ratio))
