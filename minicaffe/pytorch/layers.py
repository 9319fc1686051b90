"""Caffe's layers in PyTorch's words: the expressions of their tops, and the submodules that hold their params."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.kernels.reference import BATCH_SIZE, FULL, VALID
from minicaffe.layers.base import TRAIN
from minicaffe.layers.eltwise import Eltwise
from minicaffe.layers.normalisation import LRN
from minicaffe.layers.pooling import Pooling
from minicaffe.pytorch.writer import Writer, exports, number, options, scaled, sizes, stretched

# --- windows ---------------------------------------------------------------------------------------------------------


@exports("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def convolution(w: Writer) -> list[str]:
    layer, window = w.layer, w.layer.window
    axes = len(window.kernel)
    w.require(layer.channel_axis == 1 and 1 <= axes <= 3, "PyTorch convolves along 1 to 3 axes behind N and C")
    kind = "ConvTranspose" if layer.type == "Deconvolution" else "Conv"
    how = options(
        stride=(sizes(window.stride), "1"),
        padding=(sizes(window.pad), "0"),
        dilation=(sizes(window.dilation), "1"),
        groups=(layer.group, 1),
        bias=(layer.bias_term, True),
    )
    made = f"nn.{kind}{axes}d({layer.in_channels}, {layer.num_output}, {sizes(window.kernel)}{how})"
    bias = {"bias": (1, (layer.num_output,))} if layer.bias_term else {}
    filters = w.module(made, weight=(0, (*layer.filter_channels(), *window.kernel)), **bias)
    if kind == "ConvTranspose":
        return [f"{filters}({x})" for x in w.x]
    images = map(functools.partial(_reached, w), w.x, w.bottom, w.top)
    return [f"{filters}({x})" for x in images]


def _reached(w: Writer, x: str, bottom: Sequence[int], top: Sequence[int]) -> str:
    """x with the zeros behind it that its only window reads where that is larger than the padded image: Caffe takes
    such a window if the stride is wide enough, PyTorch does not.
    """
    window = w.layer.window
    missing = [
        e - (size + 2 * p) if count == 1 else 0
        for e, size, p, count in zip(window.extent, bottom[2:], window.pad, top[2:], strict=True)
    ]
    if max(missing) <= 0:
        return x
    behind = [size for zeros in reversed(missing) for size in (0, max(zeros, 0))]
    return f"F.pad({x}, {tuple(behind)})"


@exports("Pooling")
def pooling(w: Writer) -> str:
    layer, x, masks = w.layer, w.x[0], len(w.top) > 1
    w.require(layer.pool != Pooling.STOCHASTIC, "STOCHASTIC pooling has no counterpart")
    name = "max" if layer.pool == Pooling.MAX else "avg"
    if layer.global_pooling:
        masked = f"{w.helper('max_pool_with_mask')}({x}, {x}.shape[2:], 1, (0, 0, 0, 0))" if masks else ""
        return masked or f"F.{name}_pool2d({x}, {x}.shape[2:])"
    (stride, pad, kernel), up = layer.sizes(), layer.rounds_up
    positions = [_positions(*axis, up) for axis in zip(w.bottom[0][2:], kernel, stride, pad, strict=True)]
    half = all(2 * p <= k for p, k in zip(pad, kernel, strict=True))
    if masks or not half or tuple(positions) != tuple(w.top[0][2:]):
        return _pooled_beyond(w, name, masks)
    how = options(stride=(sizes(stride), sizes(kernel)), padding=(sizes(pad), "0"), ceil_mode=(up, False))
    return f"F.{name}_pool2d({x}, {sizes(kernel)}{how})"


def _positions(size: int, kernel: int, stride: int, pad: int, up: bool) -> int:
    """How many windows PyTorch has along an axis: rounded up, without one that begins behind the image and one pad."""
    count = (size + 2 * pad - kernel + (stride - 1) * up) // stride + 1
    return count - (up and (count - 1) * stride >= size + pad)


def _pooled_beyond(w: Writer, name: str, masks: bool) -> str:
    """Pooling of an image with all around it that its windows reach: PyTorch pads by half the kernel at most, has no
    window that begins beyond the image, and gives no mask of -1.
    """
    (kernel, stride, pad, _), x = w.layer.window, w.x[0]
    axes = list(zip(w.bottom[0][2:], w.top[0][2:], kernel, stride, pad, strict=True))
    room = tuple(n for size, count, k, s, p in reversed(axes) for n in (p, max((count - 1) * s + k - size - p, 0)))
    how = f"{sizes(kernel)}, {sizes(stride)}"
    if masks:
        return f"{w.helper('max_pool_with_mask')}({x}, {how}, {room})"
    if name == "max":
        return f"F.max_pool2d(F.pad({x}, {room}, value=torch.finfo({x}.dtype).min), {how})"
    lengths = [[min(k, size + 2 * p - n * s) for n in range(count)] for size, count, k, s, p in axes]
    if all(length == k for axis, k in zip(lengths, kernel, strict=True) for length in axis):
        return f"F.avg_pool2d(F.pad({x}, {room}), {how})"
    rows, columns = (f"{x}.new_tensor({axis})" for axis in lengths)
    return f"F.avg_pool2d(F.pad({x}, {room}), {how}, divisor_override=1) / ({rows}[:, None] * {columns})"


@exports("LRN")
def lrn(w: Writer) -> str:
    layer, x, n = w.layer, w.x[0], w.layer.local_size
    alpha, beta = number(layer.alpha), number(layer.beta)
    if layer.norm_region == LRN.ACROSS_CHANNELS:
        return f"F.local_response_norm({x}, {n}, {alpha}, {beta}, {number(layer.k)})"
    return f"{x} * (1 + {alpha} * F.avg_pool2d({x} * {x}, {n}, 1, {n // 2})) ** -{beta}"


# --- learned ---------------------------------------------------------------------------------------------------------


@exports("InnerProduct")
def inner_product(w: Writer) -> str:
    layer, axes = w.layer, len(w.bottom[0])
    axis = w.axis(layer.axis)
    rows = w.x[0] if axis == axes - 1 else f"{w.x[0]}.flatten({axis})"
    if layer.transpose:
        held = w.held(weight=0, **({"bias": 1} if layer.bias_term else {}))
        return f"F.linear({rows}, {held}.weight.t(){f', {held}.bias' if layer.bias_term else ''})"
    how = options(bias=(layer.bias_term, True))
    bias = {"bias": (1, (layer.num_output,))} if layer.bias_term else {}
    made = f"nn.Linear({layer.inputs}, {layer.num_output}{how})"
    return f"{w.module(made, weight=(0, (layer.num_output, layer.inputs)), **bias)}({rows})"


@exports("Embed")
def embed(w: Writer) -> str:
    held = w.held(weight=0, **({"bias": 1} if w.layer.bias_term else {}))
    found = f"F.embedding({w.x[0]}.long(), {held}.weight)"
    return f"{found} + {held}.bias" if w.layer.bias_term else found


def _stretched(w: Writer, v: str, shape: Sequence[int]) -> str:
    """v, of this shape, with axes of 1 behind its own, so that these stand where the layer says."""
    trailing = len(w.bottom[0]) - w.axis(w.layer.axis) - len(shape) if shape else 0
    return stretched(v, trailing)


@exports("Scale", "Bias")
def scale(w: Writer) -> str:
    """Scale has a factor, and maybe a bias; Bias has that only.  The first of them may be a bottom."""
    x, given = w.x[0], len(w.x) > 1
    keys = ["weight"] * (w.layer.type == "Scale") + ["bias"] * (w.layer.type == "Bias" or w.layer.bias_term)
    learned = keys[given:]
    held = w.held(**{key: j for j, key in enumerate(learned)}) if learned else ""
    shapes = [*w.bottom[1:], *(blob.shape for blob in w.layer.blobs)]
    values = [*w.x[1:], *(f"{held}.{key}" for key in learned)]
    by_key = dict(zip(keys, map(functools.partial(_stretched, w), values, shapes), strict=True))
    if len(by_key) == 2:
        return f"torch.addcmul({by_key['bias']}, {x}, {by_key['weight']})"
    return f"{x} * {by_key['weight']}" if "weight" in by_key else f"{x} + {by_key['bias']}"


@exports("BatchNorm")
def batch_norm(w: Writer) -> str:
    layer, axes = w.layer, len(w.bottom[0])
    w.require(2 <= axes <= 5, "PyTorch normalises batches of 2 to 5 axes")
    fraction, eps = layer.moving_average_fraction, number(layer.eps)
    momentum = number(float(f"{1 - np.float64(str(np.float32(fraction))):.12g}"))
    shape = (layer.channels,)
    learned = {"weight": (3, shape), "bias": (4, shape)} if layer.scales else {}
    affine = "" if layer.scales else ", affine=False"
    how = options(eps=(eps, "1e-05"), momentum=(momentum, "0.1")) + affine
    held = w.module(f"nn.BatchNorm{max(axes - 2, 1)}d({layer.channels}{how})", **learned)
    factor = float(w.values(2).reshape(()))
    for key, j in (("running_mean", 0), ("running_var", 1)):
        w.state[key] = w.values(j).reshape(shape) * np.float32(0 if factor == 0 else 1 / np.float32(factor))
    w.state["num_batches_tracked"] = np.array(0)
    if not layer.has("use_global_stats") or (layer.phase == TRAIN and not layer.use_global_stats):
        return f"{held}({w.x[0]})"
    scaled = f"{held}.weight, {held}.bias" if layer.scales else "None, None"
    if layer.use_global_stats:
        return f"F.batch_norm({w.x[0]}, {held}.running_mean, {held}.running_var, {scaled}, False, 0.0, {eps})"
    return f"F.batch_norm({w.x[0]}, None, None, {scaled}, True, 0.0, {eps})"


@exports("PReLU")
def prelu(w: Writer) -> str:
    count = 1 if w.layer.channel_shared else w.layer.channels
    return f"{w.module(f'nn.PReLU({count})', weight=(0, (count,)))}({w.x[0]})"


@exports("Normalize")
def normalize(w: Writer) -> str:
    layer, x = w.layer, w.x[0]
    w.require(not layer.by_position, "happynear's, without a scale, has no counterpart")
    axes = list(range(1, len(w.bottom[0]))) if layer.across_spatial else 1
    factor = f"{w.held(weight=0)}.weight"
    if not layer.channel_shared:
        factor = f"{factor}[:{', None' * (len(w.bottom[0]) - 2)}]"
    return f"{x} * torch.rsqrt(({x} * {x}).sum({axes}, keepdim=True) + {number(layer.eps)}) * {factor}"


# --- neurons ---------------------------------------------------------------------------------------------------------

UNARY = {
    "AbsVal": "torch.abs",
    "BNLL": "F.softplus",
    "Mish": "F.mish",
    "Sigmoid": "torch.sigmoid",
    "TanH": "torch.tanh",
}
"""Layers that are a function without options."""


@exports(*UNARY)
def unary(w: Writer) -> str:
    return f"{UNARY[w.layer.type]}({w.x[0]})"


@exports("ReLU")
def relu(w: Writer) -> str:
    how, slope = options(inplace=(w.in_place, False)), w.layer.negative_slope
    return f"F.leaky_relu({w.x[0]}, {number(slope)}{how})" if slope else f"F.relu({w.x[0]}{how})"


@exports("ReLU6")
def relu6(w: Writer) -> str:
    w.require(w.layer.negative_slope == 0, "PyTorch's has no negative_slope")
    return f"F.relu6({w.x[0]})"


@exports("ELU")
def elu(w: Writer) -> str:
    return f"F.elu({w.x[0]}, {number(w.layer.alpha)})"


@exports("Swish")
def swish(w: Writer) -> str:
    return f"{w.x[0]} * torch.sigmoid({scaled(w.x[0], w.layer.beta)})"


@exports("Clip")
def clip(w: Writer) -> str:
    return f"{w.x[0]}.clamp(max={number(w.layer.max)}).clamp(min={number(w.layer.min)})"


@exports("Threshold")
def threshold(w: Writer) -> str:
    return f"({w.x[0]} > {number(w.layer.threshold)}).to({w.x[0]}.dtype)"


def _shifted(x: str, offset: float) -> str:
    return x if offset == 0 else f"{number(offset)} + {x}"


@exports("Power")
def power(w: Writer) -> str:
    layer = w.layer
    if layer.factor == 0:
        return f"torch.full_like({w.x[0]}, {number(layer.constant())})"
    base = _shifted(scaled(w.x[0], layer.scale), layer.shift)
    return base if layer.power == 1 else f"({base}) ** {number(layer.power)}"


@exports("Exp")
def exponential(w: Writer) -> str:
    inner, outer = w.layer.options()
    return scaled(f"torch.exp({scaled(w.x[0], inner)})", outer)


@exports("Log")
def logarithm(w: Writer) -> str:
    factor, shift, outer = w.layer.options()
    return scaled(f"torch.log({_shifted(scaled(w.x[0], factor), shift)})", outer)


@exports("Dropout")
def dropout(w: Writer) -> str:
    layer = w.layer
    ratio, when = number(layer.dropout_ratio), "True" if layer.sample_weights_test else "self.training"
    dropped = f"F.dropout({w.x[0]}, {ratio}, {when})"
    return dropped if layer.scale_train else f"{number(1 - layer.dropout_ratio)} * {dropped}"


@exports("Softmax")
def softmax(w: Writer) -> str:
    layer = w.layer
    cooled = "" if layer.scaling_temperature == 1 else f" / {number(layer.scaling_temperature)}"
    return f"F.softmax({w.x[0]}{cooled}, {layer.axis})"


# --- joining and moving ----------------------------------------------------------------------------------------------


@exports("Eltwise", dialects=("EltwiseOfOne",))
def eltwise(w: Writer) -> str:
    layer, first = w.layer, w.x[0]
    if layer.operation == Eltwise.MAX:
        return functools.reduce(lambda a, b: f"torch.maximum({a}, {b})", w.x)
    if layer.operation == Eltwise.PROD:
        return " * ".join(w.x)
    terms = scaled(first, layer.coefficients[0])
    for x, c in zip(w.x[1:], layer.coefficients[1:], strict=True):
        terms = f"{terms} + {x}" if c == 1 else f"torch.add({terms}, {x}, alpha={number(c)})"
    return terms


@exports("Concat")
def concat(w: Writer) -> str:
    return w.x[0] if len(w.x) == 1 else f"torch.cat([{', '.join(w.x)}], {w.layer.along})"


@exports("Slice")
def slice_(w: Writer) -> str | list[str]:
    if len(w.top) == 1:
        return w.x
    return f"{w.x[0]}.tensor_split({list(w.layer.slice_point) or len(w.top)}, {w.layer.along})"


@exports("Flatten")
def flatten(w: Writer) -> str:
    start, end = w.axis(w.layer.axis), w.axis(w.layer.end_axis)
    w.require(start <= end, "it joins no axes, but adds one of size 1")
    return f"{w.x[0]}.flatten({start}, {end})"


@exports("Reshape")
def reshape(w: Writer) -> str:
    layer, x, axes = w.layer, w.x[0], len(w.bottom[0])
    start = layer.axis if layer.axis >= 0 else axes + layer.axis + 1
    end = axes if layer.num_axes == -1 else start + layer.num_axes
    kept = [f"{x}.shape[{k}]" for k in range(axes)]
    new = [kept[start + i] if dim == 0 else str(dim) for i, dim in enumerate(layer.shape.dim)]
    return f"{x}.reshape({', '.join([*kept[:start], *new, *kept[end:]]) or '()'})"


@exports("Permute", "Transpose")
def permute(w: Writer) -> str:
    return f"{w.x[0]}.permute({', '.join(map(str, w.layer.axes))})"


@exports("Tile")
def tile(w: Writer) -> str:
    repeats = [1] * len(w.bottom[0])
    repeats[w.axis(w.layer.axis)] = w.layer.tiles
    return f"{w.x[0]}.repeat({', '.join(map(str, repeats))})"


@exports("Crop")
def crop(w: Writer) -> str:
    axis, (x, like) = w.axis(w.layer.axis), w.x
    starts = [part.start for part in w.layer.block[1:]]
    parts = [f"{start}:{start} + {like}.shape[{k}]" for k, start in enumerate(starts, start=axis)]
    return f"{x}[{', '.join([':'] * axis + parts)}]"


@exports("Split")
def split(w: Writer) -> list[str]:
    return w.x * len(w.top)


@exports("Silence")
def silence(w: Writer) -> list[str]:
    return []


# --- losses and measures ---------------------------------------------------------------------------------------------


def _labels(w: Writer, axis: int) -> str:
    """Labels as integers, one for each position of the scores without their class axis."""
    x, label = w.x[:2]
    wanted = [f"{x}.shape[{k}]" for k in range(len(w.bottom[0])) if k != axis]
    fits = w.bottom[1] == tuple(size for k, size in enumerate(w.bottom[0]) if k != axis)
    return f"{label}.long()" if fits else f"{label}.long().reshape({', '.join(wanted)})"


def _divided(w: Writer, total: str, label: str, counted: str, first: str) -> str:
    """A sum over positions, divided as ``loss_param.normalization`` says."""
    how: Any = w.layer.normalization
    if how == proto.LossParameter.PRE_FIXED:
        return f"{total} / {number(max(w.layer.pre_fixed_normalizer, 1.0))}"
    if how == BATCH_SIZE:
        return f"{total} / {first}"
    if how == VALID and w.layer.ignored is not None:
        return f"{total} / {counted}.sum().clamp(min=1)"
    return f"{total} / {label}.numel()" if how in (FULL, VALID) else total


@exports("SoftmaxWithLoss")
def softmax_loss(w: Writer) -> str:
    layer, x, axis = w.layer, w.x[0], w.axis(w.layer.axis)
    w.require(len(w.x) == 2 and len(w.top) == 1, "weights and further tops have no counterpart")
    w.require(axis == 1, "PyTorch's classes are along axis 1")
    label, ignored = _labels(w, axis), layer.ignored
    if layer.normalization in (FULL, VALID) and ignored is None:
        return f"F.cross_entropy({x}, {label})"
    how = "" if ignored is None else f", ignore_index={ignored}"
    total = f'F.cross_entropy({x}, {label}{how}, reduction="sum")'
    return _divided(w, total, w.x[1], f"({w.x[1]} != {ignored})", f"{x}.shape[0]")


@exports("SigmoidCrossEntropyLoss")
def sigmoid_loss(w: Writer) -> str:
    x, target = w.x
    w.require(w.layer.ignored is None, "PyTorch's ignores no labels")
    target = target if w.bottom[0] == w.bottom[1] else f"{target}.reshape({x}.shape)"
    total = f'F.binary_cross_entropy_with_logits({x}, {target}, reduction="sum")'
    return _divided(w, total, x, "", f"{x}.shape[0]")


@exports("EuclideanLoss")
def euclidean_loss(w: Writer) -> str:
    a, b = w.x
    b = b if w.bottom[0] == w.bottom[1] else f"{b}.reshape({a}.shape)"
    return f'F.mse_loss({a}, {b}, reduction="sum") / (2 * {a}.shape[0])'


@exports("ContrastiveLoss")
def contrastive_loss(w: Writer) -> str:
    a, b, similar = w.x
    w.require(not w.layer.legacy_version, "legacy_version has no counterpart")
    far = f"({a} - {b}).flatten(1).square().sum(1)"
    # a distance of 0 has no gradient, where PyTorch's square root would give one without bounds
    near = f"({number(w.layer.margin)} - {far}.clamp(min=1e-12).sqrt()).clamp(min=0).square()"
    return f"torch.where({similar}.flatten() != 0, {far}, {near}).mean() / 2"


@exports("Accuracy")
def accuracy(w: Writer) -> str:
    layer, x, axis = w.layer, w.x[0], w.axis(w.layer.axis)
    w.require(len(w.top) == 1, "the share of each class has no counterpart")
    w.require(layer.ignored is None and not layer.min_is_better, "ignored labels and least scores have no counterpart")
    own = f"{x}.gather({axis}, {_labels(w, axis)}.unsqueeze({axis}))"
    return f"(({x} >= {own}).sum({axis}) <= {layer.top_k}).float().mean()"
