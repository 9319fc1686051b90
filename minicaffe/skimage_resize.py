"""Images in another size, as scikit-image makes them, of which Caffe's Python code asks it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat

NEAREST, LINEAR = 0, 1
_TRUNCATE = 4  # standard deviations at which a Gaussian ends


def resize(image: NDArray, height: int, width: int, order: int) -> NDArray:
    """An image (rows, columns, channels) in another size: the edges of both lie on each other, and 0 lies around it.

    It is smoothed before it is made smaller.  ``order`` is that of the splines; above 1 they need SciPy
    (MissingExtraError).
    """
    scale = (image.shape[0] / height, image.shape[1] / width)
    if order > LINEAR:
        ndimage = compat.require("scipy.ndimage")
        smooth = ndimage.gaussian_filter(image, [_deviation(s) for s in scale] + [0], mode="constant")
        zoom = (height / image.shape[0], width / image.shape[1], 1)
        return ndimage.zoom(smooth, zoom, order=order, mode="grid-constant", grid_mode=True)
    for axis in (0, 1):
        image = _smooth(image, axis, _deviation(scale[axis]))
    for axis, count in enumerate((height, width)):
        image = _sample(image, axis, (np.arange(count) + 0.5) * scale[axis] - 0.5, order)
    return image


def resize_corners(image: NDArray, height: int, width: int, order: int) -> NDArray:
    """An array (rows, columns, channels) in another size: the centres of the corners of both lie on each other.

    ``order`` as in ``resize``.
    """
    if order > LINEAR:
        zoom = (height / image.shape[0], width / image.shape[1], 1)
        return compat.require("scipy.ndimage").zoom(image, zoom, order=order)
    for axis, count in enumerate((height, width)):
        last = image.shape[axis] - 1
        image = _sample(image, axis, np.arange(count) * (last / max(count - 1, 1)), order)
    return image


def _deviation(scale: float) -> float:
    """Of the Gaussian that smooths an image before it becomes ``scale`` times smaller."""
    return max(0.0, (scale - 1) / 2)


def _smooth(image: NDArray, axis: int, deviation: float) -> NDArray:
    """The image under a Gaussian along an axis, with 0 around it."""
    radius = int(_TRUNCATE * deviation + 0.5)
    if not radius:
        return image
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / deviation**2 * offsets**2)
    rows = np.moveaxis(np.asarray(image, float), axis, 0)
    result = np.zeros_like(rows)
    for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
        first, last = max(-offset, 0), min(len(rows) - offset, len(rows))
        if first < last:
            result[first:last] += weight * rows[first + offset : last + offset]
    return np.moveaxis(result, 0, axis)


def _sample(image: NDArray, axis: int, positions: NDArray, order: int) -> NDArray:
    """The image at ``positions`` along an axis, the nearest row or what lies between two; 0 lies around it."""
    rows = np.moveaxis(np.asarray(image, float), axis, 0)
    rows = np.concatenate([np.zeros_like(rows[:1]), rows, np.zeros_like(rows[:1])])
    positions = np.clip(positions + 1, 0, len(rows) - 1)
    if order == NEAREST:
        return np.moveaxis(rows[np.floor(positions + 0.5).astype(int)], 0, axis)
    left = np.minimum(positions.astype(int), len(rows) - 2)
    share = (positions - left).reshape(-1, *[1] * (rows.ndim - 1))
    return np.moveaxis(rows[left] * (1 - share) + rows[left + 1] * share, 0, axis)
