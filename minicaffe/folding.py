"""Layers that scale and shift channels folded into the convolution or inner product before them: fewer layers, the
same outputs.

In the TEST phase a BatchNorm layer computes (x - mean) / sqrt(var + eps) with stored numbers, a Scale layer
gamma x + beta, a Bias layer x + beta.  Behind a layer that computes W u + b, all of them together are another such
layer: W' = s W and b' = s b + t, for each output.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minicaffe import graph, proto
from minicaffe.errors import WeightsError
from minicaffe.weight_files import Stored

_CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
_LINEAR = (*_CONVOLUTIONS, "Deconvolution", "InnerProduct")
_AFFINE = ("BatchNorm", "BN", "Scale", "Bias")

Params = Sequence[Sequence[NDArray]]
"""The params of each layer."""


@dataclass
class Folded:
    """A net's definition and weights after folding: the layers that are gone, by the one they went into; those that
    had to stay, and why.
    """

    net: proto.NetParameter
    weights: Stored
    into: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


@dataclass
class Chains:
    """Which layers of a net, by number, go into which, in their order; and why others stay."""

    into: dict[int, list[int]] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)

    @property
    def gone(self) -> set[int]:
        """The layers that go into others."""
        return {follower for followers in self.into.values() for follower in followers}


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
    params = [weights.layers.get(layer.name, []) for layer in layers]
    chains = find_chains(layers, params, _shared_params(layers))
    names = {layer.name for layer in layers}
    used = {name: arrays for name, arrays in weights.layers.items() if name in names}
    result = Folded(definition, Stored(used, dict(weights.types), weights.net or net.name))
    for target, followers in chains.into.items():
        layer, row = layers[target], [target, *followers]
        used[layer.name] = composed([layers[i] for i in row], [params[i] for i in row])
        let_add(layer)
        layer.top[0] = layers[followers[-1]].top[0]
        result.into[layer.name] = [layers[i].name for i in followers]
        for i in followers:
            used.pop(layers[i].name)
    result.kept = {layers[i].name: reason for i, reason in sorted(chains.kept.items())}
    left = proto.NetParameter()
    left.CopyFrom(definition)
    del left.layer[:]
    gone = chains.gone
    left.layer.extend(layer for i, layer in enumerate(layers) if i not in gone)
    left.ClearField("state")
    result.net = left
    result.weights.definition = left
    return result


def find_chains(
    layers: Sequence[proto.LayerParameter],
    params: Params,
    shared: Collection[str] = (),
    watched: Collection[str] = (),
) -> Chains:
    """Which layers of a net in its TEST phase can be folded.

    ``shared`` are the names of params that must not change, ``watched`` blobs that must hold what they held.
    Raises WeightsError where a layer's params are missing or of another shape.
    """
    chains = Chains()
    gone: set[int] = set()
    for target, layer in enumerate(layers):
        blob = layer.top[0] if layer.type in _LINEAR and len(layer.top) == 1 else None
        last = target
        while blob is not None and (follower := _only_reader(layers, last, blob, gone)) is not None:
            other = layers[follower]
            if other.type not in _AFFINE:
                break
            reason = _obstacle(layer, other, shared)
            if reason is None and blob in watched and other.top[0] != blob:
                reason = f"'{blob}' is to be kept"
            reason = reason or _misfit(layer, params[target], other, params[follower])
            if reason is not None:
                chains.kept[follower] = reason
                break
            gone.add(follower)
            chains.into.setdefault(target, []).append(follower)
            last, blob = follower, other.top[0]
    for i, layer in enumerate(layers):
        if i not in gone and layer.type in _AFFINE and i not in chains.kept:
            chains.kept[i] = "it stands behind no layer that it could go into"
    return chains


def _only_reader(layers: Sequence[proto.LayerParameter], maker: int, blob: str, gone: set[int]) -> int | None:
    """The number of the layer that reads what ``maker`` leaves in ``blob``, if one alone does; what is overwritten is
    not read.
    """
    reader = None
    for i in range(maker + 1, len(layers)):
        if i in gone:
            continue
        reads = sum(name == blob for name in layers[i].bottom)
        if reads:
            if reader is not None or reads > 1 or len(layers[i].bottom) > 1 or len(layers[i].top) != 1:
                return None
            reader = i
        if blob in layers[i].top:
            break
    return reader


def _shared_params(layers: Sequence[proto.LayerParameter]) -> set[str]:
    """The names by which several layers share params."""
    names = [spec.name for layer in layers for spec in layer.param if spec.name]
    return {name for name in names if names.count(name) > 1}


def _obstacle(layer: proto.LayerParameter, other: proto.LayerParameter, shared: Collection[str]) -> str | None:
    """Why ``other`` cannot go into ``layer``, as far as their definitions tell; None if it can."""
    for each in (layer, other):
        if any(spec.name in shared for spec in each.param):
            return f"'{each.name}' shares its params with other layers"
    trains = other.HasField("phase") and other.phase == proto.TRAIN
    if other.type == "BatchNorm":
        options = other.batch_norm_param
        if options.HasField("use_global_stats") and not options.use_global_stats:
            return "it uses the statistics of each batch (use_global_stats: false)"
        if trains and not options.use_global_stats:
            return "it uses the statistics of each batch (phase: TRAIN)"
    if other.type == "BN" and trains and not other.bn_param.frozen:
        return "it uses the statistics of each batch (phase: TRAIN)"
    if other.type in ("Scale", "Bias"):
        covered = other.scale_param if other.type == "Scale" else other.bias_param
        if covered.axis != 1 or covered.num_axes != 1:
            verb = "scales" if other.type == "Scale" else "shifts"
            return f"it {verb} axis {covered.axis}, {covered.num_axes} axes; expected axis 1 alone"
    if layer.type == "InnerProduct" and layer.inner_product_param.normalize:
        return f"'{layer.name}' scales its weights (normalize)"
    axis = layer.inner_product_param.axis if layer.type == "InnerProduct" else layer.convolution_param.axis
    if axis != 1:
        return f"'{layer.name}' has its outputs along another axis ({axis}) than 1"
    if any(layer.loss_weight) or any(other.loss_weight):
        return f"the output of '{layer.name if any(layer.loss_weight) else other.name}' is a loss (loss_weight)"
    return None


def _misfit(
    layer: proto.LayerParameter, params: Sequence[NDArray], other: proto.LayerParameter, others: Sequence[NDArray]
) -> str | None:
    """Why ``other`` cannot go into ``layer``, as far as their params tell; None if it can."""
    if other.type == "BN" and len(others) == 2 and other.bn_param.bn_mode == other.bn_param.LEARN:
        return "it uses the statistics of each batch (bn_mode: LEARN)"
    factor, _ = _affine(other, others)
    outputs = _outputs(layer, params)
    return f"it has {factor.size} channels, '{layer.name}' {outputs} outputs" if factor.size != outputs else None


def composed(layers: Sequence[proto.LayerParameter], params: Params) -> list[NDArray]:
    """Weights and biases with which the first of these layers alone computes what all of them do, one after the other.

    Raises WeightsError where params are missing or of another shape.
    """
    layer, (weight, *rest) = layers[0], params[0]
    outputs = _outputs(layer, params[0])
    factor, offset = np.ones(outputs), rest[0].astype(np.float64).ravel() if rest else np.zeros(outputs)
    for other, others in zip(layers[1:], params[1:], strict=True):
        s, t = _affine(other, others)
        factor, offset = factor * s, offset * s + t
    return [_along(layer, weight, factor), offset.astype(weight.dtype)]


def let_add(layer: proto.LayerParameter) -> None:
    """Let a layer have biases."""
    options = _options(layer)
    if not options.bias_term:
        options.bias_term = True
        if len(layer.param) == 1:  # a bias learns as the weights do, if it is trained further
            layer.param.add().CopyFrom(layer.param[0])


def _affine(layer: proto.LayerParameter, params: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Factor and offset of each channel, float64, of a BatchNorm, BN, Scale or Bias layer."""
    arrays = [array.astype(np.float64).ravel() for array in params]
    if layer.type == "BatchNorm":
        return _batch_norm(layer, arrays)
    if layer.type == "BN":
        return _bn(layer, arrays)
    if layer.type == "Bias":
        if len(arrays) != 1:
            raise _wrong(layer, params, "1")
        return np.ones(arrays[0].size), arrays[0]
    expected = 1 + layer.scale_param.bias_term
    if len(arrays) != expected or len({p.size for p in arrays}) != 1:
        raise _wrong(layer, params, f"{expected} of one size")
    return arrays[0], arrays[1] if layer.scale_param.bias_term else np.zeros(arrays[0].size)


