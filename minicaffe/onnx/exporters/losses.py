"""Caffe's losses, as their value."""

from __future__ import annotations

import numpy as np

from minicaffe.layers.classification import HingeLoss
from minicaffe.layers.ohem import SoftmaxWithLossOHEM
from minicaffe.layers.sigmoid_loss import BalancedSigmoidCrossEntropyLoss
from minicaffe.layers.softmax import WeightedSoftmaxWithLoss
from minicaffe.onnx.exporters.labelled import LEAST_NORMAL, Classes, divisor, logarithm
from minicaffe.onnx.exporters.linear import rows
from minicaffe.onnx.writer import Writer, exports


@exports("SoftmaxWithLoss", "SoftmaxWithLossOHEM", "SoftmaxWithWeightedLoss")
def softmax_loss(w: Writer) -> list[str]:
    layer = w.layer
    seen = Classes.about(w, layer.axis, layer.ignored)
    prob = w.op("Softmax", seen.scores, axis=1)
    weighted = isinstance(layer, WeightedSoftmaxWithLoss)
    terms = w.op("Neg", logarithm(w, seen.at_label(prob), 1e-20 if weighted else LEAST_NORMAL))
    losses = seen.counted(terms)
    if weighted:
        weights = w.floats(np.array(layer.class_weighting)[:, None], "weights")
        losses = w.mul(losses, w.sum(w.where(seen.right, weights, w.number(0)), [1], keep=True))
    if len(w.x) > 2:
        losses = w.mul(losses, w.reshape(w.x[2], [seen.sizes[0], 1, seen.sizes[2]], w.bottom[2]))
    loss = w.div(w.sum(losses), divisor(w, seen.label, seen.sizes[0], layer.ignored))
    tops = [loss, w.like_top(prob, seen.sizes, 1) if len(w.top) > 1 else prob]
    if len(w.top) > 2:
        tops.append(w.like_top(losses, None, 2))
        if isinstance(layer, SoftmaxWithLossOHEM):
            tops[1] = w.filled(w.x[0], 0)
    return tops[: len(w.top)]


@exports("InfogainLoss")
def infogain_loss(w: Writer) -> list[str]:
    layer = w.layer
    seen = Classes.about(w, layer.axis, layer.ignored)
    outer, classes, inner = seen.sizes
    prob = w.op("Softmax", seen.scores, axis=1)
    if len(w.x) > 2:
        gain = w.reshape(w.x[2], [classes, classes], w.bottom[2])
    else:
        gain = w.floats(layer.gain.data.reshape(layer.shape[1], -1), "gain")
    counted = seen.counted(seen.label)
    safe = w.as_int(w.op("Max", counted, w.number(0)))
    # (outer, 1, inner, classes) -> (outer, classes, inner)
    each = w.op("Transpose", w.op("Gather", gain, safe, axis=0), perm=[0, 3, 2, 1])
    each = w.op("Squeeze", each, w.ints([3]))
    terms = w.sum(w.mul(each, logarithm(w, prob, 1e-20)), [1], keep=True)
    loss = w.div(w.op("Neg", seen.total(terms)), divisor(w, seen.label, outer, layer.ignored))
    return [loss, w.like_top(prob, seen.sizes, 1)] if len(w.top) > 1 else [loss]


@exports("MultinomialLogisticLoss")
def multinomial_loss(w: Writer) -> str:
    seen = Classes.about(w, 1, flat=True)
    return w.op("Neg", w.reduced("ReduceMean", logarithm(w, seen.at_label(seen.scores), 1e-20)))


@exports("HingeLoss")
def hinge_loss(w: Writer) -> str:
    seen = Classes.about(w, 1, flat=True)
    toward = w.where(seen.right, w.op("Neg", seen.scores), seen.scores)
    margin = w.op("Relu", w.shifted(toward, 1))
    total = w.reduced("ReduceSumSquare", margin) if w.layer.norm == HingeLoss.L2 else w.sum(margin)
    return w.div(total, w.length(w.x[0], (0, w.bottom[0][0])))


@exports("SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy(w: Writer) -> str:
    layer = w.layer
    if isinstance(layer, BalancedSigmoidCrossEntropyLoss):
        return _balanced(w)
    target = w.reshape(w.x[1], w.bottom[0], w.bottom[1])
    terms = sigmoid_terms(w, w.x[0], target)
    if layer.ignored is not None:
        terms = w.where(w.op("Equal", target, w.number(layer.ignored)), w.number(0), terms)
    return w.div(w.sum(terms), divisor(w, target, w.bottom[0][0], layer.ignored))


def _balanced(w: Writer) -> str:
    """Edges weigh as much as the other pixels of each image are, and these as much as edges are."""
    x, target = rows(w, 0), rows(w, 1)
    edge, other = (w.op("Equal", target, w.number(value)) for value in (1, 0))
    edges, others = (w.sum(w.as_float(which), [1], keep=True) for which in (edge, other))
    total = w.op("Max", w.add(edges, others), w.number(1))
    tail = w.op("Softplus", w.op("Neg", w.op("Abs", x)))
    of_edge = w.mul(w.add(tail, w.op("Relu", w.op("Neg", x))), w.div(others, total))
    of_other = w.mul(w.add(tail, w.op("Relu", x)), w.scaled(w.div(edges, total), w.layer.class_balance))
    terms = w.where(edge, of_edge, w.where(other, of_other, w.number(0)))
    return w.div(w.sum(terms), w.length(w.x[0], (0, w.bottom[0][0])))


def sigmoid_terms(w: Writer, x: str, target: str) -> str:
    """Cross entropy of sigmoid(x) and the target, for each value: log(1 + exp(-|x|)) + max(x, 0) - x t."""
    tail = w.op("Softplus", w.op("Neg", w.op("Abs", x)))
    return w.add(tail, w.sub(w.op("Relu", x), w.mul(x, target)))


@exports("EuclideanLoss")
def euclidean_loss(w: Writer) -> str:
    other = w.reshape(w.x[1], w.bottom[0], w.bottom[1])
    total = w.reduced("ReduceSumSquare", w.sub(w.x[0], other))
    return w.div(w.scaled(total, 0.5), w.length(w.x[0], (0, w.bottom[0][0])))


@exports("ContrastiveLoss")
def contrastive_loss(w: Writer) -> str:
    layer = w.layer
    far = w.reduced("ReduceSumSquare", w.sub(rows(w, 0), rows(w, 1)), [1])
    similar = w.reshape(w.x[2], [w.bottom[2][0]], w.bottom[2])
    apart = w.sub(w.number(layer.margin), far if layer.legacy_version else w.op("Sqrt", far))
    apart = w.op("Relu", apart)
    pushed = apart if layer.legacy_version else w.mul(apart, apart)
    terms = w.where(w.op("Equal", similar, w.number(0)), pushed, far)
    return w.scaled(w.reduced("ReduceMean", terms), 0.5)
