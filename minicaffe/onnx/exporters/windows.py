"""Layers that slide windows over images: convolutions, Im2col, Pooling, SPP."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.window import Window
from minicaffe.layers.base import TRAIN
from minicaffe.layers.pooling import AxesPooling, Pooling
from minicaffe.onnx.sizes import Shape, Size
from minicaffe.onnx.writer import Writer, exports, host

_LOWEST = float(np.finfo(np.float32).min)


def _images(w: Writer, shape: Shape) -> list[Size | int]:
    """A shape with one axis before the channels, and at least one after them."""
    axis = w.layer.channel_axis
    return [shape.span(0, axis), shape[axis], *(shape[axis + 1 :] or (1,))]


def _end_pads(window: Window, sizes: Sequence[int], out: Sequence[int]) -> list[int]:
    """The padding behind the image that the last of ``out`` positions along each axis needs."""
    return [
        (count - 1) * s + e - size - p
        for count, s, e, size, p in zip(out, window.stride, window.extent, sizes, window.pad, strict=True)
    ]


def _window(window: Window) -> dict[str, list[int]]:
    return {"kernel_shape": list(window.kernel), "strides": list(window.stride)}


def _spatial(w: Writer, shape: Shape) -> tuple[int, ...]:
    return Shape(shape[w.layer.channel_axis + 1 :]).numbers or (1,)


def _over_bottom(w: Writer) -> dict[str, list[int]]:
    """How the window moves over bottom 0, to the positions of top 0.

    Positions that Caffe's rounding adds read zeros beyond the pad, which are added to it behind.
    """
    window, sizes, out = w.layer.moved, _spatial(w, w.bottom[0]), _spatial(w, w.top[0])
    given = w.layer.window.stride or (1,)
    beyond = [size + 2 * pad + 1 for size, pad in zip(sizes, window.pad, strict=True)]
    window = window._replace(stride=tuple(map(min, given, beyond)))  # a single position keeps its stride, too
    ends = map(max, window.pad, _end_pads(window, sizes, out))
    return {**_window(window), "dilations": list(window.dilation), "pads": [*window.pad, *ends]}


@exports("Convolution", "Convolution3D", "ConvolutionDepthwise", "DepthwiseConvolution")
def convolution(w: Writer) -> list[str]:
    return _convolved(w, "Conv", _over_bottom(w))


@exports("Deconvolution", "Deconvolution3D")
def deconvolution(w: Writer) -> list[str]:
    window = w.layer.moved
    how = {**_window(window), "dilations": list(window.dilation), "pads": [*window.pad] * 2}
    return _convolved(w, "ConvTranspose", how)


def _convolved(w: Writer, kind: str, how: dict[str, list[int]]) -> list[str]:
    filters = w.param(0, (*w.params[0].shape[:2], *(w.layer.window.kernel or (1,))))
    params = [filters, *([w.param(1)] if w.layer.bias_term else [])]
    tops = []
    for x, bottom, top in zip(w.x, w.bottom, w.top, strict=True):
        images = w.reshape(x, _images(w, bottom), bottom)
        tops.append(w.reshape(w.op(kind, images, *params, group=w.layer.group, **how), top, _images(w, top)))
    return tops


@exports("Im2col")
def im2col(w: Writer) -> str:
    """A convolution of each channel with filters that are 1 at one tap each."""
    layer, window = w.layer, w.layer.moved
    taps = np.eye(window.taps, dtype=np.float32).reshape(window.taps, 1, *window.kernel)
    filters = w.floats(np.tile(taps, (layer.in_channels, *(1,) * (taps.ndim - 1))), "taps")
    images = w.reshape(w.x[0], _images(w, w.bottom[0]), w.bottom[0])
    columns = w.op("Conv", images, filters, group=layer.in_channels, **_over_bottom(w))
    return w.reshape(columns, w.top[0], _images(w, w.top[0]))


@exports("Pooling")
def pooling(w: Writer) -> list[str]:
    layer, out = w.layer, Shape(w.top[0][2:]).numbers
    if layer.pool == Pooling.STOCHASTIC and layer.phase == TRAIN:
        raise w.refuse("in TRAIN phase STOCHASTIC pooling draws random numbers; export the TEST phase")
    if layer.global_pooling and len(w.top) == 1 and layer.pool != Pooling.STOCHASTIC:
        return [w.op("GlobalMaxPool" if layer.pool == Pooling.MAX else "GlobalAveragePool", w.x[0])]
    return _pooled(w, layer, out, len(w.top))


def _pooled(w: Writer, layer: Pooling, out: Sequence[int], tops: int = 1) -> list[str]:
    """The tops of a Pooling layer on bottom 0, ``out`` positions along each axis."""
    x, sizes, window = w.x[0], Shape(w.bottom[0][2:]).numbers, layer.window
    if isinstance(layer, AxesPooling) and not layer.plain and layer.pool == Pooling.AVE:
        return [_average_of_taps(w, window, _ends(window, sizes, out))]
    if layer.pool == Pooling.MAX:
        return _maximum(w, x, window, sizes, out, tops)
    ends = _ends(window, sizes, out)
    if layer.pool == Pooling.AVE:
        return [_average(w, x, window, ends, _areas(window, sizes, out))]
    total = _average(w, x, window, ends, None)
    squares = _average(w, w.mul(x, x), window, ends, None)
    nothing = w.number(0)
    return [w.where(w.op("Greater", total, nothing), w.div(squares, total), nothing)]


def _ends(window: Window, sizes: Sequence[int], out: Sequence[int]) -> list[int]:
    return [max(end, 0) for end in _end_pads(window, sizes, out)]


def _average_of_taps(w: Writer, window: Window, ends: Sequence[int]) -> str:
    """The mean of pixels that are apart, over any number of axes: opset 18 has it as a convolution only."""
    channels = w.bottom[0][1].number
    taps = w.floats(np.ones((channels, 1, *window.kernel)), "taps")
    how = {**_window(window), "dilations": list(window.dilation), "pads": [*window.pad, *ends]}
    return w.div(w.op("Conv", w.x[0], taps, group=channels, **how), w.floats(host(w.layer.areas), "areas"))


@exports("Pooling3D")
def pooling_over_time(w: Writer) -> str:
    """Each image is pooled, then what comes of them over time."""
    layer, (num, channels, *_) = w.layer, w.bottom[0]
    length, *image = Shape(w.bottom[0][2:]).numbers
    steps, *pooled = Shape(w.top[0][2:]).numbers
    images = w.reshape(w.x[0], [num, channels * length, *image])
    middle = _pooled_images(w, images, layer.window, image, pooled)
    columns = w.reshape(middle, [num, channels, length, math.prod(pooled)])
    return w.like_top(_pooled_images(w, columns, layer.time, (length, math.prod(pooled)), (steps, math.prod(pooled))))


def _pooled_images(w: Writer, x: str, window: Window, sizes: Sequence[int], out: Sequence[int]) -> str:
    if w.layer.pool == Pooling.MAX:
        return _maximum(w, x, window, sizes, out, 1)[0]
    return _average(w, x, window, _ends(window, sizes, out), _areas(window, sizes, out))


def _padded(w: Writer, x: str, window: Window, ends: Sequence[int], value: float) -> tuple[str, list[int]]:
    """What to pool, and the pads to pool it with: runtimes take none as wide as the kernel."""
    pads = [*window.pad, *ends]
    if all(end < extent for end, extent in zip(ends, window.extent, strict=True)):
        return x, pads
    return w.op("Pad", x, w.ints([0, 0, *window.pad, 0, 0, *ends]), w.number(value)), [0] * len(pads)


def _maximum(w: Writer, x: str, window: Window, sizes: Sequence[int], out: Sequence[int], tops: int) -> list[str]:
    padded, pads = _padded(w, x, window, _ends(window, sizes, out), _LOWEST)
    how = {**_window(window), "dilations": list(window.dilation), "pads": pads}
    if tops == 1:
        return [w.op("MaxPool", padded, **how)]
    if padded != x:
        raise w.refuse("a window lies beyond the image, and has no place for the mask")
    y, places = w.ops("MaxPool", 2, x, **how)
    return [y, w.as_float(w.op("Mod", places, w.ints(math.prod(sizes))))]


def _average(w: Writer, x: str, window: Window, ends: Sequence[int], areas: NDArray | None) -> str:
    """The mean of each window, zeros included; over ``areas``, where they are given, in place of the whole window."""
    own_area = float(math.prod(window.kernel))
    x, pads = _padded(w, x, window, ends, 0)
    clips = areas is not None and not (areas == own_area).all()
    if clips and not any(window.pad) and any(pads):  # the part inside the image is what the operator divides by
        return w.op("AveragePool", x, pads=pads, count_include_pad=0, **_window(window))
    y = w.op("AveragePool", x, pads=pads, count_include_pad=1, **_window(window))
    if areas is None or not clips:
        return y
    with np.errstate(divide="ignore"):
        return w.mul(y, w.floats(own_area / areas, "areas"))


def _areas(window: Window, sizes: Sequence[int], out: Sequence[int]) -> NDArray:
    """What Caffe divides by: the window clipped to the image and its pads, at each position."""
    along = []
    for size, count, kernel, stride, pad in zip(sizes, out, window.kernel, window.stride, window.pad, strict=True):
        start = np.arange(count) * stride - pad
        along.append(np.minimum(start + kernel, size + pad) - start)
    return np.maximum(along[0], 0)[:, None] * np.maximum(along[1], 0.0)[None]


@exports("SPP")
def spatial_pyramid(w: Writer) -> str:
    num = w.bottom[0][0]
    parts = []
    for layer, pooled in w.layer.levels:
        y = _pooled(w, layer, pooled.shape[2:])[0]
        parts.append(y if len(w.layer.levels) == 1 else w.reshape(y, [num, pooled.span(1)]))
    return parts[0] if len(parts) == 1 else w.op("Concat", *parts, axis=1)
