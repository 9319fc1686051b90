"""Losses over classes other than the softmax loss."""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.jit import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.launch import parallel, share
from minicaffe.kernels.cpu.loss import with_ignored
from minicaffe.kernels.cpu.maths import exp, log, tanh
from minicaffe.kernels.cpu.threads import parts
from minicaffe.kernels.reference import LOG_FLOOR, Array


@part_kernel(fastmath=REASSOCIATE)
def _sigmoid_loss_part(part, parts, x, target, ignoring, ignored, partial):
    one, zero, skipped = x.dtype.type(1), x.dtype.type(0), x.dtype.type(ignored)
    low, high = share(part, parts, x.size)
    total = 0.0
    for i in range(np.uintp(low), np.uintp(high)):
        term = log(one + exp(-abs(x[i]))) - x[i] * (target[i] - (one if x[i] >= zero else zero))
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
        slope = (half * tanh(half * x[i]) + half - target[i]) * scale
        dx[i] = zero if ignoring and target[i] == skipped else slope


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
            slope = 2 * margin[n, k] if squared else np.sign(margin[n, k])
            dx[n, k] = -scale * slope if k == own else scale * slope


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
