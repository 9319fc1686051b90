"""Images of bytes in another size, in each of the ways that OpenCV knows."""

from __future__ import annotations

import numpy as np

from minicaffe.data.image import resize
from minicaffe.limits import require_memory

_ONE = 1 << 11  # OpenCV's fixed point for images of bytes

LINEAR, AREA, NEAREST, CUBIC, LANCZOS4 = range(1, 6)
"""Values of ResizeParameter.Interp_mode."""


def resample(image: np.ndarray, height: int, width: int, mode: int = LINEAR) -> np.ndarray:
    """Resize an image (channels, h, w) of bytes.

    As OpenCV does it, but for the last bit of AREA: the mean of what a pixel covers, or where a side grows, pixels with
    smooth edges.
    """
    old = image.shape[1:]
    if mode == LINEAR or (mode == AREA and old == (2 * height, 2 * width)):
        return resize(image, height, width)
    weights = 32 * (height * old[0] + width * old[1]) + 8 * len(image) * height * max(3 * width, old[1])
    size = len(image) * height * width + 32 * (height + width) if mode == NEAREST else weights
    require_memory(size, f"an image of {height} x {width}", "take a smaller size")
    if mode == NEAREST:
        rows, columns = (_nearest(size, new) for size, new in zip(old, (height, width), strict=True))
        return image[:, rows[:, None], columns]
    covered = _covered if height <= old[0] and width <= old[1] else _stretched
    taps = {AREA: covered, CUBIC: _cubic, LANCZOS4: _lanczos}[mode]
    vertical, horizontal = taps(old[0], height), taps(old[1], width)
    if taps in (_lanczos, _stretched):  # in fixed point, as OpenCV has it
        fixed = (vertical @ image.astype(np.float64) @ horizontal.T).astype(np.int64)
        return ((fixed + _ONE**2 // 2) // _ONE**2).clip(0, 255).astype(np.uint8)
    return np.rint(vertical @ image.astype(np.float32) @ horizontal.T).clip(0, 255).astype(np.uint8)


def resample_floats(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (channels, h, w) of floats by cubic convolution."""
    return _cubic(image.shape[1], height) @ image @ _cubic(image.shape[2], width).T


def _nearest(size: int, new_size: int) -> np.ndarray:
    return np.minimum(np.floor(np.arange(new_size) * (size / new_size)).astype(int), size - 1)


def _covered(size: int, new_size: int) -> np.ndarray:
    """Weights (new_size, size): how much of each new pixel each old one covers."""
    edges = np.arange(new_size + 1) * (size / new_size)
    low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(size) + 1)
    weights = np.maximum(high - low, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _stretched(size: int, new_size: int) -> np.ndarray:
    """Weights (new_size, size) of AREA where a side grows: most new pixels are an old one, the others mix two."""
    n = np.arange(new_size)
    left = np.floor(n * (size / new_size)).astype(int)
    f = n + 1 - (left + 1) * (new_size / size)
    f = np.where(f <= 0, 0, f - np.floor(f))
    return _weights(size, new_size, 1, np.rint(np.stack([1 - f, f], axis=1) * _ONE), left)


def _weights(size: int, new_size: int, reach: int, kernel: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Weights (new_size, size) of ``kernel`` (new_size, 2 reach) over the pixels from ``first`` on; beyond the borders
    stands the outermost pixel."""
    weights = np.zeros((new_size, size), np.float32)
    for k in range(2 * reach):
        np.add.at(weights, (np.arange(new_size), np.clip(first + k, 0, size - 1)), kernel[:, k])
    return weights


def _positions(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The old pixel left of the centre of each new one, and how far right of it that lies."""
    position = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    left = np.floor(position).astype(int)
    return left, position - left


def _cubic(size: int, new_size: int, a: float = -0.75) -> np.ndarray:
    """Keys's cubic convolution (1981) with OpenCV's ``a``."""
    left, f = _positions(size, new_size)
    x = np.stack([f + 1, f, 1 - f, 2 - f], axis=1)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return _weights(size, new_size, 2, np.where(x <= 1, inner, outer), left - 1)


def _lanczos(size: int, new_size: int) -> np.ndarray:
    """Lanczos's windowed sinc of 8 taps, its sum made 1."""
    left, f = _positions(size, new_size)
    x = f[:, None] - np.arange(-3, 5)
    kernel = np.sinc(x) * np.sinc(x / 4)
    return _weights(size, new_size, 4, np.rint(kernel / kernel.sum(axis=1, keepdims=True) * _ONE), left - 3)
