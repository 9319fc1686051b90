"""Losses of Caffe's forks, as their value."""

from __future__ import annotations

import numpy as np

from minicaffe import proto
from minicaffe.layers.base import TEST
from minicaffe.onnx.exporters.labelled import LEAST_NORMAL, Classes, divisor, logarithm
from minicaffe.onnx.exporters.linear import rows
from minicaffe.onnx.exporters.losses import sigmoid_terms
from minicaffe.onnx.sizes import Size
from minicaffe.onnx.writer import Writer, exports


def _mean_over_items(w: Writer, total: str) -> str:
    """A sum over the number of items of bottom 0."""
    return w.div(total, w.length(w.x[0], (0, w.bottom[0][0])))


@exports("FocalLoss")
def focal_loss(w: Writer) -> list[str]:
    layer = w.layer
    seen = Classes.about(w, layer.axis, layer.ignored)
    prob = w.op("Softmax", seen.scores, axis=1)
    p = seen.at_label(prob)
    if layer.by_type:
        alpha, gamma, sign = layer.formula
        factor, least = w.op("Pow", w.shifted(w.scaled(p, sign), alpha), w.number(gamma)), 1.2e-38
    else:
        alpha, gamma, _ = layer.how
        factor, least = w.scaled(w.op("Pow", w.sub(w.number(1), p), w.number(gamma)), alpha), LEAST_NORMAL
    total = seen.total(w.mul(factor, logarithm(w, p, least)))
    loss = w.div(w.op("Neg", total), divisor(w, seen.label, seen.sizes[0], layer.ignored))
    return [loss, w.like_top(prob, seen.sizes, 1)] if len(w.top) > 1 else [loss]


def huber(w: Writer, gap: str, square: float = 1.0) -> str:
    """SmoothL1Loss's f: square d^2 / 2 where |d| < 1 / square, else |d| - 1 / (2 square)."""
    size = w.op("Abs", gap)
    near = w.op("Less", size, w.number(1 / square))
    return w.where(near, w.scaled(w.mul(gap, gap), 0.5 * square), w.shifted(size, -0.5 / square))


@exports("SmoothL1Loss")
def smooth_l1(w: Writer) -> list[str]:
    shape = w.bottom[0]
    others = [w.reshape(x, shape, of) for x, of in zip(w.x[1:], w.bottom[1:], strict=True)]
    gap = w.sub(w.x[0], others[0])
    if len(others) > 1:
        gap = w.mul(gap, others[1])
    terms = huber(w, gap, w.layer.sigma**2)
    if len(others) > 2:
        terms = w.mul(terms, others[2])
    return [_mean_over_items(w, w.sum(terms)), *_each_region(w, terms)]


def _each_region(w: Writer, terms: str) -> list[str]:
    """The second top, if there is one: the sum over channels."""
    if len(w.top) == 1:
        return []
    shape = w.bottom[0]
    return [w.like_top(w.sum(terms, [1], keep=True), [shape[0], 1, *shape[2:]], 1)]


@exports("InfimumLoss")
def infimum_loss(w: Writer) -> str:
    return w.reduced("ReduceMean", w.op("Relu", w.sub(w.number(w.layer.infimum), w.x[0])))


@exports("SmoothL1LossOHEM")
def smooth_l1_ohem(w: Writer) -> list[str]:
    gap = w.sub(w.x[0], w.x[1])
    if len(w.x) > 2:
        gap = w.mul(gap, w.x[2])
    terms = huber(w, gap)
    total = w.sum(terms, [1], keep=True)
    return [w.div(w.sum(total), _positions(w, total)), *_each_region(w, terms)]


def _positions(w: Writer, each: str) -> str:
    """What SmoothL1LossOHEM divides by."""
    layer = w.layer
    how = layer.given("normalization", None)
    if how is None:
        full = not layer.has("normalize") or layer.normalize
        how = proto.LossParameter.VALID if full else proto.LossParameter.BATCH_SIZE
    if how == proto.LossParameter.PRE_FIXED:
        return w.number(max(layer.pre_fixed_normalizer, 1.0))
    if how in (proto.LossParameter.FULL, proto.LossParameter.VALID):
        return w.op("Max", w.as_float(w.op("Size", each)), w.number(1))
    return w.length(each, (0, w.bottom[0][0])) if how == proto.LossParameter.BATCH_SIZE else w.number(1)


@exports("L1Loss")
def l1_loss(w: Writer) -> str:
    layer, shape = w.layer, w.bottom[0]
    planes = [shape[0], shape.span(1, 2), shape.span(2)]
    gap = w.reshape(w.x[0], planes, shape)
    if len(w.x) > 1:
        gap = w.sub(gap, w.reshape(w.x[1], planes, w.bottom[1]))
    divisor_ = w.length(w.x[0], (0, shape[0]))
    if layer.masked:
        unknown = w.op("IsNaN", gap)
        gap = w.where(unknown, w.number(0), gap)
        if layer.normalize_by_num_entries:
            known = w.sum(w.as_float(w.op("Not", unknown)))
            divisor_ = w.op("Max", w.div(known, w.length(gap, (1, planes[1]))), w.number(1e-30))
        if layer.plateau > 0 and not layer.l2_per_location:
            gap = w.where(w.op("Less", w.op("Abs", gap), w.number(layer.plateau)), w.number(0), gap)
    return w.div(_lengths(w, gap, planes[1]) if layer.l2_per_location else w.reduced("ReduceL1", gap), divisor_)


