"""Caffe's layers in PyTorch's words: what a PyTorch user would write for each of them.

A function takes the bottoms, the params and the layer's options, and returns the tops.  ``COUNTERPARTS`` reads the
options off a minicaffe layer, so no net needs PyTorch code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from minicaffe import TRAIN, compat

torch = compat.require("torch")
F = torch.nn.functional
Tensors = Sequence[Any]


def convolution(bottoms: Tensors, params: Tensors, **options: Any) -> Tensors:
    return [F.conv2d(x, *params, **options) for x in bottoms]


def inner_product(bottoms: Tensors, params: Tensors, axis: int, transpose: bool) -> Tensors:
    w, *bias = params
    return [F.linear(bottoms[0].flatten(axis), w.t() if transpose else w, *bias)]


def max_pooling(bottoms: Tensors, params: Tensors, **options: Any) -> Tensors:
    return [F.max_pool2d(bottoms[0], **options)]


def average_pooling(bottoms: Tensors, params: Tensors, **options: Any) -> Tensors:
    return [F.avg_pool2d(bottoms[0], **options)]


def lrn_across(bottoms: Tensors, params: Tensors, size: int, alpha: float, beta: float, k: float) -> Tensors:
    return [F.local_response_norm(bottoms[0], size, alpha, beta, k)]


def lrn_within(bottoms: Tensors, params: Tensors, size: int, alpha: float, beta: float) -> Tensors:
    x = bottoms[0]
    return [x * (1 + alpha * F.avg_pool2d(x * x, size, 1, size // 2)) ** -beta]


def batch_norm(bottoms: Tensors, params: Tensors, training: bool, momentum: float, eps: float) -> Tensors:
    mean, variance, factor = params
    if not training:  # Caffe keeps sums and the factor that they are to be divided by
        mean, variance = mean / factor, variance / factor
    return [F.batch_norm(bottoms[0], mean, variance, None, None, training, momentum, eps)]


def scale(bottoms: Tensors, params: Tensors, axis: int) -> Tensors:
    x = bottoms[0]
    w, *bias = (p.view(*p.shape, *[1] * (x.dim() - axis - p.dim())) for p in params)
    return [torch.addcmul(bias[0], x, w) if bias else x * w]


def relu(bottoms: Tensors, params: Tensors, slope: float, inplace: bool) -> Tensors:
    return [F.leaky_relu(bottoms[0], slope, inplace) if slope else F.relu(bottoms[0], inplace)]


def sigmoid(bottoms: Tensors, params: Tensors) -> Tensors:
    return [torch.sigmoid(bottoms[0])]


def tanh(bottoms: Tensors, params: Tensors) -> Tensors:
    return [torch.tanh(bottoms[0])]


def dropout(bottoms: Tensors, params: Tensors, ratio: float, training: bool) -> Tensors:
    return [F.dropout(bottoms[0], ratio, training)]  # not in place: the ReLU before it needs its output


def concat(bottoms: Tensors, params: Tensors, axis: int) -> Tensors:
    return [torch.cat(list(bottoms), axis)]


def slice_(bottoms: Tensors, params: Tensors, axis: int, where: int | list[int]) -> Tensors:
    return bottoms[0].tensor_split(where, axis)


def split(bottoms: Tensors, params: Tensors, tops: int) -> Tensors:
    return [bottoms[0]] * tops


def flatten(bottoms: Tensors, params: Tensors, axis: int, end_axis: int) -> Tensors:
    return [bottoms[0].flatten(axis, end_axis)]


def product(bottoms: Tensors, params: Tensors) -> Tensors:
    first, *others = bottoms
    for x in others:
        first = first * x
    return [first]


def maximum(bottoms: Tensors, params: Tensors) -> Tensors:
    first, *others = bottoms
    for x in others:
        first = torch.maximum(first, x)
    return [first]


def total(bottoms: Tensors, params: Tensors, coefficients: list[float]) -> Tensors:
    result = bottoms[0] if coefficients[0] == 1 else coefficients[0] * bottoms[0]
    for c, x in zip(coefficients[1:], bottoms[1:]):
        result = torch.add(result, x, alpha=c)
    return [result]


def softmax(bottoms: Tensors, params: Tensors, axis: int) -> Tensors:
    return [F.softmax(bottoms[0], axis)]


def softmax_loss(bottoms: Tensors, params: Tensors) -> Tensors:
    scores, labels = bottoms
    return [F.cross_entropy(scores, labels.long().reshape(scores.shape[0], *scores.shape[2:]))]


def euclidean_loss(bottoms: Tensors, params: Tensors) -> Tensors:
    a, b = bottoms
    return [F.mse_loss(a, b, reduction="sum") / (2 * len(a))]


def contrastive_loss(bottoms: Tensors, params: Tensors, margin: float) -> Tensors:
    a, b, similar = bottoms
    squared = (a - b).square().sum(1)
    apart = (margin - squared.sqrt()).clamp(min=0).square()
    return [torch.where(similar != 0, squared, apart).sum() / (2 * len(a))]


def _pooling(layer: Any) -> Callable[..., Tensors]:
    function = {layer.MAX: max_pooling, layer.AVE: average_pooling}[layer.pool]
    kernel, stride, pad, _ = layer.window
    return partial(function, kernel_size=kernel, stride=stride, padding=pad, ceil_mode=layer.round_mode == layer.CEIL)


def _lrn(layer: Any) -> Callable[..., Tensors]:
    p = layer.layer_param.lrn_param
    if p.norm_region == p.WITHIN_CHANNEL:
        return partial(lrn_within, size=p.local_size, alpha=p.alpha, beta=p.beta)
    return partial(lrn_across, size=p.local_size, alpha=p.alpha, beta=p.beta, k=p.k)


def _batch_norm(layer: Any) -> Callable[..., Tensors]:
    p = layer.layer_param.batch_norm_param
    testing = p.use_global_stats if p.HasField("use_global_stats") else layer.phase != TRAIN
    return partial(batch_norm, training=not testing, momentum=1 - p.moving_average_fraction, eps=p.eps)


def _eltwise(layer: Any) -> Callable[..., Tensors]:
    p = layer.layer_param.eltwise_param
    coefficients = list(p.coeff) or [1.0] * len(layer.layer_param.bottom)
    counterparts: dict[int, Callable[..., Tensors]] = {
        p.PROD: product,
        p.SUM: partial(total, coefficients=coefficients),
        p.MAX: maximum,
    }
    return counterparts[p.operation]


def _slice(layer: Any) -> Callable[..., Tensors]:
    return partial(slice_, axis=layer.along, where=list(layer.slice_point) or len(layer.layer_param.top))


def _in_place(layer: Any) -> bool:
    return layer.layer_param.bottom[0] == layer.layer_param.top[0]


COUNTERPARTS: dict[str, Callable[[Any], Callable[..., Tensors]]] = {
    "BatchNorm": _batch_norm,
    "Concat": lambda layer: partial(concat, axis=layer.along),
    "ContrastiveLoss": lambda layer: partial(contrastive_loss, margin=layer.margin),
    "Convolution": lambda layer: partial(
        convolution,
        stride=layer.window.stride,
        padding=layer.window.pad,
        dilation=layer.window.dilation,
        groups=layer.group,
    ),
    "Dropout": lambda layer: partial(dropout, ratio=layer.dropout_ratio, training=layer.phase == TRAIN),
    "Eltwise": _eltwise,
    "EuclideanLoss": lambda layer: euclidean_loss,
    "Flatten": lambda layer: partial(flatten, axis=layer.axis, end_axis=layer.end_axis),
    "InnerProduct": lambda layer: partial(inner_product, axis=layer.axis, transpose=layer.transpose),
    "LRN": _lrn,
    "Pooling": _pooling,
    "ReLU": lambda layer: partial(relu, slope=layer.negative_slope, inplace=_in_place(layer)),
    "Scale": lambda layer: partial(scale, axis=layer.axis),
    "Sigmoid": lambda layer: sigmoid,
    "Slice": _slice,
    "Softmax": lambda layer: partial(softmax, axis=layer.axis),
    "SoftmaxWithLoss": lambda layer: softmax_loss,
    "Split": lambda layer: partial(split, tops=len(layer.layer_param.top)),
    "TanH": lambda layer: tanh,
}
"""From a minicaffe layer of each type to its function, the layer's options bound to it."""
