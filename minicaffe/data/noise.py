"""Changes that make images worse (``noise_param`` of SSD), each of which a field turns on."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.data import color
from minicaffe.data.image import decode_image
from minicaffe.errors import DataError


class Noise:
    """What a NoiseParameter asks for, in SSD's order: decolorize, gauss_blur, hist_eq, clahe, jpeg, erode, posterize,
    inverse, saltpepper, convert_to_hsv, convert_to_lab.

    SSD does not read ``prob``.  Changes of colour leave an image of one channel as it is.
    """

    def __init__(self, param: Any) -> None:
        self._param = param
        if param.saltpepper and not 0 <= param.saltpepper_param.fraction <= 1:
            raise DataError(
                f"noise_param.saltpepper_param.fraction: lies in 0 .. 1; found {param.saltpepper_param.fraction:g}"
            )

    def __call__(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        """A worse image of bytes (channels, H, W)."""
        p, colored = self._param, len(image) == 3
        for wanted, change in (
            (p.decolorize and colored, _decolorize),
            (p.gauss_blur, _blur),
            (p.hist_eq, lambda x: _brightness(x, equalize)),
            (p.clahe, lambda x: _brightness(x, equalize_locally)),
            (p.jpeg > 0, lambda x: _compress(x, max(int(min(p.jpeg, 100)), 1))),
            (p.erode, _erode),
            (p.posterize, lambda x: x // 64 * 64 + 32),
            (p.inverse, lambda x: 255 - x),
            (p.saltpepper, lambda x: self._sprinkle(x, stream)),
            (p.convert_to_hsv and colored, _to_hsv),
            (p.convert_to_lab and colored, color.to_lab),
        ):
            if wanted:
                image = change(image)
        return image

    def _sprinkle(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        """Set a fraction of the pixels, drawn with repetitions, to a value."""
        options, (channels, height, width) = self._param.saltpepper_param, image.shape
        values = np.array(options.value or [0], np.float32).astype(np.uint8)
        if len(values) not in (1, channels):
            raise DataError(
                f"noise_param.saltpepper_param.value: give one, or one for each of the {channels} channels; "
                f"found {len(values)}"
            )
        count = int(options.fraction * height * width)
        places = stream.draws(2 * count).reshape(count, 2)
        image = image.copy()
        image[:, places[:, 1] % height, places[:, 0] % width] = np.broadcast_to(values, channels)[:, None]
        return image


def _to_hsv(image: np.ndarray) -> np.ndarray:
    planes = np.rint(color.to_hsv(image)).astype(np.uint8)
    planes[0] %= 180
    return planes


def _decolorize(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(color.gray(image)).astype(np.uint8)[None], 3, axis=0)


def _blur(image: np.ndarray) -> np.ndarray:
    """A Gaussian of standard deviation 1.5 over 7 x 7 pixels."""
    values, offsets = image.astype(np.float32), np.arange(-3, 4)
    weights = np.exp(-0.5 / 1.5**2 * offsets**2)
    for axis in (1, 2):
        rows = np.moveaxis(values, axis, 0)
        around = np.pad(rows, [(3, 3), (0, 0), (0, 0)], mode="reflect")
        smooth = sum(w * around[i : i + len(rows)] for i, w in enumerate((weights / weights.sum()).astype(np.float32)))
        values = np.moveaxis(smooth, 0, axis)
    return np.rint(values).astype(np.uint8)


def _erode(image: np.ndarray) -> np.ndarray:
    """The least of each pixel and its four neighbours."""
    around = np.pad(image, [(0, 0), (1, 1), (1, 1)], mode="edge")
    inner = slice(1, -1)
    above, below = around[:, :-2, inner], around[:, 2:, inner]
    left, right = around[:, inner, :-2], around[:, inner, 2:]
    return np.minimum.reduce([image, above, below, left, right])


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of the image when it was a JPEG file of this quality."""
    from PIL import Image

    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image[::-1].transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    return decode_image(file.getvalue(), color=len(image) == 3)


def _brightness(image: np.ndarray, change: Any) -> np.ndarray:
    """The image with its brightness (H, W) changed, and its colours as they were."""
    if len(image) != 3:
        return np.stack([change(plane) for plane in image])
    planes = color.to_ycrcb(image)
    planes[0] = change(planes[0])
    return color.from_ycrcb(planes)


def equalize(plane: np.ndarray) -> np.ndarray:
    """Stretch the brightness of a plane of bytes so that its histogram becomes flat."""
    counts = np.bincount(plane.reshape(-1), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    rest = plane.size - counts[first]
    if rest == 0:
        return plane
    table = np.rint((np.cumsum(counts) - counts[first]) * (255 / rest)).clip(0, 255)
    return table.astype(np.uint8)[plane]


def equalize_locally(plane: np.ndarray, limit: float = 4, tiles: int = 8) -> np.ndarray:
    """``equalize`` in tiles, between which it changes smoothly; counts above ``limit`` times the mean are spread over
    all grays (CLAHE, Zuiderveld 1994)."""
    height, width = plane.shape
    pads = [(0, -size % tiles) for size in plane.shape]
    padded = np.pad(plane, pads, mode="reflect" if min(plane.shape) > tiles else "edge")
    rows, columns = (size // tiles for size in padded.shape)
    blocks = padded.reshape(tiles, rows, tiles, columns).transpose(0, 2, 1, 3).reshape(tiles, tiles, -1)
    tables = np.array([[_limited_table(block, limit) for block in row] for row in blocks], np.float32)
    (top, bottom, v), (left, right, h) = (
        _between(size, step, tiles) for size, step in ((height, rows), (width, columns))
    )
    above = tables[top[:, None], left, plane] * (1 - h) + tables[top[:, None], right, plane] * h
    below = tables[bottom[:, None], left, plane] * (1 - h) + tables[bottom[:, None], right, plane] * h
    return np.rint(above * (1 - v[:, None]) + below * v[:, None]).clip(0, 255).astype(np.uint8)


def _limited_table(block: np.ndarray, limit: float) -> np.ndarray:
    counts = np.bincount(block, minlength=256)
    most = max(int(limit * block.size / 256), 1)
    excess = np.maximum(counts - most, 0).sum()
    counts = np.minimum(counts, most) + excess // 256
    rest = excess % 256
    if rest:
        counts[:: max(256 // rest, 1)][:rest] += 1
    return np.rint(np.cumsum(counts) * (255 / block.size)).clip(0, 255)


def _between(size: int, step: int, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel along an axis, the tiles on both sides of it, and how near it is to the second."""
    position = np.arange(size) / step - 0.5
    low = np.floor(position).astype(int)
    return low.clip(0, tiles - 1), (low + 1).clip(0, tiles - 1), (position - low).astype(np.float32)
