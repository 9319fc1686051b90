"""The data transformer's primitive in plain NumPy."""

from __future__ import annotations

import numpy as np


def transform(
    batch: np.ndarray,
    mean: np.ndarray,
    scale: np.float32,
    offsets: np.ndarray,
    mirror: np.ndarray,
    out: np.ndarray,
) -> None:
    """Crop, mirror, subtract the mean and scale each image of a batch.

    batch (N, C, H, W) uint8 or float32; mean (C, H, W) or (C, 1, 1) float32; scale float32; offsets (N, 2) int64, the
    crop's first row and column; mirror (N,) bool; out (N, C, h, w) float32. The mean belongs to the source pixel.
    """
    height, width = out.shape[2:]
    mean = np.broadcast_to(mean, batch.shape[1:])
    for image, (top, left), flip, result in zip(batch, offsets, mirror, out, strict=True):
        window = slice(None), slice(top, top + height), slice(left, left + width)
        values = (image[window] - mean[window]) * scale
        result[:] = values[..., ::-1] if flip else values
