"""Layers that move values about without computing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from minicaffe.onnx.sizes import is_fixed
from minicaffe.onnx.writer import END, Writer, exports, host


@exports("Reshape", "Flatten")
def view(w: Writer) -> str:
    return w.like_top(w.x[0], w.bottom[0])


@exports("Split")
def split(w: Writer) -> list[str]:
    return w.x * len(w.top)


@exports("Silence")
def silence(w: Writer) -> list[str]:
    return []


@exports("Concat")
def concat(w: Writer) -> str:
    return w.x[0] if len(w.x) == 1 else w.op("Concat", *w.x, axis=w.layer.along)


@exports("Slice")
def slice_(w: Writer) -> list[str]:
    axis, points = w.layer.along, list(w.layer.slice_point)
    if len(w.top) == 1:
        return list(w.x)
    parts = [top[axis] for top in w.top]
    if is_fixed(parts):
        return w.ops("Split", len(parts), w.x[0], w.ints([part.number for part in parts]), axis=axis)
    if not points:
        return w.ops("Split", len(parts), w.x[0], axis=axis, num_outputs=len(parts))
    return [w.slice(w.x[0], axis, start, stop) for start, stop in pairwise([0, *points, END])]


@exports("Permute", "Transpose")
def transpose(w: Writer) -> str:
    return w.op("Transpose", w.x[0], perm=list(w.layer.axes))


@exports("ShuffleChannel")
def shuffle_channel(w: Writer) -> str:
    shape, group = w.bottom[0], w.layer.group
    apart = w.reshape(w.x[0], [shape[0], group, shape[1] // group, shape.span(2)])
    return w.like_top(w.op("Transpose", apart, perm=[0, 2, 1, 3]))


@exports("Flip")
def flip(w: Writer) -> str:
    x = w.reversed(w.x[0], 2) if w.layer.flip_height else w.x[0]
    return w.reversed(x, 3) if w.layer.flip_width else x


@exports("Reverse")
def reverse(w: Writer) -> str:
    return w.reversed(w.x[0], w.axis(w.layer.axis))


@exports("Crop", "AutoCrop")
def crop(w: Writer) -> str:
    y, layer = w.x[0], w.layer
    for axis, part in enumerate(layer.block[1:], start=w.axis(layer.axis)):
        size = w.top[0][axis]
        if size == w.bottom[0][axis]:
            continue
        stop: int | str = part.stop
        if not size.fixed:
            stop = w.add(w.dims(w.x[1], [axis]), w.ints([part.start]))
        y = w.slice(y, axis, part.start, stop)
    return y


@exports("Tile")
def tile(w: Writer) -> str:
    repeats = [1] * len(w.bottom[0])
    repeats[w.axis(w.layer.axis)] = w.layer.tiles
    return w.op("Tile", w.x[0], w.ints(repeats))


@exports("Slope")
def slope(w: Writer) -> str:
    places = w.floats(host(w.layer.places)[None], "places")
    wanted = w.op("Concat", w.dims(w.x[0], [0]), w.ints(places_shape(w)), axis=0)
    return w.op("Concat", w.x[0], w.op("Expand", places, wanted), axis=1)


def places_shape(w: Writer) -> list[int]:
    return [2, *(size.number for size in w.bottom[0][2:])]


@exports("Reorg")
def reorg(w: Writer) -> str:
    (n, c, h, v), s = w.bottom[0], w.layer.stride
    few = c // (s * s)
    if w.layer.reverse:
        apart = w.reshape(w.x[0], [n, s, s, few, h, v])
        return w.like_top(w.op("Transpose", apart, perm=[0, 3, 4, 1, 5, 2]))
    apart = w.reshape(w.x[0], [n, few, h, s, v, s])
    return w.like_top(w.op("Transpose", apart, perm=[0, 3, 5, 1, 2, 4]))


@exports("Parameter", "TrainableData")
def parameter(w: Writer) -> str:
    return w.param(0)


@exports("PriorBox")
def prior_box(w: Writer) -> str:
    return w.floats(host(w.layer.values)[None], "boxes")


@exports("ContinuationIndicator")
def continuation_indicator(w: Writer) -> str:
    layer = w.layer
    begun = np.ones((layer.time_step, 1), np.float32)
    begun[0] = 0
    size = w.top[0][1]
    if size.fixed:
        return w.floats(np.repeat(begun, size.number, axis=1), "goes_on")
    axis = w.axis(layer.axis)
    return w.op(
        "Expand", w.floats(begun, "goes_on"), w.op("Concat", w.ints([layer.time_step]), w.dims(w.x[0], [axis]), axis=0)
    )