def _batch_norm(layer: proto.LayerParameter, params: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Of Caffe's BatchNorm, and of NVCaffe's, which scales and shifts, too."""
    sizes = [p.size for p in params]
    if len(params) not in (3, 5) or sizes != [sizes[0], sizes[0], 1, *[sizes[0]] * (len(params) - 3)]:
        raise _wrong(layer, params, "a mean, a variance and the number they are scaled by")
    count = params[2].item()
    mean, variance = (np.zeros_like(p) if count == 0 else p / count for p in params[:2])
    factor = 1 / np.sqrt(variance + layer.batch_norm_param.eps)
    if len(params) == 3:
        return factor, -mean * factor
    return factor * params[3], params[4] - mean * factor * params[3]


def _bn(layer: proto.LayerParameter, params: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Of SegNet's BN: scale and shift; of others: these, a mean, and PSPNet's variance or happynear's 1 / deviation."""
    if len(params) not in (2, 4) or len({p.size for p in params}) != 1:
        raise _wrong(layer, params, "a scale and a shift, and perhaps a mean and a variance")
    if len(params) == 2:
        return params[0], params[1]
    scale, shift, mean, spread = params
    factor = scale * spread if layer.fork == "happynear" else scale / np.sqrt(spread + layer.bn_param.eps)
    return factor, shift - mean * factor


def _outputs(layer: proto.LayerParameter, params: Sequence[NDArray]) -> int:
    """How many outputs a layer has; WeightsError unless its params are for as many."""
    options = _options(layer)
    if len(params) != 1 + options.bias_term or not params[0].size:
        raise _wrong(layer, params, f"{1 + options.bias_term}")
    outputs = len(params[0]) if layer.type == "ConvolutionDepthwise" else options.num_output
    if not outputs or params[0].size % outputs or any(p.size != outputs for p in params[1:]):
        raise _wrong(layer, params, f"{1 + options.bias_term} for {outputs} outputs")
    return outputs


def _options(layer: proto.LayerParameter) -> proto.ConvolutionParameter | proto.InnerProductParameter:
    """The layer's parameters."""
    return layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param


def _along(layer: proto.LayerParameter, w: NDArray, s: NDArray) -> NDArray:
    """The layer's weights times a factor, float64, for each output, rounded once."""
    split, shape = w.shape, (-1, *(1,) * (w.ndim - 1))
    if layer.type == "InnerProduct" and layer.inner_product_param.transpose:
        shape = s.shape
    elif layer.type == "Deconvolution":  # (in, out / group, ...): the inputs of group g make the outputs of group g
        groups = layer.convolution_param.group
        split = (groups, w.shape[0] // groups, *w.shape[1:])
        shape = (groups, 1, -1, *(1,) * (w.ndim - 2))
    scaled = np.empty(split, w.dtype)
    np.multiply(w.reshape(split), s.reshape(shape), out=scaled, dtype=np.float64, casting="same_kind")
    return scaled.reshape(w.shape)


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
