"""Layers of detectors that choose boxes by values: their outputs are lists, whose lengths nothing can be told of."""

from __future__ import annotations

import numpy as np

from minicaffe.boxes import coding
from minicaffe.onnx.writer import Writer, exports

_NOTHING = float("-inf")
_LOWEST = float(np.finfo(np.float32).min)


def _sides(w: Writer, boxes: str) -> tuple[str, str, str]:
    """Lower and upper corners (…, 2) of boxes, and what lies between."""
    low, high = w.ops("Split", 2, boxes, axis=-1, num_outputs=2)
    return low, high, w.sub(high, low)


def _decoded(w: Writer, codes: str, priors: str, variances: str) -> str:
    """The boxes that codes (…, P, 4) mean, priors and variances being (1, P, 4)."""
    layer = w.layer
    if not layer.variance_encoded_in_target:
        codes = w.mul(codes, variances)
    if layer.code_type == coding.CORNER:
        return w.add(priors, codes)
    low, high, sides = _sides(w, priors)
    if layer.code_type == coding.CORNER_SIZE:
        return w.add(priors, w.mul(codes, w.op("Concat", sides, sides, axis=-1)))
    shift, scale = w.ops("Split", 2, codes, axis=-1, num_outputs=2)
    half = w.scaled(w.mul(w.op("Exp", scale), sides), 0.5)
    center = w.add(w.mul(shift, sides), w.scaled(w.add(low, high), 0.5))
    return w.op("Concat", w.sub(center, half), w.add(center, half), axis=-1)


def _orderly(w: Writer, boxes: str) -> str:
    """Boxes without those whose corners are swapped: these overlap nothing, and become empty."""
    *_, sides = _sides(w, boxes)
    swapped = w.op("Less", w.reduced("ReduceMin", sides, [-1], keep=True), w.number(0))
    return w.where(swapped, w.number(0), boxes)


def _best_of_classes(w: Writer, scores: str, count: int) -> str:
    """Scores (N, classes, P), -inf for all but the best ``count`` of each class."""
    values, places = w.ops("TopK", 2, scores, w.ints([count]), axis=2)
    return w.op("ScatterElements", w.filled(scores, _NOTHING), places, values, axis=2)


def _suppressed(w: Writer, boxes: str, scores: str, count: int, by_class: bool) -> str:
    """Rows (item, label, prior) of the boxes that overlap no better one of their class too much, (M, 3) int64."""
    layer, classes = w.layer, w.layer.num_classes
    limits = w.ints([count]), w.floats([min(layer.overlap, 1.0)]), w.floats([max(layer.threshold, _LOWEST)])
    if not by_class:
        return w.op("NonMaxSuppression", boxes, scores, *limits)
    flat = w.op("Reshape", boxes, w.ints([-1, count, 4])), w.op("Reshape", scores, w.ints([-1, 1, count]))
    pair, _, prior = w.ops("Split", 3, w.op("NonMaxSuppression", *flat, *limits), axis=1, num_outputs=3)
    size = w.ints([classes])
    return w.op("Concat", w.div(pair, size), w.op("Mod", pair, size), prior, axis=1)


def _best_of_items(w: Writer, rows: str, scores: str, count: int, of: int) -> str:
    """At most ``count`` rows of each item, of ``of`` that are possible; of equally confident ones the first."""
    kept = w.op("ScatterND", w.filled(scores, _NOTHING), rows, w.op("GatherND", scores, rows))
    flat = w.op("Reshape", kept, w.ints([0, -1]))
    values, places = w.ops("TopK", 2, flat, w.ints([min(count, of)]), axis=1)
    chosen = w.op("ScatterElements", w.filled(flat, 0), places, w.filled(values, 1), axis=1)
    chosen = w.op("Reshape", chosen, w.op("Shape", scores))
    return w.op("Compress", rows, w.op("Greater", w.op("GatherND", chosen, rows), w.number(0)), axis=0)


def _or_none(w: Writer, found: str, items: str) -> str:
    """Rows (M, 7) of what was found; if that is nothing at all, a row (item, -1, -1, …) for each of ``items`` (1,)."""
    number = w.op("Range", w.ints(0), w.op("Squeeze", items), w.ints(1))
    blank = w.op("Expand", w.floats(np.full((1, 6), -1)), w.op("Concat", items, w.ints([1]), axis=0))
    rows = w.op("Concat", w.unsqueeze(w.as_float(number), 1), blank, axis=1)
    none = w.op("Equal", w.dims(found, [0]), w.ints([0]))
    return w.op("Concat", found, w.op("Compress", rows, w.op("Expand", none, items), axis=0), axis=0)


@exports("DetectionOutput")
def detection_output(w: Writer) -> str:
    layer, classes, items = w.layer, w.layer.num_classes, w.bottom[0][0]
    if layer.eta < 1:
        raise w.refuse("nms_param.eta changes its threshold from box to box")
    count = w.bottom[2][2].number // 4
    priors, variances = w.ops("Split", 2, w.reshape(w.x[2], [2, count, 4]), axis=0, num_outputs=2)
    by_class = not layer.share_location
    codes = w.reshape(w.x[0], [items, count, classes, 4] if by_class else [items, count, 4], w.bottom[0])
    codes = w.op("Transpose", codes, perm=[0, 2, 1, 3]) if by_class else codes
    boxes = _decoded(w, codes, priors, variances)
    boxes = w.op("Clip", boxes, w.number(0), w.number(1)) if layer.clip else boxes
    scores = w.op("Transpose", w.reshape(w.x[1], [items, count, classes], w.bottom[1]), perm=[0, 2, 1])
    wanted = np.isin(np.arange(classes), layer.classes)[:, None]
    candidates = w.where(w.op("Greater", w.floats(wanted), w.number(0)), scores, w.number(_NOTHING))
    if 0 <= layer.most < count:
        candidates = _best_of_classes(w, candidates, layer.most)
    ordered = boxes if layer.code_type == coding.CENTER_SIZE else _orderly(w, boxes)
    rows = _suppressed(w, ordered, candidates, count, by_class)
    if layer.keep_top_k >= 0:
        rows = _best_of_items(w, rows, candidates, layer.keep_top_k, classes * count)
    item, label, prior = w.ops("Split", 3, rows, axis=1, num_outputs=3)
    place = rows if by_class else w.op("Concat", item, prior, axis=1)
    numbers = w.as_float(w.op("Concat", item, label, axis=1))
    confidence = w.unsqueeze(w.op("GatherND", scores, rows), 1)
    found = w.op("Concat", numbers, confidence, w.op("GatherND", boxes, place), axis=1)
    w.told[0] = [1, 1, None, 7]
    return w.unsqueeze(_or_none(w, found, w.dims(w.x[0], [0])), 0, 1)