def _lengths(w: Writer, gap: str, channels: Size | int) -> str:
    """The sum of lengths over channels."""
    layer = w.layer
    sums = w.reduced("ReduceSumSquare", gap, [1])
    if layer.l2_prescale_by_channels:
        sums = w.div(sums, w.length(gap, (1, channels)))
    if layer.plateau > 0:
        sums = w.where(w.op("Less", sums, w.number(layer.plateau**2)), w.number(0), sums)
    return w.sum(w.op("Sqrt", w.shifted(sums, layer.epsilon)))


@exports("CorrelationLoss")
def correlation_loss(w: Writer) -> str:
    return w.reduced("ReduceMean", w.mul(w.x[0], w.x[1]))


@exports("MultiLabelSigmoidLoss")
def multi_label_sigmoid(w: Writer) -> str:
    target = w.reshape(w.x[1], w.bottom[0], w.bottom[1])
    unknown = w.op("Equal", target, w.number(-1))
    terms = w.where(unknown, w.number(0), sigmoid_terms(w, w.x[0], target))
    answers = w.sum(w.as_float(w.op("Not", unknown)))
    return w.div(w.sum(terms), w.op("Max", answers, w.number(1)))


@exports("ConfidencePenaltyLoss")
def confidence_penalty(w: Writer) -> str:
    beta = w.layer.beta
    seen = Classes.about(w, 1, flat=True)
    items = w.length(w.x[0], (0, w.bottom[0][0]))
    other = w.div(w.number(beta), w.shifted(items, -1))
    share = w.where(seen.right, w.number(1 - beta), other)
    total = w.sum(w.mul(share, logarithm(w, seen.scores, 1e-20)))
    return w.div(w.op("Neg", total), items)


@exports("CenterLoss")
def center_loss(w: Writer) -> str:
    layer = w.layer
    x = rows(w, axis=layer.axis)
    labels = w.reshape(w.x[1], [w.bottom[0].span(0, w.axis(layer.axis))], w.bottom[1])
    gap = w.sub(x, w.op("Gather", w.param(0), w.as_int(labels)))
    count = w.length(x, (0, w.bottom[0].span(0, w.axis(layer.axis))))
    total = (
        w.reduced("ReduceL1", gap) if layer.distance_type == "L1" else w.scaled(w.reduced("ReduceSumSquare", gap), 0.5)
    )
    return w.div(total, count)


@exports("TripletLoss")
def triplet_loss(w: Writer) -> str:
    a, p, q = (rows(w, k) for k in range(3))
    near, far = (w.reduced("ReduceSumSquare", w.sub(a, other), [1]) for other in (p, q))
    excess = w.op("Relu", w.shifted(w.sub(near, far), w.layer.margin))
    return w.scaled(w.reduced("ReduceMean", excess), 0.5)


@exports("DiceCoefLoss")
def dice_loss(w: Writer) -> str:
    layer, shape = w.layer, w.bottom[0]
    planes = [shape[0], shape[1], shape.span(2)]
    channels = np.arange(shape[1].number, dtype=np.float32)[:, None]
    x = w.reshape(w.x[0], planes, shape)
    if layer.given_truth:
        truth = w.reshape(w.x[1], planes, w.bottom[1])
    else:
        label = w.reshape(w.x[1], [shape[0], 1, planes[2]], w.bottom[1])
        truth = w.as_float(w.op("Equal", label, w.floats(channels, "channels")))
    if layer.has("ignore_label"):
        keep = w.floats(channels != layer.ignore_label, "keep")
        x, truth = w.mul(x, keep), w.mul(truth, keep)
    shared = w.shifted(w.scaled(w.sum(w.mul(x, truth), [1, 2]), 2), layer.SMOOTH)
    squares = (w.reduced("ReduceSumSquare", values, [1, 2]) for values in (x, truth))
    overlap = w.div(shared, w.shifted(w.add(*squares), layer.SMOOTH))
    return w.sub(w.number(1), w.reduced("ReduceMean", overlap))


@exports("LabelSpecificAdd")
def label_specific_add(w: Writer) -> str:
    layer = w.layer
    if layer.phase == TEST:
        return w.x[0]
    if layer.has("bias_base"):
        raise w.refuse("with bias_base what it adds depends on how often it ran; export the TEST phase")
    seen = Classes.about(w, 1, flat=True)
    raised = w.shifted(seen.scores, layer.bias)
    far = w.op("Greater", seen.scores, w.number(-layer.bias))
    return w.like_top(w.where(w.op("And", seen.right, far), raised, seen.scores), seen.sizes)


@exports("MarginInnerProduct")
def margin_inner_product(w: Writer) -> str:
    if w.layer.margin > 1 or len(w.top) > 1:
        raise w.refuse("its scores depend on the labels and on how often it ran; type SINGLE, without lambda, does not")
    lengths = np.sqrt((w.params[0] ** 2).sum(axis=1, keepdims=True))
    y = w.op("Gemm", rows(w, axis=w.layer.axis), w.floats(w.params[0] / lengths, "directions"), transB=1)
    return y if len(w.top[0]) == 2 else w.like_top(y)
