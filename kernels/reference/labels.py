"""Checking and counting labels for losses, and accuracy."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array

FULL, VALID, BATCH_SIZE, NONE = range(4)
"""Values of LossParameter.NormalizationMode."""


def is_valid(label: Array, ignore_label: int | None) -> Array:
    """Whether each label differs from the one to ignore."""
    return np.ones(label.shape, bool) if ignore_label is None else label != ignore_label


def check_labels(label: Array, classes: int | None, ignore_label: int | None, bad: Array) -> None:
    """Writes into int32 ``bad`` () the index of the first label that is neither an integer in 0 .. classes - 1 nor
    ignored; without ``classes``, that is no integer.  Where all are good, it stays the -1 that it holds.
    """
    with np.errstate(invalid="ignore"):
        good = np.isfinite(label) & (label == np.floor(label))
    if classes is not None:
        good &= (label >= 0) & (label < classes)
    index = np.flatnonzero(~good & is_valid(label, ignore_label))
    if index.size:
        bad[...] = index[0]


def loss_normalizer(label: Array, outer: int, ignore_label: int | None, normalization: int, normalizer: Array) -> None:
    """What a loss is divided by (LossParameter.normalization), at least 1, into the scalar ``normalizer``."""
    count = {FULL: label.size, VALID: int(is_valid(label, ignore_label).sum()), BATCH_SIZE: outer, NONE: 1}[
        normalization
    ]
    normalizer[...] = max(count, 1)


def accuracy(
    score: Array, label: Array, top_k: int, ignore_label: int | None, correct: Array, per_class: Array, seen: Array
) -> None:
    """Share of labels among the ``top_k`` scores: score (outer, C, inner), label (outer, inner) -> scalar ``correct``.

    A score that is NaN counts as the highest of others, and is never right itself.

    ``per_class`` (C,) gets the share of each class; ``seen`` (C,) is scratch.  Ties count against
    the label (Caffe): it is right if at most ``top_k`` classes, itself included, score as high.
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < score.shape[1])
    safe = np.where(valid, index, 0)
    own = np.take_along_axis(score, safe[:, None, :], axis=1)
    hit = ((~(score < own)).sum(axis=1) <= top_k) & ~np.isnan(own[:, 0]) & valid
    seen[...] = np.bincount(safe[valid], minlength=score.shape[1])
    per_class[...] = np.bincount(safe[hit], minlength=score.shape[1]) / np.maximum(seen, 1)
    correct[...] = hit.sum() / max(int(valid.sum()), 1)
