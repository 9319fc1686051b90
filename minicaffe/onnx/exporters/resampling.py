"""Layers that make images of another size or read them between their pixels."""

from __future__ import annotations

import numpy as np

from minicaffe.layers.flow import Correlation
from minicaffe.layers.reorg import MaskUpsample
from minicaffe.layers.sampling import FlowWarp
from minicaffe.onnx.writer import Writer, exports, host


def _resized(w: Writer, x: str, down: object, right: object) -> str:
    """The product with a matrix for each axis, which says how much of each old row or column is in each new one."""
    columns = w.op("MatMul", x, w.floats(host(right).T, "columns"))
    return w.op("MatMul", w.floats(host(down), "rows"), columns)


@exports("Interp")
def interp(w: Writer) -> str:
    return _resized(w, w.x[0], w.layer.rows_matrix, w.layer.columns_matrix)


@exports("MaskResize", "Resize", "Resample")
def resize(w: Writer) -> str:
    return _resized(w, w.x[0], w.layer.down, w.layer.right)


@exports("Downsample")
def downsample(w: Writer) -> str:
    """A mean of what is known: NaN is left out, and is the result where it weighs too much."""
    layer = w.layer
    if w.bottom[0] == w.top[0]:
        return w.x[0]
    unknown = w.op("IsNaN", w.x[0])
    total = _resized(w, w.where(unknown, w.number(0), w.x[0]), layer.down, layer.right)
    known = _resized(w, w.as_float(w.op("Not", unknown)), layer.down, layer.right)
    lacking = w.sub(w.floats(host(layer.all_weights), "weights"), known)
    is_unknown = w.op("Greater", lacking, w.scaled(known, 0.5))
    return w.where(is_unknown, w.number(np.nan), w.div(total, known))


@exports("Accum")
def accum(w: Writer) -> str:
    parts = [_resized(w, x, down, right) for x, (_, down, right, *_) in zip(w.x, w.layer.parts, strict=False)]
    return parts[0] if len(parts) == 1 else w.op("Concat", *parts, axis=1)


@exports("Upsample")
def upsample(w: Writer) -> str:
    if isinstance(w.layer, MaskUpsample):
        return _put_back(w)
    scales = w.floats([1, 1, w.layer.scale, w.layer.scale], "scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.op("Resize", w.x[0], "", scales, **how)


def _put_back(w: Writer) -> str:
    x, y = w.bottom[0], w.top[0]
    small = [x[0], x[1], x.span(2)]
    size = w.op("Concat", w.dims(w.x[0], [0, 1]), w.ints([y[2].number * y[3].number]), axis=0)
    empty = w.op("Expand", w.number(0), size)
    places = w.as_int(w.reshape(w.x[1], small, x))
    return w.like_top(w.op("ScatterElements", empty, places, w.reshape(w.x[0], small, x), axis=2))


@exports("FlowWarp")
def flow_warp(w: Writer) -> str:
    _, channels, height, width = w.bottom[0]
    size = (height.number, width.number)
    flow = w.reshape(w.x[1], [w.bottom[1][0], 2, size[0] * size[1]])
    right, down = w.ops("Split", 2, flow, axis=1, num_outputs=2)
    rows, columns = (grid.reshape(-1) for grid in np.mgrid[: size[0], : size[1]])
    y, x = w.add(down, w.floats(rows, "rows")), w.add(right, w.floats(columns, "columns"))
    inside = _between(w, y, x, size, "Less")
    found = _sampled(w, y, x, inside, size)
    if w.layer.fill_value == FlowWarp.NOT_A_NUMBER:
        found = w.where(inside, found, w.number(np.nan))
    return w.like_top(found)


@exports("Transformer")
def transformer(w: Writer) -> str:
    size = tuple(size.number for size in w.bottom[0][2:])
    theta = w.reshape(w.x[1], [w.bottom[1][0], 2, 3])
    source = w.op("MatMul", theta, w.floats(host(w.layer.target), "target"))
    rows, columns = w.ops("Split", 2, source, axis=1, num_outputs=2)
    y, x = (w.shifted(w.scaled(at, s / 2), s / 2) for at, s in zip((rows, columns), size, strict=True))
    inside = _between(w, y, x, (size[0] - 1, size[1] - 1), "LessOrEqual")
    return w.like_top(_sampled(w, y, x, inside, size))


def _between(w: Writer, y: str, x: str, limits: tuple[float, ...], upper: str) -> str:
    """Whether places (N, 1, P) lie from 0 to the limits."""
    parts = []
    for at, limit in zip((y, x), limits, strict=True):
        parts += [w.op("GreaterOrEqual", at, w.number(0)), w.op(upper, at, w.number(limit))]
    return w.op("And", w.op("And", parts[0], parts[1]), w.op("And", parts[2], parts[3]))


def _sampled(w: Writer, y: str, x: str, inside: str, size: tuple[int, ...]) -> str:
    """The values of bottom 0 at places (N, 1, P), between the four pixels around; 0 outside.  (N, C, P)."""
    shape = w.bottom[0]
    pixels = w.reshape(w.x[0], [shape[0], shape[1], shape.span(2)], shape)
    nothing, corners = w.number(0), []
    for at, count in zip((y, x), size, strict=True):
        known = w.where(inside, at, nothing)
        low = w.op("Floor", known)
        beyond = w.sub(known, low)
        high = w.op("Min", w.shifted(low, 1), w.number(count - 1))
        corners.append(((low, w.sub(w.number(1), beyond)), (high, beyond)))
    target = w.op("Concat", w.dims(w.x[0], [0, 1]), w.ints([size[0] * size[1]]), axis=0)
    total = None
    for row, row_share in corners[0]:
        for column, column_share in corners[1]:
            place = w.as_int(w.add(w.scaled(row, size[1]), column))
            values = w.op("GatherElements", pixels, w.op("Expand", place, target), axis=2)
            part = w.mul(values, w.mul(row_share, column_share))
            total = part if total is None else w.add(total, part)
    assert total is not None
    return w.where(inside, total, nothing)


@exports("Correlation")
def correlation(w: Writer) -> str:
    layer = w.layer
    pads = w.ints([0, 0, layer.pad, layer.pad] * 2)
    a, b = (w.op("Pad", x, pads, w.number(0)) if layer.pad else x for x in w.x)
    centre = _part(w, a, (0, 0))
    parts = []
    for shift in layer.displacements:
        other = _part(w, b, shift)
        if layer.correlation_type == Correlation.SUBTRACT:
            parts.append(w.reduced("ReduceL1", w.sub(centre, other), [1], keep=True))
        else:
            parts.append(w.sum(w.mul(centre, other), [1], keep=True))
    likeness = w.op("Concat", *parts, axis=1)
    sides = {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride_1] * 2}
    return w.div(w.op("AveragePool", likeness, **sides), w.span(w.x[0], w.bottom[0], 1, 2))


def _part(w: Writer, x: str, shift: tuple[int, int]) -> str:
    """What of a padded input meets all positions, at a displacement."""
    starts = [w.layer.max_displacement + by for by in shift]
    stops = [start + size for start, size in zip(starts, w.layer.extent, strict=True)]
    return w.op("Slice", x, w.ints(starts), w.ints(stops), w.ints([2, 3]))
