"""Losses, except the softmax loss: of classes (sigmoid, multinomial, hinge, infogain) and of differences."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array
from minicaffe.kernels.reference.labels import is_valid

LOG_FLOOR = 1e-20
"""The least probability of the losses that take probabilities."""


def sigmoid_loss(x: Array, target: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """Cross entropy of sigmoid(x) and targets of the same size, summed, over the scalar ``normalizer``."""
    positive = x >= 0
    with np.errstate(invalid="ignore"):
        terms = np.log(1 + np.exp(np.where(positive, -x, x))) - x * (target - positive)
    loss[...] = terms[is_valid(target, ignore_label)].sum(dtype=np.float64) / normalizer


def sigmoid_loss_grad(
    x: Array, target: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """``dx = (sigmoid(x) - target) * weight / normalizer``, 0 where the target is ignored."""
    gradient = (0.5 * np.tanh(0.5 * x) + 0.5 - target) * (weight / normalizer)
    dx[...] = np.where(is_valid(target, ignore_label), gradient, 0)


def _own(prob: Array, label: Array) -> tuple[Array, Array]:
    """Each row's label as an index, and whether it is one of the classes: prob (N, C), label (N,)."""
    index = label.astype(np.int64)
    inside = (index >= 0) & (index < prob.shape[1])
    return np.where(inside, index, 0), inside


def multinomial_loss(prob: Array, label: Array, loss: Array) -> None:
    """Mean of ``-log(max(p, 1e-20))`` of each label's probability: prob (N, C), label (N,) -> scalar."""
    index, inside = _own(prob, label)
    p = np.maximum(prob[np.arange(len(prob)), index], LOG_FLOOR)[inside]
    loss[...] = -np.log(p).sum(dtype=np.float64) / len(prob)


def multinomial_loss_grad(prob: Array, label: Array, weight: Array, dx: Array) -> None:
    """``-weight / (N max(p, 1e-20))`` at each label's place of dx (N, C), 0 elsewhere."""
    index, inside = _own(prob, label)
    rows = np.flatnonzero(inside)
    dx[...] = 0
    dx[rows, index[rows]] = -weight / (len(prob) * np.maximum(prob[rows, index[rows]], LOG_FLOOR))


def hinge_loss(x: Array, label: Array, squared: bool, margin: Array, loss: Array) -> None:
    """One-versus-all hinge loss: x (N, C), label (N,) -> scalar, the mean over N of the sum of margins (or squares).

    ``margin`` (N, C) keeps ``max(0, 1 - s x)`` for the gradient, s being 1 for the label's class and -1 for others.
    """
    own = label.astype(np.int64)[:, None] == np.arange(x.shape[1])
    np.maximum(0, 1 + np.where(own, -x, x), out=margin)
    wide = margin.astype(np.float64)
    loss[...] = (wide * wide if squared else wide).sum() / len(x)


def hinge_loss_grad(margin: Array, label: Array, squared: bool, weight: Array, dx: Array) -> None:
    """Gradient of ``hinge_loss``, dx (N, C); at a margin of exactly 0 it is 0."""
    own = label.astype(np.int64)[:, None] == np.arange(margin.shape[1])
    gradient = 2 * margin if squared else np.sign(margin)
    dx[...] = np.where(own, -gradient, gradient) * (weight / len(margin))


def infogain_loss(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, loss: Array
) -> None:
    """Sum of ``-gain[label, k] log(max(p[k], 1e-20))`` over the scalar ``normalizer``.

    prob (outer, C, inner), label (outer, inner), gain (C, C).
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < len(gain))
    rows = gain[np.where(valid, index, 0)].transpose(0, 2, 1)
    terms = rows * np.log(np.maximum(prob, LOG_FLOOR))
    loss[...] = -np.where(valid[:, None], terms, 0).sum(dtype=np.float64) / normalizer


def infogain_loss_grad(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """Gradient with respect to the scores under a softmax.

    ``dx[k] = (p[k] sum_j gain[label, j] - gain[label, k]) weight / normalizer``
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < len(gain))
    rows = gain[np.where(valid, index, 0)].transpose(0, 2, 1)
    gradient = (prob * rows.sum(axis=1, keepdims=True) - rows) * (weight / normalizer)
    dx[...] = np.where(valid[:, None], gradient, 0)


def euclidean_loss(a: Array, b: Array, difference: Array, loss: Array) -> None:
    """``loss = sum((a - b)^2) / 2N`` for a, b of N rows; the difference is kept for the gradient."""
    np.subtract(a, b, out=difference)
    flat = difference.reshape(-1).astype(np.float64)
    loss[...] = flat @ flat / (2 * len(a))


def euclidean_loss_grad(difference: Array, weight: Array, sign: float, dx: Array) -> None:
    """``dx = sign * weight * difference / N``; weight is a scalar array."""
    np.multiply(difference, sign * weight / len(difference), out=dx.reshape(difference.shape))


def contrastive_loss(
    a: Array, b: Array, similar: Array, margin: float, legacy: bool, difference: Array, distance: Array, loss: Array
) -> None:
    """Hadsell, Chopra and LeCun (2006): a, b (N, C), similar (N,) -> scalar loss; also writes difference = a - b
    (N, C) and distance = |a - b|^2 (N,).
    """
    np.subtract(a, b, out=difference)
    np.sum(difference * difference, axis=1, out=distance)
    apart = margin - distance if legacy else np.maximum(margin - np.sqrt(distance), 0) ** 2
    terms = np.where(similar.astype(np.int64) != 0, distance, np.maximum(apart, 0))
    loss[...] = terms.sum(dtype=np.float64) / (2 * len(a))


def contrastive_loss_grad(
    difference: Array,
    distance: Array,
    similar: Array,
    margin: float,
    legacy: bool,
    weight: Array,
    sign: float,
    dx: Array,
) -> None:
    """Gradient of the contrastive loss for one side: dx (N, C); ``sign`` +1 for a, -1 for b; ``weight`` is a scalar
    array.

    1e-4 is added to the distance in the denominator (Caffe).
    """
    d = np.sqrt(distance)
    if legacy:
        factor = np.where(margin - distance <= 0, 0.0, -1.0)
    else:
        factor = np.where(margin - d <= 0, 0, -(margin - d) / (d + 1e-4))
    factor = np.where(similar.astype(np.int64) != 0, 1.0, factor)
    dx[...] = (sign * weight / len(dx)) * factor[:, None] * difference
