"""Layers of detectors that pool regions."""

from __future__ import annotations

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
