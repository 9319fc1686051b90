"""Layers of detectors that choose boxes by values: their outputs are lists, whose lengths nothing can be told of."""

from __future__ import annotations

import numpy as np

from minicaffe.boxes import coding
from minicaffe.onnx.sizes import number
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


@exports("DetectionOutput", lists=2)
def detection_output(w: Writer) -> str:
    layer, classes, items = w.layer, w.layer.num_classes, w.bottom[0][0]
    if layer.eta < 1:
        raise w.refuse("nms_param.eta changes its threshold from box to box")
    if layer.use_polygon:
        raise w.refuse("it finds quadrilaterals, those of TextBoxes++")
    if layer.has_objectness:
        raise w.refuse("it has two stages, those of RefineDet")
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
    return w.unsqueeze(_or_none(w, found, w.dims(w.x[0], [0])), 0, 1)


@exports("Proposal", lists=0)
def proposal(w: Writer) -> list[str]:
    cell, choice = w.layer.cell, w.layer.choice
    height, width = (size.number for size in w.bottom[0][2:])
    count = height * width * len(cell)
    boxes = _anchors_moved(w, height, width)
    image = w.reshape(w.x[2], [w.bottom[2].span()], w.bottom[2])
    last = w.shifted(w.op("Gather", image, w.ints([1, 0, 1, 0])), -1)
    boxes = w.op("Max", w.op("Min", boxes, last), w.number(0))
    across = 3 if number(w.bottom[2].span()) > 3 else 2
    least = w.scaled(w.op("Gather", image, w.ints([across, 2])), choice.least_size)
    *_, sides = _sides(w, boxes)
    large = w.reduced("ReduceMin", w.as_float(w.op("GreaterOrEqual", w.shifted(sides, 1), least)), [-1])
    scores = w.slice(w.x[0], 1, len(cell), 2 * len(cell))
    scores = w.op("Reshape", w.op("Transpose", scores, perm=[0, 2, 3, 1]), w.ints([-1]))
    scores = w.where(w.op("Greater", large, w.number(0)), scores, w.number(_NOTHING))
    ranked = min(choice.before, count) if choice.before > 0 else count
    scores, order = w.ops("TopK", 2, scores, w.ints([ranked]), axis=0)
    boxes = w.op("Gather", boxes, order)
    most = choice.after if choice.after > 0 else count
    limits = w.ints([most]), w.floats([min(choice.overlap, 1.0)]), w.floats([_LOWEST])
    whole = w.add(boxes, w.floats([0, 0, 1, 1]))  # both corners belong to a box
    rows = w.op("NonMaxSuppression", w.unsqueeze(whole, 0), w.unsqueeze(scores, 0, 1), *limits)
    kept = w.op("Gather", rows, w.ints(2), axis=1)
    confidence = w.unsqueeze(w.op("Gather", scores, kept), 1)
    regions = w.op("Concat", w.filled(confidence, 0), w.op("Gather", boxes, kept), axis=1)
    return [regions, confidence][: len(w.top)]


def _anchors_moved(w: Writer, height: int, width: int) -> str:
    """The boxes (H W A, 4) that the codes make of the anchors of all cells."""
    cell = w.layer.cell
    sides = cell[:, 2:] - cell[:, :2] + 1
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns, rows], axis=-1)[:, :, None] * w.layer.choice.stride
    middles = w.floats((cell[:, :2] + sides / 2 + places).reshape(-1, 2), "middles")
    sizes = w.floats(np.tile(sides, (height * width, 1)), "sides")
    halves = w.floats(np.tile(sides / 2, (height * width, 1)), "halves")
    codes = w.op("Reshape", w.x[1], w.ints([len(cell), 4, height, width]))
    codes = w.op("Reshape", w.op("Transpose", codes, perm=[2, 3, 0, 1]), w.ints([-1, 4]))
    step, growth = w.ops("Split", 2, codes, axis=1, num_outputs=2)
    centre, half = w.add(middles, w.mul(step, sizes)), w.mul(w.op("Exp", growth), halves)
    return w.op("Concat", w.sub(centre, half), w.add(centre, half), axis=1)


