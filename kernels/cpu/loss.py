"""Losses, accuracy, and what they need of labels."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.jit import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.launch import parallel, share
from minicaffe.kernels.cpu.threads import parts
from minicaffe.kernels.cpu.update import inner_product
from minicaffe.kernels.reference import BATCH_SIZE, FLT_MIN, NONE, VALID, Array


@part_kernel()
def _first_bad_part(part, parts, label, classes, ignoring, ignored, bad):
    bad[()] = -1
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


@part_kernel()
def _softmax_loss_part(part, parts, prob, label, ignoring, ignored, normalizer, loss):
    outer, classes, inner = prob.shape
    total = 0.0
    for o in range(outer):
        for i in range(inner):
            k = int(label[o * inner + i])
            if 0 <= k < classes and not (ignoring and label[o * inner + i] == ignored):
                total -= math.log(max(prob[o, k, i], prob.dtype.type(FLT_MIN)))
    loss[()] = loss.dtype.type(total) / normalizer[()]


@kernel()
def _softmax_loss(prob, label, ignoring, ignored, normalizer, loss):
    parallel(_softmax_loss_part, 1, (prob, label, ignoring, ignored, normalizer, loss))


@part_kernel()
def _softmax_loss_grad_part(part, parts, prob, label, ignoring, ignored, weight, normalizer, dx):
    outer, classes, inner = prob.shape
    scale = weight[()] / normalizer[()]
    low, high = share(part, parts, outer)
    for o in range(low, high):
        source, target = prob[o].reshape(-1), dx[o].reshape(-1)
        for k in range(target.size):
            target[k] = source[k] * scale
        for i in range(inner):
            own = int(label[o * inner + i])
            if ignoring and label[o * inner + i] == ignored:
                dx[o, :, i] = 0
            elif 0 <= own < classes:
                dx[o, own, i] = (prob[o, own, i] - 1) * scale


@kernel()
def _softmax_loss_grad(prob, label, ignoring, ignored, weight, normalizer, dx, parts):
    parallel(_softmax_loss_grad_part, parts, (prob, label, ignoring, ignored, weight, normalizer, dx))


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


@part_kernel(fastmath=REASSOCIATE)
def _contrastive_part(part, parts, a, b, similar, margin, legacy, difference, distance, loss):
    n, c = a.shape
    total = 0.0
    for i in range(n):
        square = a.dtype.type(0)
        for k in range(c):
            difference[i, k] = a[i, k] - b[i, k]
            square += difference[i, k] * difference[i, k]
        distance[i] = square
        if int(similar[i]) != 0:
            total += square
        else:
            apart = margin - (square if legacy else math.sqrt(square))
            if not apart <= 0:
                total += apart if legacy else apart * apart
    loss[()] = total / (2 * n)


@kernel()
def _contrastive(a, b, similar, margin, legacy, difference, distance, loss):
    parallel(_contrastive_part, 1, (a, b, similar, margin, legacy, difference, distance, loss))


@part_kernel()
def _contrastive_grad_part(part, parts, difference, distance, similar, margin, legacy, weight, sign, dx):
    n, c = difference.shape
    scale = np.float64(sign * weight[()] / dx.dtype.type(n))
    for i in range(n):
        d = math.sqrt(distance[i])
        factor = 0.0
        if int(similar[i]) != 0:
            factor = 1.0
        elif legacy:
            factor = 0.0 if margin - distance[i] <= 0 else -1.0
        elif not margin - d <= 0:
            factor = -(margin - d) / (d + 1e-4)
        alpha = dx.dtype.type(scale * factor)
        for k in range(c):
            dx[i, k] = alpha * difference[i, k]


@kernel()
def _contrastive_grad(difference, distance, similar, margin, legacy, weight, sign, dx):
    parallel(_contrastive_grad_part, 1, (difference, distance, similar, margin, legacy, weight, sign, dx))


def with_ignored(label: int | None) -> tuple[bool, int]:
    """The optional label as two numbers, so that each kernel is compiled for one type only."""
    return (False, 0) if label is None else (True, label)


def check_labels(label: Array, classes: int | None, ignore_label: int | None, bad: Array) -> None:
    """See ``reference.check_labels``."""
    _first_bad(label.reshape(-1), -1 if classes is None else classes, *with_ignored(ignore_label), bad)


def loss_normalizer(label: Array, outer: int, ignore_label: int | None, normalization: int, normalizer: Array) -> None:
    """See ``reference.loss_normalizer``."""
    count = {NONE: 1, BATCH_SIZE: outer}.get(normalization, label.size)
    some = ignore_label if normalization == VALID else None
    _normalizer(label.reshape(-1), count, *with_ignored(some), normalizer)


def softmax_loss(prob: Array, label: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """See ``reference.softmax_loss``."""
    _softmax_loss(prob, label.reshape(-1), *with_ignored(ignore_label), normalizer, loss)


def softmax_loss_grad(
    prob: Array, label: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """See ``reference.softmax_loss_grad``."""
    _softmax_loss_grad(prob, label.reshape(-1), *with_ignored(ignore_label), weight, normalizer, dx, parts(dx.size))


def accuracy(
    score: Array, label: Array, top_k: int, ignore_label: int | None, correct: Array, per_class: Array, seen: Array
) -> None:
    """See ``reference.accuracy``."""
    correct[...] = _accuracy(score, label.reshape(-1), top_k, *with_ignored(ignore_label), per_class, seen)


def euclidean_loss(a: Array, b: Array, difference: Array, loss: Array) -> None:
    """See ``reference.euclidean_loss``."""
    np.subtract(a, b, out=difference)
    loss[...] = inner_product(difference, difference) / (2 * len(a))


def contrastive_loss(
    a: Array, b: Array, similar: Array, margin: float, legacy: bool, difference: Array, distance: Array, loss: Array
) -> None:
    """See ``reference.contrastive_loss``."""
    _contrastive(a, b, similar, a.dtype.type(margin), bool(legacy), difference, distance, loss)


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
    """See ``reference.contrastive_loss_grad``."""
    real = dx.dtype.type
    _contrastive_grad(difference, distance, similar, real(margin), bool(legacy), weight, real(sign), dx)
