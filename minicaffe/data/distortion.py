"""Random changes of brightness, contrast, saturation and hue (``distort_param`` of SSD)."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.data.color import from_hsv, to_hsv
from minicaffe.errors import DataError

_MOST = 1e9
"""Any larger bound makes images of bytes no other than this."""


class Distortion:
    """What a DistortionParameter asks for: each change with its probability, in one of two orders.

    Raises DataError for bounds in the wrong order, and negative ones.
    """

    def __init__(self, param: Any) -> None:
        self._param = param
        for name in ("contrast", "saturation"):
            low, high = getattr(param, f"{name}_lower"), getattr(param, f"{name}_upper")
            if getattr(param, f"{name}_prob") > 0 and not 0 <= low <= high <= _MOST:
                raise DataError(
                    f"distort_param: needs 0 <= {name}_lower <= {name}_upper <= {_MOST:g}; found {low:g} and {high:g}"
                )
        for name in ("brightness_delta", "hue_delta"):
            if not 0 <= getattr(param, name) <= _MOST:
                raise DataError(f"distort_param.{name}: must lie in 0 .. {_MOST:g}; found {getattr(param, name):g}")

    def __call__(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        """Distort an image of bytes (channels, H, W)."""
        contrast_first = chance(stream) > 0.5
        steps = [self._saturate, self._turn_hue]
        steps = [self._contrast, *steps] if contrast_first else [*steps, self._contrast]
        for step in (self._brighten, *steps, self._shuffle_channels):
            image = step(image, stream)
        return image

    def _brighten(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        p = self._param
        if chance(stream) >= p.brightness_prob:
            return image
        return _bytes(image + between(stream, -p.brightness_delta, p.brightness_delta))

    def _contrast(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        p = self._param
        if chance(stream) >= p.contrast_prob:
            return image
        return _bytes(image * between(stream, p.contrast_lower, p.contrast_upper))

    def _saturate(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        p = self._param
        if chance(stream) >= p.saturation_prob:
            return image
        return _in_hsv(image, 1, lambda plane: plane * between(stream, p.saturation_lower, p.saturation_upper))

    def _turn_hue(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        p = self._param
        if chance(stream) >= p.hue_prob:
            return image
        return _in_hsv(image, 0, lambda plane: plane + between(stream, -p.hue_delta, p.hue_delta))

    def _shuffle_channels(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        if chance(stream) >= self._param.random_order_prob:
            return image
        order = np.arange(len(image))
        stream.shuffle(order)
        return image[order]


def chance(stream: Stream) -> float:
    """A number in [0, 1]."""
    return between(stream, 0, 1)


def between(stream: Stream, low: float, high: float) -> float:
    """A number in [low, high]."""
    return float(stream.uniform(low, high, 1)[0])


def _in_hsv(image: np.ndarray, plane: int, change: Any) -> np.ndarray:
    """The image with one plane of its HSV form changed; an image without colours stays as it is."""
    if len(image) != 3:
        return image
    hsv = to_hsv(image)
    hsv[plane] = np.clip(change(hsv[plane]), 0, 255)
    return from_hsv(hsv)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
