"""The data transformer's primitives in plain NumPy.

Of each image of a batch: offsets (N, 2) int64, the crop's first row and column; mirror (N,) bool.
"""

from __future__ import annotations

import numpy as np


def crop(batch: np.ndarray, offsets: np.ndarray, mirror: np.ndarray, out: np.ndarray) -> None:
    """Crop and mirror each image of a batch (N, C, H, W), uint8 or float32, into out (N, C, h, w) of the same dtype."""
    height, width = out.shape[2:]
    for image, (top, left), flip, result in zip(batch, offsets, mirror, out, strict=True):
        window = image[:, top : top + height, left : left + width]
        result[:] = window[..., ::-1] if flip else window


def crop_packed(pixels: np.ndarray, top: int, left: int, mirrored: bool, out: np.ndarray) -> None:
    """Crop and mirror an image that is packed, and take it apart, into out (3, h, w) uint8: blue, green, red.

    pixels (H, W) uint32: red is in the lowest byte of each, then green and blue; the highest is not used.
    """
    height, width = out.shape[1:]
    window = pixels[top : top + height, left : left + width]
    for plane, shift in zip(out, (16, 8, 0), strict=True):
        plane[:] = ((window[:, ::-1] if mirrored else window) >> shift) & 0xFF


def subtract_mean(
    pixels: np.ndarray,
    mean: np.ndarray,
    scale: np.float32,
    offsets: np.ndarray,
    mirror: np.ndarray,
    out: np.ndarray,
) -> None:
    """Subtract the mean from what ``crop`` gave, and scale it.

    pixels (N, C, h, w) uint8 or float32; mean (C, H, W) or (C, 1, 1) float32, that of the source pixel; scale float32;
    out (N, C, h, w) float32.
    """
    height, width = out.shape[2:]
    for image, (top, left), flip, result in zip(pixels, offsets, mirror, out, strict=True):
        means = mean[:, top : top + height, left : left + width] if mean[0].size > 1 else mean
        result[:] = (image - (means[..., ::-1] if flip else means)) * scale
