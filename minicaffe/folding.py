"""BatchNorm and Scale folded into the convolution or inner product before them: fewer layers, the same outputs.

In the TEST phase a BatchNorm layer computes (x - mean) / sqrt(var + eps) with stored numbers, a Scale layer
gamma x + beta.  Behind a layer that computes W u + b, both together are another such layer:
W' = s W and b' = s (b - mean) + beta, where s = gamma / sqrt(var + eps), for each output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minicaffe import graph, proto
from minicaffe.errors import WeightsError
from minicaffe.weight_files import Stored

_CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
_LINEAR = (*_CONVOLUTIONS, "Deconvolution", "InnerProduct")


@dataclass
class Folded:
    """A net's definition and weights after folding: the layers that are gone, by the one they went into; those that
    had to stay, and why.
    """

    net: proto.NetParameter
    weights: Stored
    into: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def fold(net: proto.NetParameter, weights: Stored) -> Folded:
    """Fold the TEST phase of a net; definition and weights of what is left are new objects.  Weights of layers that the
    net lacks are left out.

    A layer is folded if nothing else reads what it reads, if the layer before it is a convolution of any kind, a
    Deconvolution or an InnerProduct, or was one with others folded into it, and if both share no params with other
    layers.

    Raises NetError as ``graph.filter_net`` does; WeightsError where a layer's weights are missing or of another shape.
    """
    definition = graph.filter_net(graph.with_state(net, proto.TEST))
    layers = list(definition.layer)
    names = {layer.name for layer in layers}
    used = {name: params for name, params in weights.layers.items() if name in names}
    result = Folded(definition, Stored(used, dict(weights.types), weights.net or net.name))
    shared = _shared_params(layers)
    gone: set[int] = set()
    target = 0
    while target < len(layers):
        if layers[target].type in _LINEAR:
            _fold_all(result, layers, target, gone, shared)
        target += 1
    for i, layer in enumerate(layers):
        if i not in gone and layer.type in ("BatchNorm", "Scale") and layer.name not in result.kept:
            result.kept[layer.name] = "it stands behind no layer that it could go into"
    kept = [layer for i, layer in enumerate(layers) if i not in gone]
    left = proto.NetParameter()
    left.CopyFrom(definition)
    del left.layer[:]
    left.layer.extend(kept)
    left.ClearField("state")
    result.net = left
    result.weights.definition = left
    return result


def _fold_all(result: Folded, layers: list, target: int, gone: set[int], shared: set[str]) -> None:
    """Fold every BatchNorm and Scale behind layer ``target`` into it."""
    layer = layers[target]
    while (follower := _only_reader(layers, target, gone)) is not None:
        other = layers[follower]
        if other.type not in ("BatchNorm", "Scale"):
            return
        reason = _obstacle(layer, other, shared)
        if reason is None:
            factor, offset = _affine(other, result.weights)
            reason = _absorb(layer, result.weights, factor, offset)
        if reason is not None:
            result.kept[other.name] = reason
            return
        layer.top[0] = other.top[0]
        gone.add(follower)
        result.weights.layers.pop(other.name)
        result.into.setdefault(layer.name, []).append(other.name)


def _only_reader(layers: Sequence, target: int, gone: set[int]) -> int | None:
    """The number of the layer that reads the top of ``target``, if one alone does; what is overwritten is not read."""
    if len(layers[target].top) != 1:
        return None
    blob = layers[target].top[0]
    reader = None
    for i in range(target + 1, len(layers)):
        if i in gone:
            continue
        reads = sum(name == blob for name in layers[i].bottom)
        if reads:
            if reader is not None or reads > 1 or len(layers[i].bottom) > 1:
                return None
            reader = i
        if blob in layers[i].top:
            break
    return reader


def _shared_params(layers: Sequence) -> set[str]:
    """The names by which several layers share params."""
    names = [spec.name for layer in layers for spec in layer.param if spec.name]
    return {name for name in names if names.count(name) > 1}


def _obstacle(layer: proto.LayerParameter, other: proto.LayerParameter, shared: set[str]) -> str | None:
    """Why ``other`` cannot go into ``layer``, as far as their definitions tell; None if it can."""
    for each in (layer, other):
        if any(spec.name in shared for spec in each.param):
            return f"'{each.name}' shares its params with other layers"
    if other.type == "BatchNorm" and other.batch_norm_param.HasField("use_global_stats"):
        if not other.batch_norm_param.use_global_stats:
            return "it uses the statistics of each batch (use_global_stats: false)"
    if other.type == "Scale" and (other.scale_param.axis != 1 or other.scale_param.num_axes != 1):
        return f"it scales axis {other.scale_param.axis}, {other.scale_param.num_axes} axes; expected axis 1 alone"
    axis = layer.inner_product_param.axis if layer.type == "InnerProduct" else layer.convolution_param.axis
    if axis != 1:
        return f"'{layer.name}' has its outputs along another axis ({axis}) than 1"
    if any(layer.loss_weight):
        return f"the output of '{layer.name}' is a loss (loss_weight)"
    return None


def _affine(layer: proto.LayerParameter, weights: Stored) -> tuple[NDArray, NDArray]:
    """Factor and offset of each channel, float64, of a BatchNorm or Scale layer."""
    params = [array.astype(np.float64) for array in weights.layers.get(layer.name, [])]
    if layer.type == "BatchNorm":
        if len(params) != 3 or params[0].size != params[1].size or params[2].size != 1:
            raise _wrong(layer, params, "a mean, a variance and the number they are scaled by")
        scale = params[2].item()
        mean, variance = (np.zeros_like(p) if scale == 0 else p.ravel() / scale for p in params[:2])
        factor = 1 / np.sqrt(variance.ravel() + layer.batch_norm_param.eps)
        return factor, -mean.ravel() * factor
    expected = 1 + layer.scale_param.bias_term
    if len(params) != expected or len({p.size for p in params}) != 1:
        raise _wrong(layer, params, f"{expected} of one size")
    factor = params[0].ravel()
    return factor, params[1].ravel() if layer.scale_param.bias_term else np.zeros_like(factor)


def _absorb(layer: proto.LayerParameter, weights: Stored, factor: NDArray, offset: NDArray) -> str | None:
    """Let a layer compute ``factor`` times its output plus ``offset``; why it cannot, or None if it does."""
    options, along = _options(layer)
    params = weights.layers.get(layer.name, [])
    if len(params) != 1 + options.bias_term or not params[0].size:
        raise _wrong(layer, params, f"{1 + options.bias_term}")
    weight = params[0]
    outputs = len(weight) if layer.type == "ConvolutionDepthwise" else options.num_output
    if not outputs or weight.size % outputs or any(p.size != outputs for p in params[1:]):
        raise _wrong(layer, params, f"{1 + options.bias_term} for {outputs} outputs")
    if factor.size != outputs:
        return f"it has {factor.size} channels, '{layer.name}' {outputs} outputs"
    bias = params[1].astype(np.float64).ravel() if options.bias_term else np.zeros(outputs)
    scaled = along(weight.astype(np.float64), factor)
    weights.layers[layer.name] = [scaled.astype(weight.dtype), (bias * factor + offset).astype(weight.dtype)]
    if not options.bias_term:
        options.bias_term = True
        if len(layer.param) == 1:  # a bias learns as the weights do, if it is trained further
            layer.param.add().CopyFrom(layer.param[0])
    return None


def _options(
    layer: proto.LayerParameter,
) -> tuple[proto.ConvolutionParameter | proto.InnerProductParameter, Callable[[NDArray, NDArray], NDArray]]:
    """The layer's parameters, and what multiplies its weights by a factor for each output."""
    if layer.type == "InnerProduct":
        inner = layer.inner_product_param
        if inner.transpose:
            return inner, lambda w, s: w * s
        return inner, lambda w, s: w * s.reshape(-1, *(1,) * (w.ndim - 1))
    options = layer.convolution_param
    if layer.type in _CONVOLUTIONS:
        return options, lambda w, s: w * s.reshape(-1, *(1,) * (w.ndim - 1))

    def transposed(w: NDArray, s: NDArray) -> NDArray:
        """Weights (in, out / group, ...): the inputs of group g make the outputs of group g."""
        groups = options.group
        by_group = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        return (by_group * s.reshape(groups, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)

    return options, transposed


def _wrong(layer: proto.LayerParameter, found: Sequence[NDArray], expected: str) -> WeightsError:
    shapes = ", ".join(str(p.shape) for p in found) or "none"
    return WeightsError(
        f"layer '{layer.name}' ({layer.type}): its params in the weights file are {shapes}; expected {expected}"
    )


ROUNDING = 1e-4
"""Of a blob's largest value: what the order of float32 operations may change in a deep net."""


def largest_difference(a: NDArray, b: NDArray) -> float:
    """The largest difference of two arrays, relative to the largest value of the first."""
    scale = float(np.max(np.abs(a), initial=0.0)) or 1.0
    difference = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
    return difference / scale if math.isfinite(difference) else math.inf
