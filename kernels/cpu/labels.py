"""Checking and counting labels for losses, and accuracy."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel
from minicaffe.kernels.reference import BATCH_SIZE, NONE, VALID, Array


@part_kernel()
def _first_bad_part(part, parts, label, classes, ignoring, ignored, bad):
    for i in range(label.size):
        k = label[i]
        good = k == np.floor(k) and abs(k) < np.inf and (classes < 0 or 0 <= k < classes)
        if not (good or (ignoring and k == ignored)):
            bad[()] = i
            break


@kernel()
def _first_bad(label, classes, ignoring, ignored, bad):
    parallel(_first_bad_part, 1, (label, classes, ignoring, ignored, bad))


@part_kernel()
def _normalizer_part(part, parts, label, count, ignoring, ignored, normalizer):
    if ignoring:
        count = 0
        for i in range(label.size):
            count += label[i] != ignored
    normalizer[()] = max(count, 1)


@kernel()
def _normalizer(label, count, ignoring, ignored, normalizer):
    parallel(_normalizer_part, 1, (label, count, ignoring, ignored, normalizer))


@kernel()
def _accuracy(score, label, top_k, ignoring, ignored, per_class, seen):
    outer, classes, inner = score.shape
    per_class[:] = 0
    seen[:] = 0
    right, total = 0, 0
    for o in range(outer):
        for i in range(inner):
            own = int(label[o * inner + i])
            if not 0 <= own < classes or (ignoring and label[o * inner + i] == ignored):
                continue
            rank = 0
            for k in range(classes):
                rank += not score[o, k, i] < score[o, own, i]
            total += 1
            seen[own] += 1
            if rank <= top_k and score[o, own, i] == score[o, own, i]:
                right += 1
                per_class[own] += 1
    for k in range(classes):
        per_class[k] /= max(seen[k], 1)
    return right / max(total, 1)


def with_ignored(label: int | None) -> tuple[bool, int]:
    """An optional label as two arguments, so that kernels are compiled for one type only."""
    return (False, 0) if label is None else (True, label)


@capturable
def check_labels(label: Array, classes: int | None, ignore_label: int | None, bad: Array) -> None:
    """See ``reference.check_labels``."""
    _first_bad(label.reshape(-1), -1 if classes is None else classes, *with_ignored(ignore_label), bad)


@capturable
def loss_normalizer(label: Array, outer: int, ignore_label: int | None, normalization: int, normalizer: Array) -> None:
    """See ``reference.loss_normalizer``."""
    count = {NONE: 1, BATCH_SIZE: outer}.get(normalization, label.size)
    some = ignore_label if normalization == VALID else None
    _normalizer(label.reshape(-1), count, *with_ignored(some), normalizer)


def accuracy(
    score: Array, label: Array, top_k: int, ignore_label: int | None, correct: Array, per_class: Array, seen: Array
) -> None:
    """See ``reference.accuracy``."""
    correct[...] = _accuracy(score, label.reshape(-1), top_k, *with_ignored(ignore_label), per_class, seen)
