"""1,797 real handwritten digits (UCI, 8 x 8) in the form of MNIST: what an example needs without a download.

``digits.npz`` holds them; ``digits.md`` says where they are from, and on what terms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minicaffe.data.image import resize

_SIDE, _BOX = 28, 20  # as in MNIST, a digit fills a box in the middle of its image
_HELD_OUT = 5  # every fifth digit of a class is for testing


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels uint8 (N,) of a ``split``, "train" or "test".

    Every fifth digit of each class is held out for "test".
    """
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        labels = stored["labels"]
        small = np.rint(stored["images"] * (255 / 16)).astype(np.uint8)
    images = np.zeros((len(small), _SIDE, _SIDE), np.uint8)
    edge = (_SIDE - _BOX) // 2
    images[:, edge : edge + _BOX, edge : edge + _BOX] = resize(small, _BOX, _BOX)
    chosen = _held_out(labels) == (split == "test")
    return images[chosen], labels[chosen]


def _held_out(labels: np.ndarray) -> np.ndarray:
    held_out = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return held_out
