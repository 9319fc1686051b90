"""Layers that tell how good a net is: Accuracy, SegAccuracy; and losses of distances to classes."""

from __future__ import annotations

import functools

import numpy as np

from minicaffe.onnx.exporters.labelled import Classes
from minicaffe.onnx.writer import Writer, exports


@exports("Accuracy")
def accuracy(w: Writer) -> list[str]:
    """Right is a label whose score at most ``top_k`` scores reach, itself included."""
    layer = w.layer
    seen = Classes.about(w, layer.axis, layer.ignored)
    scores = w.op("Neg", seen.scores) if layer.min_is_better else seen.scores
    reach = w.as_float(w.op("Not", w.op("Less", scores, seen.at_label(scores))))
    hit = w.op("LessOrEqual", w.sum(reach, [1], keep=True), w.number(layer.top_k))
    counts = seen.counts
    if counts is None:
        shares = [w.reduced("ReduceMean", w.as_float(hit))]
    else:
        hit = w.op("And", hit, counts)
        total = w.op("Max", w.sum(w.as_float(counts)), w.number(1))
        shares = [w.div(w.sum(w.as_float(hit)), total)]
    if len(w.top) > 1:
        mine = seen.right if counts is None else w.op("And", seen.right, counts)
        hits = w.sum(w.as_float(w.op("And", seen.right, hit)), [0, 2])
        shares.append(w.div(hits, w.op("Max", w.sum(w.as_float(mine), [0, 2]), w.number(1))))
    return shares


@exports("SegAccuracy")
def segmentation_accuracy(w: Writer) -> str:
    layer, classes = w.layer, w.bottom[0][1].number
    if not layer.reset:
        raise w.refuse("with reset: false its counts go on from run to run")
    names = w.floats(np.arange(classes)[:, None, None], "classes")
    found = w.op("ArgMax", w.x[0], axis=1, keepdims=1, select_last_index=1)
    said = w.as_float(w.op("Equal", w.as_float(found), names))
    true = w.as_float(w.op("Equal", w.x[1], names))
    for label in layer.ignore_label:
        counts = w.as_float(w.op("Not", w.op("Equal", w.x[1], w.number(label))))
        said, true = w.mul(said, counts), w.mul(true, counts)
    right, of_class, of_said = (w.sum(x, [0, 2, 3]) for x in (w.mul(said, true), true, said))
    one = w.number(1)
    share = w.div(w.sum(right), w.op("Max", w.sum(of_class), one))
    present = w.sum(w.as_float(w.op("Greater", of_class, w.number(0))))
    recall = w.div(w.sum(w.div(right, w.op("Max", of_class, one))), w.op("Max", present, one))
    union = w.sub(w.add(of_class, of_said), right)
    shared = w.where(w.op("Greater", union, w.number(0)), w.div(right, w.op("Max", union, one)), one)
    parts = [w.reshape(x, [1, 1, 1, 1]) for x in (share, recall, w.reduced("ReduceMean", shared))]
    return w.op("Concat", *parts, axis=3)


def _mean_per_row(w: Writer, total: str) -> str:
    return w.div(total, w.length(w.x[0], (0, w.bottom[0][0])))


def _averages(w: Writer, *sums: tuple[str, int]) -> list[str]:
    """The second top, if there is one: sums over the number of items, and over a number."""
    if len(w.top) == 1:
        return []
    parts = [w.unsqueeze(w.scaled(_mean_per_row(w, total), 1 / count), 0) for total, count in sums]
    return [w.op("Concat", *parts, axis=0)]


def _distances(w: Writer) -> tuple[str, str, str, int]:
    """Distances (N, classes, 1), whether each is that to the right class, and the number of others."""
    seen = Classes.about(w, 1, flat=True)
    right = seen.right
    return seen.scores, right, w.op("Not", right), w.layer.size[1] - 1


def _only(w: Writer, condition: str, values: str) -> str:
    return w.where(condition, values, w.number(0))


def _is_first(w: Writer, kind: str, values: str) -> str:
    """Whether a value of a row is the first largest (``ArgMax``) or smallest."""
    first = w.as_float(w.op(kind, values, axis=1, keepdims=1))
    return w.op("Equal", first, w.floats(np.arange(w.layer.size[1])[:, None], "classes"))


