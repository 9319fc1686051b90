"""Softmax and the loss of its probabilities."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import FLT_MIN, Array
from minicaffe.kernels.reference.labels import is_valid


def softmax(x: Array, y: Array) -> None:
    """Softmax over the middle axis: x -> y, both (outer, C, inner); the largest score is subtracted first."""
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)


def softmax_grad(y: Array, dy: Array, dx: Array) -> None:
    """``dx = y * (dy - sum(dy * y))`` over the middle axis of (outer, C, inner) arrays."""
    dx[...] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


def softmax_loss(prob: Array, label: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """Cross entropy of prob (outer, C, inner) against label (outer, inner): sum of -log(max(p, FLT_MIN)) / normalizer.

    Labels are truncated to integers; those equal to ``ignore_label``, or outside 0 .. C - 1, contribute nothing.
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < prob.shape[1])
    p = np.take_along_axis(prob, np.where(valid, index, 0)[:, None, :], axis=1)[:, 0]
    loss[...] = -np.log(np.maximum(p, FLT_MIN))[valid].sum(dtype=np.float64) / normalizer


def softmax_loss_grad(
    prob: Array, label: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """``dx = (prob - onehot(label)) * weight / normalizer``, 0 at ignored positions; weight and normalizer
    are scalars.
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label)
    onehot = np.arange(prob.shape[1])[None, :, None] == index[:, None, :]
    dx[...] = np.where(valid[:, None, :], (prob - onehot) * (weight / normalizer), 0)
