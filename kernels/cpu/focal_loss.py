"""The focal loss of softmax probabilities."""

from __future__ import annotations

import math

from minicaffe.kernels.cpu.labels import with_ignored
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import FLT_MIN, Array


@part_kernel()
def _focal_loss_part(part, parts, prob, label, alpha, gamma, ignoring, ignored, normalizer, loss):
    outer, classes, inner = prob.shape
    total = 0.0
    for o in range(outer):
        for i in range(inner):
            k = int(label[o * inner + i])
            if 0 <= k < classes and not (ignoring and label[o * inner + i] == ignored):
                p = prob[o, k, i]
                total -= alpha * (1 - p) ** gamma * math.log(max(p, prob.dtype.type(FLT_MIN)))
    loss[()] = loss.dtype.type(total) / normalizer[()]


@kernel()
def _focal_loss(prob, label, alpha, gamma, ignoring, ignored, normalizer, loss):
    parallel(_focal_loss_part, 1, (prob, label, alpha, gamma, ignoring, ignored, normalizer, loss))


@part_kernel()
def _focal_loss_grad_part(part, parts, prob, label, alpha, gamma, ignoring, ignored, weight, normalizer, dx):
    outer, classes, inner = prob.shape
    scale = weight[()] / normalizer[()]
    low, high = share(part, parts, outer)
    for o in range(low, high):
        for i in range(inner):
            own = int(label[o * inner + i])
            slope = 0.0
            if 0 <= own < classes and not (ignoring and label[o * inner + i] == ignored):
                p = prob[o, own, i]
                if p < 1:
                    log_p = math.log(max(p, prob.dtype.type(FLT_MIN)))
                    slope = alpha * (1 - p) ** (gamma - 1) * (gamma * p * log_p + p - 1) * scale
            for k in range(classes):
                dx[o, k, i] = slope * ((k == own) - prob[o, k, i])


@kernel()
def _focal_loss_grad(prob, label, alpha, gamma, ignoring, ignored, weight, normalizer, dx, parts):
    args = (prob, label, alpha, gamma, ignoring, ignored, weight, normalizer, dx)
    parallel(_focal_loss_grad_part, parts, args)


@capturable
def focal_loss(
    prob: Array, label: Array, alpha: float, gamma: float, ignore_label: int | None, normalizer: Array, loss: Array
) -> None:
    """See ``reference.focal_loss``."""
    _focal_loss(prob, label.reshape(-1), float(alpha), float(gamma), *with_ignored(ignore_label), normalizer, loss)


@capturable
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
    """See ``reference.focal_loss_grad``."""
    flags = with_ignored(ignore_label)
    args = (prob, label.reshape(-1), float(alpha), float(gamma), *flags, weight, normalizer, dx, parts(dx.size))
    _focal_loss_grad(*args)
