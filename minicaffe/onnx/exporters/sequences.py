"""Layers that drop values from rows and close up the rest: CTCGreedyDecoder, LabelsequenceAccuracy, UniqueLabel."""

from __future__ import annotations

import numpy as np

from minicaffe.onnx.writer import Writer, exports


def _closed_up(w: Writer, values: str, keep: str, length: int) -> str:
    """Rows (N, length) with the values to keep first, in their order, and -1 behind them."""
    places = w.floats(np.arange(length), "places")
    last = w.where(keep, places, w.floats(np.arange(length) + length, "dropped"))
    _, order = w.ops("TopK", 2, last, w.ints([length]), axis=1, largest=0)
    count = w.sum(w.as_float(keep), [1], keep=True)
    moved = w.op("GatherElements", values, order, axis=1)
    return w.where(w.op("Less", places, count), moved, w.number(-1))


def _differs_from_before(w: Writer, values: str, length: int) -> str:
    """Whether a value of a row (N, length) is another than the one before; the first one is."""
    if length == 1:
        return w.op("Equal", values, values)
    before = w.op("Concat", w.shifted(w.slice(values, 1, 0, 1), -1), w.slice(values, 1, 0, length - 1), axis=1)
    return w.op("Not", w.op("Equal", values, before))


def _read(w: Writer, best: str, blank: int, merges: bool, length: int) -> str:
    """Sequences of classes (N, length) without blanks and repeats, -1 behind their ends."""
    keep = w.op("Not", w.op("Equal", best, w.number(blank)))
    if merges:
        keep = w.op("And", keep, _differs_from_before(w, best, length))
    return _closed_up(w, best, keep, length)


def _best(w: Writer) -> str:
    """The classes of the largest scores, along the last axis of bottom 0, (…, …, C)."""
    shape = w.bottom[0]
    return w.as_float(w.op("ArgMax", w.reshape(w.x[0], shape[:3], shape), axis=2, keepdims=0))


@exports("CTCGreedyDecoder")
def greedy_decoder(w: Writer) -> str:
    layer = w.layer
    if len(w.x) > 1:
        raise w.refuse("the distance to labels that it measures takes a table for each sequence; leave out the labels")
    best = w.op("Transpose", _best(w), perm=[1, 0])
    length = w.bottom[0][0].number
    return w.unsqueeze(_read(w, best, layer.blank, layer.ctc_merge_repeated, length), 2, 3)


@exports("LabelsequenceAccuracy")
def sequence_accuracy(w: Writer) -> str:
    layer, (num, steps) = w.layer, w.bottom[0][:2]
    wide = w.bottom[1].span(1)
    sizes = [size if isinstance(size, int) else size.number for size in (steps, wide)]
    found = _read(w, _best(w), layer.blank_label, True, sizes[0])
    labels = w.reshape(w.x[1], [num, wide], w.bottom[1])
    labels = _read(w, labels, layer.blank_label, False, sizes[1])
    ends = [max(sizes) - size for size in sizes]
    rows = [
        w.op("Pad", x, w.ints([0, 0, 0, end]), w.number(-1)) if end else x
        for x, end in zip((found, labels), ends, strict=True)
    ]
    same = w.reduced("ReduceMin", w.as_float(w.op("Equal", *rows)), [1])
    return w.reduced("ReduceMean", same)


@exports("UniqueLabel")
def unique_label(w: Writer) -> str:
    layer, shape = w.layer, w.bottom[0]
    pixels = shape.span(1)
    count = pixels if isinstance(pixels, int) else pixels.number
    flat = w.reshape(w.x[0], [shape[0], count], shape)
    values, _ = w.ops("TopK", 2, flat, w.ints([count]), axis=1, largest=0)
    keep = _differs_from_before(w, values, count)
    for label in layer.ignore_label:
        keep = w.op("And", keep, w.op("Not", w.op("Equal", values, w.number(label))))
    rows = _closed_up(w, values, keep, count)
    room = layer.max_labels - count
    rows = (
        w.op("Pad", rows, w.ints([0, 0, 0, room]), w.number(-1)) if room >= 0 else w.slice(rows, 1, 0, layer.max_labels)
    )
    return w.unsqueeze(rows, 2, 3)
