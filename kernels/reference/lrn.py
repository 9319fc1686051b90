"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def _neighbours(x: Array, size: int) -> Iterator[Array]:
    """x (N, C, inner) shifted by each of the ``size`` channel offsets of a centred window, padded with zeros."""
    half = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)))
    for offset in range(size):
        yield padded[:, offset : offset + x.shape[1]]


def lrn(x: Array, scale: Array | None, y: Array, size: int, alpha: float, beta: float, k: float) -> None:
    """Normalisation across ``size`` channels: x, scale, y (N, C, inner).

    ``scale = k + alpha / size * (sum of x^2 over the window)``, ``y = x * scale^-beta``.  Nobody reads a ``scale`` of
    None.
    """
    scale = np.empty_like(x) if scale is None else scale
    scale[...] = k + alpha / size * sum(_neighbours(x * x, size))
    y[...] = x * scale**-beta


def lrn_grad(x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float) -> None:
    """``dx = dy * scale^-beta - 2 alpha beta / size * x * (sum of dy * y / scale over the window)``."""
    dx[...] = dy * scale**-beta - 2 * alpha * beta / size * x * sum(_neighbours(dy * y / scale, size))


def _boxes(x: Array, size: int) -> Iterator[Array]:
    """x (N, C, H, W) shifted by each of the ``size`` x ``size`` pixel offsets of a centred window, padded
    with zeros.
    """
    half = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    for h, w in np.ndindex(size, size):
        yield padded[:, :, h : h + x.shape[2], w : w + x.shape[3]]


def lrn_within(x: Array, scale: Array | None, y: Array, size: int, alpha: float, beta: float) -> None:
    """Normalisation within each channel, over ``size`` x ``size`` pixels: x, scale, y (N, C, H, W); ``size`` is odd.

    ``scale = 1 + alpha / size^2 * (sum of x^2 over the window)``, ``y = x * scale^-beta``.  Nobody reads a ``scale`` of
    None.
    """
    scale = np.empty_like(x) if scale is None else scale
    scale[...] = 1 + alpha / size**2 * sum(_boxes(x * x, size))
    y[...] = x * scale**-beta


def lrn_within_grad(
    x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float
) -> None:
    """``dx = dy * scale^-beta - 2 alpha beta / size^2 * x * (sum of dy * y / scale over the window)``."""
    dx[...] = dy * scale**-beta - 2 * alpha * beta / size**2 * x * sum(_boxes(dy * y / scale, size))
