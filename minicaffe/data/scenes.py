"""Scenes of several real handwritten digits, with a box around each and a label for each pixel: what examples of
detection and segmentation need without a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minicaffe.data.annotations import Box
from minicaffe.data.digits import read_digits
from minicaffe.data.image import resize

_SMALLEST, _LARGEST = 16, 40
"""Heights of digits in pixels."""
_MOST = 5
"""Digits in a scene."""
_APART = 2
"""Pixels between two boxes, at least."""
_INK = 64
"""Pixels of a digit that are brighter belong to it, out of 255."""


class Scene(NamedTuple):
    """An image uint8 (1, side, side); the boxes of its digits; and the label of each pixel, uint8 (side, side), 0 where
    there is no digit.  A digit's label is its value plus 1."""

    image: np.ndarray
    boxes: list[Box]
    labels: np.ndarray


def scenes(split: str, count: int, side: int = 96, seed: int = 0) -> Iterator[tuple[np.ndarray, list[Box]]]:
    """``count`` images uint8 (1, side, side) of the digits of a ``split``, and their boxes, labelled 1 (digit 0) to 10.

    One to five digits of various sizes and strengths lie on a noisy ground that is darker at one end; their boxes are
    as tight as the ink, and do not overlap.  The same seed gives the same scenes.
    """
    for scene in _scenes(split, count, side, seed):
        yield scene.image, scene.boxes


def labelled_scenes(split: str, count: int, side: int = 96, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same images as ``scenes``, and the labels of their pixels, uint8 (side, side), 0 where there is no digit."""
    for scene in _scenes(split, count, side, seed):
        yield scene.image, scene.labels


def _scenes(split: str, count: int, side: int, seed: int) -> Iterator[Scene]:
    rng = np.random.default_rng([seed, split == "test"])
    digits, values = read_digits(split)
    for _ in range(count):
        image = _ground(rng, side)
        boxes: list[Box] = []
        labels = np.zeros((side, side), np.uint8)
        for _ in range(rng.integers(1, _MOST + 1)):
            n = rng.integers(len(digits))
            ink = _scaled(digits[n], rng)
            place = _free_place(boxes, ink.shape, side, rng)
            if place is None:
                continue
            (top, left), (height, width), label = place, ink.shape, int(values[n]) + 1
            rows, columns = slice(top, top + height), slice(left, left + width)
            image[rows, columns] = np.maximum(image[rows, columns], ink * rng.uniform(0.6, 1))
            labels[rows, columns][ink > _INK] = label
            corners = np.array([left, top, left + width, top + height]) / side
            boxes.append(Box(label, *corners.tolist()))
        yield Scene(np.rint(image).clip(0, 255).astype(np.uint8)[None], boxes, labels)


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """A noisy ground (side, side), brighter towards one border."""
    direction = rng.uniform(-1, 1, 2)
    y, x = np.mgrid[0:side, 0:side] / side
    slope = direction[0] * y + direction[1] * x
    return 30 + 20 * slope + rng.normal(0, 8, (side, side))


def _scaled(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ink of a digit, cut out tightly, at a random size."""
    rows, columns = np.flatnonzero((digit > _INK).any(1)), np.flatnonzero((digit > _INK).any(0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height = int(rng.integers(_SMALLEST, _LARGEST + 1))
    width = max(round(height * ink.shape[1] / ink.shape[0] * rng.uniform(0.85, 1.15)), 4)
    return resize(np.ascontiguousarray(ink[None]), height, width)[0].astype(np.float64)


def _free_place(
    boxes: list[Box], shape: tuple[int, ...], side: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Where a box of this shape overlaps no other; None if none is found in twenty trials."""
    height, width = shape
    for _ in range(20):
        top, left = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
        if all(
            left >= box.xmax * side + _APART
            or left + width + _APART <= box.xmin * side
            or top >= box.ymax * side + _APART
            or top + height + _APART <= box.ymin * side
            for box in boxes
        ):
            return top, left
    return None
