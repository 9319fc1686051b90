"""Probabilities of classes along the last axis, for layers that compute on the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(scores: NDArray) -> NDArray:
    """Probabilities of scores (…, C)."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def own(prob: NDArray, labels: NDArray) -> NDArray:
    """Of probabilities (…, C) those of the labels (…)."""
    return np.take_along_axis(prob, labels[..., None], axis=-1)[..., 0]