def _grid(w: Writer, k: int, biases: np.ndarray) -> tuple[str, str, str]:
    """Of bottom ``k`` of a YOLO: centred boxes (cells, 4), objectness (cells, 1), codes of classes (cells, classes);
    ``biases`` are widths and heights relative to the image.
    """
    layer, shape = w.layer, w.bottom[k]
    height, width = (size.number for size in shape[2:])
    apart = w.reshape(w.x[k], [shape[0], layer.num_box, 5 + layer.num_classes, height, width])
    cells = w.op("Transpose", apart, perm=[0, 3, 4, 1, 2])
    place, size, certain, classes = w.ops("Split", 4, cells, w.ints([2, 2, 1, layer.num_classes]), axis=4)
    rows, columns = np.mgrid[:height, :width]
    corners = w.floats(np.stack([columns, rows], axis=-1)[:, :, None], "cells")
    centre = w.div(w.add(w.op("Sigmoid", place), corners), w.floats([width, height]))
    boxes = w.op("Concat", centre, w.mul(w.op("Exp", size), w.floats(biases, "anchors")), axis=4)
    parts = ((boxes, 4), (w.op("Sigmoid", certain), 1), (classes, layer.num_classes))
    flat = [w.op("Reshape", part, w.ints([-1, length])) for part, length in parts]
    return flat[0], flat[1], flat[2]


def _found_on_grids(w: Writer, found: list[tuple[str, str, str]]) -> str:
    """Rows of candidates, which are (confidence (K,), label (K,), centred boxes (K, 4)) of each bottom."""
    threshold = np.float32(w.layer.nms_threshold)
    if not threshold > 0:
        raise w.refuse(f"nms_threshold is {threshold:g}: it would drop boxes that overlap no other")
    joined = [parts[0] if len(parts) == 1 else w.op("Concat", *parts, axis=0) for parts in zip(*found, strict=True)]
    confidence, label, boxes = joined
    # an overlap as large as the threshold is too much here
    limits = w.ints([2**31 - 1]), w.floats([min(np.nextafter(threshold, np.float32(0)), 1.0)])
    scores = w.unsqueeze(confidence, 0, 1)
    rows = w.op("NonMaxSuppression", w.unsqueeze(boxes, 0), scores, *limits, center_point_box=1)
    kept = w.op("Gather", rows, w.ints(2), axis=1)
    centre, size = w.ops("Split", 2, w.op("Gather", boxes, kept), axis=1, num_outputs=2)
    half = w.scaled(size, 0.5)
    confidence, label = (w.unsqueeze(w.op("Gather", x, kept), 1) for x in (confidence, w.shifted(label, 1)))
    columns = w.filled(label, 0), label, confidence, w.sub(centre, half), w.add(centre, half)
    return w.unsqueeze(_or_none(w, w.op("Concat", *columns, axis=1), w.dims(w.x[0], [0])), 0, 1)


@exports("YoloDetectionOutput", lists=2)
def yolo_output(w: Writer) -> str:
    layer, found = w.layer, []
    anchors = np.array(layer.biases).reshape(-1, 2)[: layer.num_box]
    for k, shape in enumerate(w.bottom):
        boxes, certain, classes = _grid(w, k, anchors / [shape[3].number, shape[2].number])
        shares = w.op("Softmax", classes, axis=1)
        confidence = w.reduced("ReduceMax", w.mul(certain, shares), [1])
        chosen = w.op("GreaterOrEqual", confidence, w.number(layer.confidence_threshold))
        label = w.as_float(w.op("ArgMax", shares, axis=1, keepdims=0))
        parts = [w.op("Compress", part, chosen, axis=0) for part in (confidence, label, boxes)]
        found.append((parts[0], parts[1], parts[2]))
    return _found_on_grids(w, found)


@exports("Yolov3DetectionOutput", lists=2)
def yolov3_output(w: Writer) -> str:
    layer, found = w.layer, []
    anchors = np.array(layer.biases).reshape(-1, 2)
    for k, shape in enumerate(w.bottom):
        own = anchors[list(layer.mask[k * layer.num_box : (k + 1) * layer.num_box])]
        pixels = np.array([shape[3].number, shape[2].number]) * layer.anchors_scale[k]
        boxes, certain, classes = _grid(w, k, own / pixels)
        confidence = w.op("Reshape", w.mul(certain, w.op("Sigmoid", classes)), w.ints([-1]))
        chosen = w.op("Greater", confidence, w.number(layer.confidence_threshold))
        places = w.op("Squeeze", w.op("NonZero", chosen), w.ints([0]))
        count = w.ints(layer.num_classes)
        label = w.as_float(w.op("Mod", places, count))
        found.append((w.op("Gather", confidence, places), label, w.op("Gather", boxes, w.div(places, count))))
    return _found_on_grids(w, found)
