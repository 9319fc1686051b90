"""What a layer cannot do without: the FLOPs of its matrix products, and the bytes it must read and write."""

from __future__ import annotations

from collections.abc import Iterable

from minicaffe.blob import Blob
from minicaffe.net import Net, Step

_PRODUCTS = {"Convolution", "InnerProduct"}
_VIEWS = {"Input", "Flatten", "Reshape", "Silence", "Split"}


def forward_flops(step: Step) -> float:
    """Each element of a top takes a multiplication and an addition for each weight of its output channel."""
    return sum(_products(step))


def backward_flops(step: Step) -> float:
    """As many as forward for the gradient of the weights, and again for that of each bottom that needs one."""
    if not step.need_backward:
        return 0.0
    weights = any(step.layer.param_propagate_down[:1])
    return sum(each * (weights + down) for each, down in zip(_products(step), step.propagate_down))


def _products(step: Step) -> list[float]:
    layer = step.layer
    if layer.type not in _PRODUCTS:
        return []
    per_channel = layer.blobs[0].count / layer.num_output  # type: ignore[attr-defined]
    return [2 * top.count * per_channel for top in step.top]


def forward_bytes(step: Step) -> float:
    """Bottoms and params are read, tops written."""
    if step.layer.type in _VIEWS:
        return 0.0
    return _size(step.bottom) + _size(step.layer.blobs) + _size(step.top)


def backward_bytes(step: Step) -> float:
    """Bottoms, params and the tops' gradients are read, wanted gradients written; those of params are added to what is there."""
    if step.layer.type in _VIEWS or not step.need_backward:
        return 0.0
    params = [blob for blob, learns in zip(step.layer.blobs, step.layer.param_propagate_down) if learns]
    bottoms = [blob for blob, down in zip(step.bottom, step.propagate_down) if down]
    return _size(step.bottom) + _size(step.layer.blobs) + _size(step.top) + _size(bottoms) + 2 * _size(params)


def _size(blobs: Iterable[Blob]) -> float:
    return float(sum(blob.count * blob.dtype.itemsize for blob in blobs))


def training_step(net: Net) -> tuple[float, float]:
    """FLOPs and bytes of forward, backward and an update that reads and writes weights, gradients and one history."""
    flops = sum(forward_flops(step) + backward_flops(step) for step in net.steps)
    moved = sum(forward_bytes(step) + backward_bytes(step) for step in net.steps)
    return flops, moved + 6 * _size(param.blob for param in net.learnable)
