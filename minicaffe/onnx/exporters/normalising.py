"""Layers that divide by a measure of their surroundings: LRN, BatchNorm, BN, MVN, Normalize, ChannelNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicaffe.layers.bn import HappynearBN, SegNetBN
from minicaffe.layers.normalisation import LRN
from minicaffe.onnx.writer import Writer, exports


@exports("LRN")
def lrn(w: Writer) -> str:
    layer, size = w.layer, w.layer.local_size
    if layer.norm_region == LRN.ACROSS_CHANNELS:
        return w.op("LRN", w.x[0], alpha=layer.alpha, beta=layer.beta, bias=layer.k, size=size)
    window = {"kernel_shape": [size] * 2, "pads": [size // 2] * 4, "strides": [1, 1]}
    mean = w.op("AveragePool", w.mul(w.x[0], w.x[0]), count_include_pad=1, **window)
    s = w.shifted(w.scaled(mean, layer.alpha), 1)
    return w.mul(w.x[0], w.op("Pow", s, w.number(-layer.beta)))


def centred(w: Writer, x: str, axes: Sequence[int]) -> tuple[str, str]:
    """x less its mean over these axes, and the mean."""
    mean = w.reduced("ReduceMean", x, axes, keep=True)
    return w.sub(x, mean), mean


def variance(w: Writer, gap: str, axes: Sequence[int]) -> str:
    """The mean of squares over these axes."""
    return w.reduced("ReduceMean", w.mul(gap, gap), axes, keep=True)


def _standard(w: Writer, eps: float) -> tuple[str, str, str]:
    """x less the batch's mean, over its deviation, for each channel; mean and variance."""
    axes = [0, *range(2, len(w.bottom[0]))]
    gap, mean = centred(w, w.x[0], axes)
    spread = variance(w, gap, axes)
    return w.div(gap, w.op("Sqrt", w.shifted(spread, eps))), mean, spread


def _by_channel(w: Writer, j: int) -> str:
    """Learnable blob ``j``, which holds one value a channel, so that it meets the channels."""
    return w.param(j, (w.layer.channels, *(1,) * (len(w.bottom[0]) - 2)))


@exports("BatchNorm")
def batch_norm(w: Writer) -> str:
    layer = w.layer
    if layer.use_global_stats:
        total = float(w.params[2].reshape(()))
        mean, spread = (w.params[j].reshape(-1) * (0 if total == 0 else 1 / np.float32(total)) for j in (0, 1))
        ones = np.ones(layer.channels)
        scale, bias = (w.param(j, (-1,)) for j in (3, 4)) if layer.scales else (w.floats(ones), w.floats(0 * ones))
        statistics = w.floats(mean, "mean"), w.floats(spread, "variance")
        return w.op("BatchNormalization", w.x[0], scale, bias, *statistics, epsilon=layer.eps)
    y = _standard(w, layer.eps)[0]
    return w.add(w.mul(y, _by_channel(w, 3)), _by_channel(w, 4)) if layer.scales else y


@exports("BN")
def bn(w: Writer) -> list[str]:
    layer = w.layer
    if layer.measured:
        y, *statistics = _standard(w, layer.eps)
        shape = [1, layer.channels, 1, 1]
        others = [w.reshape(values, shape) for values in statistics[: len(w.top) - 1]]
        return [w.add(w.mul(y, _by_channel(w, 0)), _by_channel(w, 1)), *others]
    if isinstance(layer, SegNetBN):
        return [w.add(w.mul(w.x[0], _by_channel(w, 0)), _by_channel(w, 1))]
    if isinstance(layer, HappynearBN):
        scale, shift, mean, factor = (_by_channel(w, j) for j in range(4))
        return [w.add(w.mul(w.mul(w.sub(w.x[0], mean), factor), scale), shift)]
    flat = [w.param(j, (layer.channels,)) for j in range(4)]
    return [w.op("BatchNormalization", w.x[0], *flat, epsilon=layer.eps)]


@exports("MVN")
def mvn(w: Writer) -> str:
    layer, axes = w.layer, len(w.bottom[0])
    over = range(1 if layer.across_channels else 2, axes)
    if not over:
        raise w.refuse("its groups hold one value each")
    gap, _ = centred(w, w.x[0], over)
    y = gap
    if layer.normalize_variance:
        y = w.div(gap, w.shifted(w.op("Sqrt", variance(w, gap, over)), layer.eps))
    return w.like_top(y, w.bottom[0])


@exports("Normalize")
def normalize(w: Writer) -> list[str]:
    layer = w.layer
    if layer.by_position:
        if layer.power == 1:
            norm = w.shifted(w.reduced("ReduceL1", w.x[0], [1], keep=True), 1e-6)
        else:
            norm = w.op("Sqrt", w.shifted(w.reduced("ReduceSumSquare", w.x[0], [1], keep=True), 1e-6))
        tops = [w.div(w.x[0], norm), norm]
        return [w.like_top(y, of, k) for k, (y, of) in enumerate(zip(tops[: len(w.top)], _as_given(w), strict=False))]
    over = range(1, len(w.bottom[0])) if layer.across_spatial else [1]
    norm = w.op("Sqrt", w.shifted(w.reduced("ReduceSumSquare", w.x[0], over, keep=True), layer.eps))
    shape = (w.params[0].size, *(1,) * (len(w.bottom[0]) - 2))
    return [w.mul(w.div(w.x[0], norm), w.param(0, shape))]


def _as_given(w: Writer) -> list:
    """Shapes of the quotient and of the norm before missing axes are added."""
    x = w.bottom[0]
    return [x, [x[0], 1, *x[2:]]]


@exports("ChannelNorm")
def channel_norm(w: Writer) -> str:
    return w.reduced("ReduceL2", w.x[0], [1], keep=True)
