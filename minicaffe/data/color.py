"""Colour spaces of images (channels, height, width) in the order blue, green, red, as OpenCV has them for bytes."""

from __future__ import annotations

import numpy as np


def to_hsv(bgr: np.ndarray) -> np.ndarray:
    """Hue (0 .. 180), saturation and value (0 .. 255), float32 (3, H, W), of an image of bytes; of one of
    floats, value has their unit."""
    b, g, r = bgr.astype(np.float32)
    value, least = np.maximum(np.maximum(b, g), r), np.minimum(np.minimum(b, g), r)
    chroma = value - least
    safe = np.where(chroma > 0, chroma, 1)
    hue = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    saturation = np.where(value > 0, 255 * chroma / np.where(value > 0, value, 1), 0)
    return np.stack([np.where(chroma > 0, hue * 30 % 180, 0), saturation, value]).astype(np.float32)


def from_hsv(hsv: np.ndarray) -> np.ndarray:
    """The image of bytes of ``to_hsv``."""
    return _bytes(floats_from_hsv(hsv))


def floats_from_hsv(hsv: np.ndarray) -> np.ndarray:
    """The image of floats (3, H, W) of ``to_hsv``, whose value has the unit of the image."""
    hue, saturation, value = hsv[0] % 180 / 30, hsv[1] / 255, hsv[2]
    planes = []
    for shift in (1, 3, 5):  # blue, green, red
        k = (shift + hue) % 6
        planes.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(planes)


def gray(bgr: np.ndarray) -> np.ndarray:
    """Brightness, float32 (H, W)."""
    b, g, r = bgr.astype(np.float32)
    return 0.114 * b + 0.587 * g + 0.299 * r


def to_ycrcb(bgr: np.ndarray) -> np.ndarray:
    """Brightness and two differences of colour, bytes (3, H, W)."""
    y = gray(bgr)
    return _bytes(np.stack([y, (bgr[2] - y) * 0.713 + 128, (bgr[0] - y) * 0.564 + 128]))


def from_ycrcb(ycrcb: np.ndarray) -> np.ndarray:
    """The image of bytes of ``to_ycrcb``."""
    y, cr, cb = ycrcb.astype(np.float32)
    cr, cb = cr - 128, cb - 128
    return _bytes(np.stack([y + 1.773 * cb, y - 0.714 * cr - 0.344 * cb, y + 1.403 * cr]))


def to_lab(bgr: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB under D65, bytes (3, H, W): L stretched to 0 .. 255, a and b shifted by 128."""
    rgb = bgr[::-1].astype(np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    x, y, z = np.tensordot(np.array(matrix), linear, axes=1) / np.array([0.950456, 1, 1.088754])[:, None, None]
    fx, fy, fz = (np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z))
    light = np.where(y > 0.008856, 116 * fy - 16, 903.3 * y)
    return _bytes(np.stack([light * 255 / 100, 500 * (fx - fy) + 128, 200 * (fy - fz) + 128]))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
