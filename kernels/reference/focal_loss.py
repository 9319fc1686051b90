"""The focal loss of softmax probabilities."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import FLT_MIN, Array
from minicaffe.kernels.reference.labels import is_valid


def _own(prob: Array, label: Array, ignore_label: int | None) -> tuple[Array, Array, Array]:
    """Each position's label as an index, whether it counts, and its probability (outer, inner)."""
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < prob.shape[1])
    p = np.take_along_axis(prob, np.where(valid, index, 0)[:, None, :], axis=1)[:, 0]
    return index, valid, p


def focal_loss(
    prob: Array, label: Array, alpha: float, gamma: float, ignore_label: int | None, normalizer: Array, loss: Array
) -> None:
    """Sum of ``-alpha (1 - p)^gamma log(max(p, FLT_MIN))`` over the scalar ``normalizer``: prob (outer, C, inner),
    label (outer, inner).  Labels that are ignored, or outside 0 .. C - 1, contribute nothing.
    """
    _, valid, p = _own(prob, label, ignore_label)
    terms = alpha * (1 - p) ** gamma * np.log(np.maximum(p, FLT_MIN))
    loss[...] = -terms[valid].sum(dtype=np.float64) / normalizer


def focal_loss_grad(
    prob: Array,
    label: Array,
    alpha: float,
    gamma: float,
    ignore_label: int | None,
    normalizer: Array,
    weight: Array,
    dx: Array,
) -> None:
    """Gradient of ``focal_loss`` with respect to the scores, 0 at positions that do not count and where p is 1.

    ``dx[k] = alpha (1 - p)^(gamma - 1) (gamma p log p + p - 1) (onehot(label)[k] - prob[k]) weight / normalizer``
    """
    index, valid, p = _own(prob, label, ignore_label)
    rest = np.where(p < 1, 1 - p, 1)
    slope = alpha * rest ** (gamma - 1) * (gamma * p * np.log(np.maximum(p, FLT_MIN)) + p - 1)
    slope = np.where(valid & (p < 1), slope, 0) * (weight / normalizer)
    onehot = np.arange(prob.shape[1])[None, :, None] == index[:, None, :]
    dx[...] = slope[:, None, :] * (onehot - prob)
