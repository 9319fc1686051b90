"""Layers of detectors that pool regions."""

from __future__ import annotations

import numpy as np

from minicaffe.onnx.writer import Writer, exports


def _moved_outward(w: Writer, rois: str, ratio: float) -> str:
    """Corners moved outward by a share of the region's size."""
    item, low, high = w.ops("Split", 3, rois, w.ints([1, 2, 2]), axis=1)
    pad = w.scaled(w.shifted(w.sub(high, low), 1), ratio)
    return w.op("Concat", item, w.sub(low, pad), w.add(high, pad), axis=1)


@exports("ROIPooling")
def roi_pooling(w: Writer) -> str:
    layer = w.layer
    rois = w.reshape(w.x[1], [w.bottom[1][0], 5], w.bottom[1])
    if layer.pad_ratio:
        rois = _moved_outward(w, rois, layer.pad_ratio)
    across, down = layer.scale
    if across != down:
        rois, across = w.mul(rois, w.floats([1, across, down, across, down], "scale")), 1.0
    return w.op("MaxRoiPool", w.x[0], rois, pooled_shape=[layer.pooled_h, layer.pooled_w], spatial_scale=float(across))


def _rounded(w: Writer, x: str) -> str:
    """The nearest integer, halves away from 0; ONNX's own takes the even one."""
    size = w.op("Abs", x)
    whole = w.op("Floor", size)
    more = w.as_float(w.op("GreaterOrEqual", w.sub(size, whole), w.number(0.5)))
    return w.mul(w.op("Sign", x), w.add(whole, more))


def _images(w: Writer, rois: str) -> str:
    """The image of each region: the only one there is, or (R, C, H, W)."""
    num = w.bottom[0][0]
    if num.fixed and num.number == 1:
        return w.x[0]
    item = w.as_int(w.op("Squeeze", w.slice(rois, 1, 0, 1), w.ints([1])))
    return w.op("Gather", w.x[0], item, axis=0)


def _corners(w: Writer, rois: str) -> list[str]:
    """x1, y1, x2, y2 of each region, (R, 1, 1) each."""
    return [w.unsqueeze(part, 2) for part in w.ops("Split", 5, rois, axis=1, num_outputs=5)[1:]]


@exports("ROIAlign")
def roi_align(w: Writer) -> str:
    layer = w.layer
    rois = w.reshape(w.x[1], [w.bottom[1][0], 5], w.bottom[1])
    moved = _moved_outward(w, rois, layer.pad_ratio) if layer.pad_ratio else rois
    left, top, right, bottom = (
        w.shifted(w.scaled(at, layer.given("spatial_scale", 1.0)), -0.5) for at in _corners(w, moved)
    )
    has_area = [w.op("Greater", w.sub(high, low), w.number(0)) for low, high in ((left, right), (top, bottom))]
    wanted = w.as_float(w.op("And", *has_area))
    shares = []
    for low, high, size, count in ((top, bottom, 2, layer.pooled_h + 1), (left, right, 3, layer.pooled_w + 1)):
        pixels = w.bottom[0][size].number
        step = w.div(w.sub(high, low), w.number(max(count - 1, 1)))
        at = w.add(low, w.mul(w.floats(np.arange(count)[:, None], "points"), step))  # (R, count, 1)
        inside = w.op(
            "And", w.op("GreaterOrEqual", at, w.number(-0.5)), w.op("LessOrEqual", at, w.number(pixels - 0.5))
        )
        near = w.op("Clip", at, w.number(0), w.number(pixels - 1))
        far = w.op("Abs", w.sub(near, w.floats(np.arange(pixels), "pixels")))
        share = w.mul(w.op("Relu", w.sub(w.number(1), far)), w.as_float(inside))
        shares.append(w.unsqueeze(w.mul(share, wanted), 1))  # (R, 1, count, pixels)
    columns = w.op("MatMul", _images(w, rois), w.op("Transpose", shares[1], perm=[0, 1, 3, 2]))
    return w.op("MatMul", shares[0], columns)


@exports("PSROIPooling")
def position_sensitive_pooling(w: Writer) -> str:
    """The pixels of each bin are picked by a product with 1 and 0 for each axis, and counted."""
    layer, group = w.layer, w.layer.group_size
    rois = w.reshape(w.x[1], [w.bottom[1][0], 5], w.bottom[1])
    corners = [_rounded(w, at) for at in _corners(w, rois)]
    masks = []
    for axis, size in ((1, 2), (0, 3)):
        low = w.scaled(corners[axis], layer.spatial_scale)
        high = w.scaled(w.shifted(corners[2 + axis], 1), layer.spatial_scale)
        share = w.div(w.op("Max", w.sub(high, low), w.number(0.1)), w.number(group))
        ends = [w.add(w.mul(w.floats(np.arange(group)[:, None] + k, "bins"), share), low) for k in (0, 1)]
        pixels = w.floats(np.arange(w.bottom[0][size].number), "pixels")
        begun = w.op("LessOrEqual", w.op("Floor", ends[0]), pixels)
        masks.append(w.as_float(w.op("And", begun, w.op("Less", pixels, w.op("Ceil", ends[1])))))  # (R, bins, pixels)
    height, width = w.bottom[0][2:]
    images = w.op(
        "Reshape", _images(w, rois), w.ints([-1, layer.output_dim, group, group, height.number, width.number])
    )
    columns = w.op("MatMul", images, w.unsqueeze(masks[1], 1, 2, 5))  # (R, D, bins, bins, H, 1)
    total = w.op("MatMul", w.unsqueeze(masks[0], 1, 3, 4), columns)
    down, across = (w.sum(mask, [2], keep=True) for mask in masks)
    count = w.unsqueeze(w.op("MatMul", down, w.op("Transpose", across, perm=[0, 2, 1])), 1)
    return w.div(w.op("Squeeze", total, w.ints([4, 5])), w.op("Max", count, w.number(1)))
