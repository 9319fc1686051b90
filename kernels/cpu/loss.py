"""Losses, except the softmax loss: of classes (sigmoid, multinomial, hinge, infogain) and of differences."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.dot import inner_product
from minicaffe.kernels.cpu.labels import with_ignored
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, as_written, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.mathlib import exp, log, tanh
from minicaffe.kernels.reference import LOG_FLOOR, Array

# --- of classes --------------------------------------------------------------------------------------------------


@as_written
def _sigmoid_term(x, target, one, zero):
    return log(one + exp(-abs(x))) - x * (target - (one if x >= zero else zero))


@part_kernel(fastmath=REASSOCIATE)
def _sigmoid_loss_part(part, parts, x, target, ignoring, ignored, partial):
    one, zero, skipped = x.dtype.type(1), x.dtype.type(0), x.dtype.type(ignored)
    low, high = share(part, parts, x.size)
    total = 0.0
    for i in range(np.uintp(low), np.uintp(high)):
        term = _sigmoid_term(x[i], target[i], one, zero)
        total += zero if ignoring and target[i] == skipped else term
    partial[part] = total


@kernel()
def _sigmoid_loss(x, target, ignoring, ignored, parts):
    partial = np.zeros(parts)
    parallel(_sigmoid_loss_part, parts, (x, target, ignoring, ignored, partial))
    return partial.sum()


@part_kernel()
def _sigmoid_loss_grad_part(part, parts, x, target, ignoring, ignored, scale, dx):
    half, zero, skipped = x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(ignored)
    low, high = share(part, parts, x.size)
    for i in range(np.uintp(low), np.uintp(high)):
        gradient = (half * tanh(half * x[i]) + half - target[i]) * scale
        dx[i] = zero if ignoring and target[i] == skipped else gradient


@kernel()
def _sigmoid_loss_grad(x, target, ignoring, ignored, scale, dx, parts):
    parallel(_sigmoid_loss_grad_part, parts, (x, target, ignoring, ignored, scale, dx))


@kernel()
def _multinomial_loss(prob, label):
    total = 0.0
    for n in range(len(prob)):
        k = int(label[n])
        if 0 <= k < prob.shape[1]:
            total -= math.log(max(prob[n, k], LOG_FLOOR))
    return total


@kernel()
def _multinomial_loss_grad(prob, label, scale, dx):
    dx[:] = 0
    for n in range(len(prob)):
        k = int(label[n])
        if 0 <= k < prob.shape[1]:
            dx[n, k] = -scale / max(prob[n, k], LOG_FLOOR)


@kernel()
def _hinge_loss(x, label, squared, margin):
    total = 0.0
    for n in range(len(x)):
        own = int(label[n])
        for k in range(x.shape[1]):
            value = 1 - x[n, k] if k == own else 1 + x[n, k]
            if value < 0:
                value = x.dtype.type(0)
            margin[n, k] = value
            total += value * value if squared else value
    return total


@kernel()
def _hinge_loss_grad(margin, label, squared, scale, dx):
    for n in range(len(margin)):
        own = int(label[n])
        for k in range(margin.shape[1]):
            gradient = 2 * margin[n, k] if squared else np.sign(margin[n, k])
            dx[n, k] = -scale * gradient if k == own else scale * gradient


@kernel()
def _infogain_loss(prob, label, gain, ignoring, ignored):
    outer, classes, inner = prob.shape
    total = 0.0
    for o in range(outer):
        for i in range(inner):
            own = int(label[o * inner + i])
            if 0 <= own < classes and not (ignoring and label[o * inner + i] == ignored):
                for k in range(classes):
                    total -= gain[own, k] * math.log(max(prob[o, k, i], LOG_FLOOR))
    return total


@kernel()
def _infogain_loss_grad(prob, label, gain, ignoring, ignored, scale, dx):
    outer, classes, inner = prob.shape
    dx[:] = 0
    for o in range(outer):
        for i in range(inner):
            own = int(label[o * inner + i])
            if 0 <= own < classes and not (ignoring and label[o * inner + i] == ignored):
                total = gain[own].sum()
                for k in range(classes):
                    dx[o, k, i] = (prob[o, k, i] * total - gain[own, k]) * scale


def sigmoid_loss(x: Array, target: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """See ``reference.sigmoid_loss``."""
    total = _sigmoid_loss(x.reshape(-1), target.reshape(-1), *with_ignored(ignore_label), parts(x.size))
    loss[...] = total / normalizer


def sigmoid_loss_grad(
    x: Array, target: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """See ``reference.sigmoid_loss_grad``."""
    scale = dx.dtype.type(weight / normalizer)
    _sigmoid_loss_grad(
        x.reshape(-1), target.reshape(-1), *with_ignored(ignore_label), scale, dx.reshape(-1), parts(x.size)
    )


def multinomial_loss(prob: Array, label: Array, loss: Array) -> None:
    """See ``reference.multinomial_loss``."""
    loss[...] = _multinomial_loss(prob, label) / len(prob)


def multinomial_loss_grad(prob: Array, label: Array, weight: Array, dx: Array) -> None:
    """See ``reference.multinomial_loss_grad``."""
    _multinomial_loss_grad(prob, label, float(weight / len(prob)), dx)


def hinge_loss(x: Array, label: Array, squared: bool, margin: Array, loss: Array) -> None:
    """See ``reference.hinge_loss``."""
    loss[...] = _hinge_loss(x, label, bool(squared), margin) / len(x)


def hinge_loss_grad(margin: Array, label: Array, squared: bool, weight: Array, dx: Array) -> None:
    """See ``reference.hinge_loss_grad``."""
    _hinge_loss_grad(margin, label, bool(squared), dx.dtype.type(weight / len(margin)), dx)


def infogain_loss(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, loss: Array
) -> None:
    """See ``reference.infogain_loss``."""
    total = _infogain_loss(prob, label.reshape(-1), gain, *with_ignored(ignore_label))
    loss[...] = total / normalizer


def infogain_loss_grad(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """See ``reference.infogain_loss_grad``."""
    scale = dx.dtype.type(weight / normalizer)
    _infogain_loss_grad(prob, label.reshape(-1), gain, *with_ignored(ignore_label), scale, dx)


# --- of differences ----------------------------------------------------------------------------------------------


@kernel(fastmath=REASSOCIATE, internal=True)
def _square(rows, i):
    """The squared length of a row."""
    total = rows.dtype.type(0)
    for k in range(rows.shape[1]):
        total += rows[i, k] * rows[i, k]
    return total


@part_kernel()
def _contrastive_part(part, parts, a, b, similar, margin, legacy, difference, distance, loss):
    n, c = a.shape
    total = 0.0
    for i in range(n):
        for k in range(c):
            difference[i, k] = a[i, k] - b[i, k]
        square = _square(difference, i)
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


def euclidean_loss(a: Array, b: Array, difference: Array, loss: Array) -> None:
    """See ``reference.euclidean_loss``."""
    np.subtract(a, b, out=difference)
    loss[...] = inner_product(difference, difference) / (2 * len(a))


@capturable
def contrastive_loss(
    a: Array, b: Array, similar: Array, margin: float, legacy: bool, difference: Array, distance: Array, loss: Array
) -> None:
    """See ``reference.contrastive_loss``."""
    _contrastive(a, b, similar, a.dtype.type(margin), bool(legacy), difference, distance, loss)


@capturable
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
