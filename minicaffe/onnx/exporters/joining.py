"""Layers that join blobs value by value, some of them stretched over the axes they do not have."""

from __future__ import annotations

import functools

from minicaffe.layers.eltwise import Eltwise
from minicaffe.layers.merge_crop import MergeCrop
from minicaffe.layers.metric import Pairwise
from minicaffe.onnx.writer import Writer, exports, host


@exports("Eltwise")
def eltwise(w: Writer) -> str:
    if w.layer.operation == Eltwise.MAX:
        return w.op("Max", *w.x)
    if w.layer.operation == Eltwise.PROD:
        return functools.reduce(w.mul, w.x)
    return functools.reduce(w.add, map(w.scaled, w.x, w.layer.coefficients))


def _by_channel(w: Writer, k: int, of: int) -> str:
    """Bottom ``k``, (N, C[, 1, 1]), with as many axes as bottom ``of``."""
    x, like = w.bottom[k], w.bottom[of]
    return w.reshape(w.x[k], [*x[:2], *(1,) * (len(like) - 2)], x)


@exports("Axpy")
def axpy(w: Writer) -> str:
    return w.add(w.mul(_by_channel(w, 0, 1), w.x[1]), w.x[2])


@exports("BroadcastMul")
def broadcast_mul(w: Writer) -> str:
    return w.mul(w.x[0], _by_channel(w, 1, 0))


@exports("SpatialProduct", "MaskPooling")
def spatial_product(w: Writer) -> str:
    return w.mul(w.x[0], w.x[1])


@exports("MergeCrop")
def merge_crop(w: Writer) -> str:
    layer = w.layer
    starts, stops = (
        zip(*((part.start, part.stop) for part in layer.middle[2:]), strict=True) if len(w.bottom[0]) > 2 else ((), ())
    )
    a, b = w.x
    if starts:
        b = w.op("Slice", b, w.ints(starts), w.ints(stops), w.ints(list(range(2, 2 + len(starts)))))
    a, b = (x if used else w.filled(x, 0) for x, used in zip((a, b), layer.used, strict=True))
    return w.add(a, b) if layer.operation == MergeCrop.ADD else w.op("Concat", a, b, axis=1)


@exports("ChannelScale")
def channel_scale(w: Writer) -> list[str]:
    layer, x = w.layer, w.bottom[0]
    if not layer.do_forward:
        given = w.param(0) if len(w.top) > 1 else None
        return [w.x[0], *([given] if given else [])]
    if not layer.global_scale:
        return [w.mul(w.x[0], w.reshape(w.x[1], [x[0], 1, *x[2:]], w.bottom[1]))]
    held = w.floats(w.params[0].clip(layer.min_global_scale, layer.max_global_scale))
    return [w.mul(w.x[0], held), held][: len(w.top)]


@exports("Covariance", "Gram")
def gram(w: Writer) -> str:
    shape = w.bottom[0]
    flat = w.reshape(w.x[0], [shape[0], shape[1], shape.span(2)], shape)
    pairs = w.op("MatMul", flat, w.op("Transpose", flat, perm=[0, 2, 1]))
    return w.like_top(w.div(pairs, w.span(w.x[0], shape, 1)))


@exports("Mean")
def mean(w: Writer) -> list[str]:
    layer, tops = w.layer, []
    for x, shape, values in zip(w.x, w.bottom, layer.means, strict=True):
        stretched = w.floats(host(values).reshape(1, *(size.number for size in shape[1:])), "mean")
        tops.append(w.scaled(w.add(w.scaled(x, layer.input_scale), stretched), layer.output_scale))
    return tops


@exports("Pairwise")
def pairwise(w: Writer) -> str:
    layer = w.layer
    (m, k), (n, _) = (shape[:2] for shape in w.bottom)
    first, second = w.reshape(w.x[0], [m, 1, k]), w.reshape(w.x[1], [1, n, k])
    if layer.operation == Pairwise.SUM:
        return w.add(w.scaled(first, layer.factors[0]), w.scaled(second, layer.factors[1]))
    return w.op("Mul" if layer.operation == Pairwise.PROD else "Max", first, second)


@exports("InnerDistance")
def inner_distance(w: Writer) -> str:
    layer, x = w.layer, w.bottom[0]
    axis = w.axis(layer.axis)
    if layer.given_points:
        points = w.reshape(w.x[1], [w.bottom[1][0], layer.width], w.bottom[1])
    else:
        points = w.param(0)
        if layer.normalize:
            squares = w.reduced("ReduceSumSquare", points, [1], keep=True)
            points = w.div(points, w.op("Sqrt", w.shifted(squares, 1e-6)))
    gaps = w.sub(w.reshape(w.x[0], [x.span(0, axis), 1, x.span(axis)]), points)
    far = w.reduced("ReduceL1" if layer.distance_type == "L1" else "ReduceSumSquare", gaps, [2])
    return far if len(w.top[0]) == 2 else w.like_top(far)