@exports("NCALoss")
def nca_loss(w: Writer) -> list[str]:
    d, right, wrong, others = _distances(w)
    counts = wrong
    if w.layer.min_negative_only:
        counts = w.op("And", wrong, _is_first(w, "ArgMin", w.where(right, w.number(np.inf), d)))
    own = w.sum(_only(w, right, d))
    falls = w.sum(_only(w, counts, w.op("Exp", w.op("Neg", d))))
    return [_mean_per_row(w, w.add(own, falls)), *_averages(w, (own, 1), (w.sum(_only(w, wrong, d)), others))]


@exports("GeneralTripletLoss")
def general_triplet_loss(w: Writer) -> list[str]:
    layer = w.layer
    d, right, wrong, others = _distances(w)
    own = w.sum(_only(w, right, d), [1], keep=True)
    excess = w.sub(w.shifted(own, layer.margin), d)
    terms = _only(w, wrong, w.scaled(w.op("Relu", excess), layer.negative_weight))
    conditions = []
    if layer.hardest_only:
        conditions.append(_is_first(w, "ArgMax", terms))
    if layer.positive_first:
        conditions.append(w.op("LessOrEqual", own, w.number(layer.positive_upper_bound)))
    kept = functools.reduce(lambda values, condition: _only(w, condition, values), conditions, terms)
    averages = _averages(w, (w.sum(own), 1), (w.sum(_only(w, wrong, d)), others))
    return [_mean_per_row(w, w.reduced("ReduceL1", kept)), *averages]


@exports("GeneralContrastiveLoss")
def general_contrastive_loss(w: Writer) -> list[str]:
    layer = w.layer
    if layer.add_intra_mae:
        raise w.refuse("with add_intra_mae its margin depends on how often it ran")
    seen = Classes.about(w, 1, scores=len(w.x) - 1 if len(w.x) > 2 else 0, flat=True)
    d, right = seen.scores, seen.right
    wrong = w.op("Not", right)
    beyond = w.shifted(d, -layer.positive_margin)
    too_far = _only(w, right, w.op("Clip", beyond, w.number(0), w.number(layer.positive_outlier_thresh)))
    too_near = _only(w, wrong, w.op("Relu", w.sub(w.number(layer.negative_margin), d)))
    near = w.op("And", wrong, w.op("Less", d, w.number(layer.negative_margin)))
    pushed = w.op("Exp", w.op("Neg", d)) if layer.exp_negative_weight else too_near
    pushed = w.scaled(_only(w, near, pushed), layer.negative_weight)
    terms = w.where(right, w.scaled(too_far, layer.positive_weight), pushed)
    kept = _chosen(w, terms, right, wrong)
    if layer.positive_first:
        own = w.sum(_only(w, right, d), [1], keep=True)
        counts = w.op("LessOrEqual", own, w.number(layer.positive_upper_bound))
        kept = _only(w, w.op("Or", right, counts), kept)
    averages = _averages(w, (w.sum(too_far), 1), (w.sum(too_near), layer.size[1] - 1))
    return [_mean_per_row(w, w.reduced("ReduceL1", kept)), *averages]


def _chosen(w: Writer, terms: str, right: str, wrong: str) -> str:
    """The terms that count, where only the smallest or the largest do; 0 for the others."""
    layer, kept = w.layer, terms
    if layer.max_positive_only:
        own = w.sum(_only(w, right, terms), [1], keep=True)
        first = w.op("ArgMin", own, axis=0, keepdims=1)
        rows = w.op("Range", w.ints(0), w.op("Squeeze", w.dims(terms, [0])), w.ints(1))
        smallest = w.op("Equal", w.unsqueeze(rows, 1, 2), first)
        kept = _only(w, w.op("Or", wrong, smallest), kept)
    if layer.max_negative_only:
        # an item of class 0 is compared with its own term, as in the fork
        later = w.op("Greater", w.floats(np.arange(layer.size[1])[:, None], "classes"), w.number(0))
        rivals = w.where(w.op("And", right, later), w.number(-np.inf), terms)
        kept = _only(w, w.op("Or", right, _is_first(w, "ArgMax", rivals)), kept)
    return kept
