"""Layers that reduce, and that choose by values: Reduction, ArgMax, Filter, BatchReindex, ReverseTime, BiasChannel."""

from __future__ import annotations

import numpy as np

from minicaffe.layers.reduction import Reduction
from minicaffe.onnx.writer import Writer, exports

REDUCTIONS = {
    Reduction.SUM: "ReduceSum",
    Reduction.ASUM: "ReduceL1",
    Reduction.SUMSQ: "ReduceSumSquare",
    Reduction.MEAN: "ReduceMean",
}


@exports("Reduction")
def reduction(w: Writer) -> str:
    axes = range(w.axis(w.layer.axis), len(w.bottom[0]))
    return w.scaled(w.reduced(REDUCTIONS[w.layer.operation], w.x[0], axes), w.layer.coeff)


@exports("BatchReduction")
def batch_reduction(w: Writer) -> str:
    layer, options = w.layer, w.layer.reduction_param
    if layer.pos or len(layer.parts) > 1 or list(layer.level) not in ([], [1]):
        raise w.refuse("it reduces levels, or rows at the same places")
    x, axis = w.x[0], w.axis(options.axis)
    if options.operation == layer.TOPK:
        x, _ = w.ops("TopK", 2, x, w.ints([options.k]), axis=axis)
    return w.reduced("ReduceSum" if options.operation == layer.SUM else "ReduceMean", x, [axis])


@exports("ArgMax")
def arg_max(w: Writer) -> str:
    """Of equal values the last comes first: operators take the first, so they get the values in reverse."""
    layer, shape = w.layer, w.bottom[0]
    along = layer.along
    if along is None:
        x, axis, choices = w.reshape(w.x[0], [shape[0], shape.span(1)], shape), 1, shape.span(1)
    else:
        x, axis, choices = w.x[0], along, shape[along]
    last = w.shifted(w.length(x, (axis, choices)), -1)
    values, places = w.ops("TopK", 2, w.reversed(x, axis), w.ints([layer.top_k]), axis=axis)
    places = w.sub(last, w.as_float(places))
    if along is not None:
        return values if layer.out_max_val else places
    if layer.out_max_val:
        places = w.op("Concat", w.unsqueeze(places, 1), w.unsqueeze(values, 1), axis=1)
    return w.like_top(places)


@exports("Filter", lists=0)
def filter_(w: Writer) -> list[str]:
    selector = w.reshape(w.x[-1], [w.bottom[-1][0]], w.bottom[-1])
    kept = w.op("Not", w.op("Equal", selector, w.number(0)))
    return [w.op("Compress", x, kept, axis=0) for x in w.x[:-1]]


@exports("BatchReindex")
def batch_reindex(w: Writer) -> str:
    return w.op("Gather", w.x[0], w.as_int(w.x[1]), axis=0)


@exports("ReverseTime")
def reverse_time(w: Writer) -> str:
    shape = w.bottom[0]
    steps = w.floats(np.arange(shape[0].number)[:, None], "steps")
    length = w.unsqueeze(w.x[1], 0)
    inside = w.op("Less", steps, length)
    place = w.where(inside, w.sub(w.shifted(length, -1), steps), steps)
    x = w.reshape(w.x[0], [shape[0], shape[1], shape.span(2)], shape)
    index = w.op("Expand", w.unsqueeze(w.as_int(place), 2), w.op("Shape", x))
    y = w.op("GatherElements", x, index, axis=0)
    if not w.layer.copy_remaining:
        y = w.mul(y, w.unsqueeze(w.as_float(inside), 2))
    return w.like_top(y, [shape[0], shape[1], shape.span(2)])


@exports("BiasChannel")
def bias_channel(w: Writer) -> str:
    layer, classes, labels = w.layer, w.bottom[0][1].number, w.bottom[1]
    bias = np.full(classes, layer.fg_bias)
    bias[0] = layer.bg_bias
    bias[[c for c in range(classes) if c in layer.ignore_label]] = 0
    found = w.reshape(w.x[1], [labels[0], labels.span(1), 1], labels)
    has = w.as_float(w.op("Equal", found, w.floats(np.arange(classes), "classes")))
    each = w.mul(w.reduced("ReduceMax", has, [1]), w.floats(bias, "bias"))
    return w.add(w.x[0], w.unsqueeze(each, 2, 3))
