"""How a net writes a box down: as what it differs by from a prior box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3
"""Values of PriorBoxParameter.CodeType."""


def _sides(boxes: NDArray) -> NDArray:
    return boxes[..., 2:] - boxes[..., :2]


def _centers(boxes: NDArray) -> NDArray:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def encode(priors: NDArray, boxes: NDArray, code_type: int) -> NDArray:
    """What each box (…, 4) differs by from its prior (…, 4), before any division by variances.

    CORNER: differences of the corners.  CORNER_SIZE: those over the prior's sides.  CENTER_SIZE: difference of the
    centres over the prior's sides, then the logarithms of the ratios of the sides.
    """
    if code_type == CORNER:
        return boxes - priors
    sides = _sides(priors)
    if code_type == CORNER_SIZE:
        return (boxes - priors) / np.concatenate([sides, sides], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (_centers(boxes) - _centers(priors)) / sides
        return np.concatenate([shift, np.log(_sides(boxes) / sides)], axis=-1)


def decode(priors: NDArray, codes: NDArray, code_type: int) -> NDArray:
    """The boxes (…, 4) whose ``encode`` is ``codes``, which are multiplied by variances already."""
    if code_type == CORNER:
        return priors + codes
    sides = _sides(priors)
    if code_type == CORNER_SIZE:
        return priors + codes * np.concatenate([sides, sides], axis=-1)
    with np.errstate(over="ignore"):
        half = np.exp(codes[..., 2:]) * sides / 2
    center = codes[..., :2] * sides + _centers(priors)
    return np.concatenate([center - half, center + half], axis=-1)
