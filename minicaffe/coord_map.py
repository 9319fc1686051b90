"""pycaffe's ``caffe.coord_map``: how the pixels of one blob of a ``net_spec`` lie over those of another, to crop it so
that they match.

A coordinate map is (axis, scale, shift): the first spatial axis that it holds for, None for any, and for each spatial
axis the numbers a, b of the line x -> a x + b.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicaffe import arguments, net_spec
from minicaffe.errors import NetError
from minicaffe.net_spec import Function, Top

CoordMap = tuple[int | None, Any, Any]

PASS_THROUGH_LAYERS = [
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN", "Power", "ReLU",
    "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold",
]  # fmt: skip
"""Types whose tops lie over their bottoms pixel by pixel."""

_BY_PIXEL = frozenset(
    {
        *PASS_THROUGH_LAYERS,
        *("Axpy", "BN", "Clip", "Concat", "HardSigmoid", "Mish", "Normalize", "ReLU6", "Slice", "Softmax", "Swish"),
    }
)
"""The same, and those that pycaffe does not know."""
_WINDOWED = ("Convolution", "Pooling", "Im2col", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution")
_IDENTITY: CoordMap = (None, 1, 0)
_EXACT = 1e-9
"""Further from a whole number than by this, none is meant: strides and their inverses do not multiply to 1 exactly."""


class UndefinedMapException(NetError):
    """The pixels of a layer's top do not lie over those of its bottom."""


class AxisMismatchException(NetError):
    """Two maps hold for different axes."""


class CropError(NetError, AssertionError):
    """A blob cannot be cropped to match another."""


def conv_params(fn: Function) -> tuple[int, Any, Any, Any]:
    """Axis, stride, extent of the kernel and pad of a layer with windows, each but the axis as an array."""
    params = fn.params.get("pooling_param" if fn.type_name == "Pooling" else "convolution_param", fn.params)
    separate = {f"{name}_{side}" for name in ("kernel", "stride", "pad") for side in "hw"} & set(params)
    if separate:
        raise CropError(
            f"a {fn.type_name} layer gives {', '.join(sorted(separate))}: cropping does not support legacy _h/_w "
            "params; give kernel_size=[h, w] and so on"
        )
    if "kernel_size" not in params:
        raise CropError(f"a {fn.type_name} layer without kernel_size: where its windows lie is not known")
    extent = (np.array(params["kernel_size"], ndmin=1) - 1) * np.array(params.get("dilation", 1), ndmin=1) + 1
    stride, pad = (np.array(params.get(name, default), ndmin=1) for name, default in (("stride", 1), ("pad", 0)))
    return params.get("axis", 1), stride, extent, pad


def crop_params(fn: Function) -> tuple[int, Any]:
    """Axis and offset, an array, of a Crop layer."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """From a pixel of a layer's bottom to one of its top; UndefinedMapException for types that have no such map."""
    if fn.type_name in _WINDOWED:
        axis, stride, extent, pad = conv_params(fn)
        if fn.type_name == "Deconvolution":
            return axis, stride, (extent - 1) / 2 - pad
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name in _BY_PIXEL:
        return _IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # Crop counts the axis of the channels, too
    raise UndefinedMapException(f"the tops of a {fn.type_name} layer have no pixels that lie over those of its bottoms")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """``next_map``, then ``base_map``; AxisMismatchException if they hold for different axes."""
    (axis1, a1, b1), (axis2, a2, b2) = base_map, next_map
    if None not in (axis1, axis2) and axis1 != axis2:
        raise AxisMismatchException(f"a map of the axes from {axis1} on cannot follow one of those from {axis2} on")
    return axis2 if axis1 is None else axis1, a1 * a2, a1 * b2 + b1


def inverse(coord_map: CoordMap) -> CoordMap:
    """The way back."""
    axis, a, b = coord_map
    return axis, 1 / a, -b / a


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """From a pixel of one top to one of the other, by way of a blob that both come from.

    NetError (a RuntimeError) if there is none, or some layer between has no map.
    """
    for top in (top_from, top_to):
        arguments.instance(top, Top, "a map between tops", "two tops of a NetSpec's layers")
    from_maps = dict(_ways_back(top_from))
    for top, to_map in _ways_back(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise NetError("Could not compute map between tops; are they connected by spatial layers?")


def _ways_back(top: Top) -> Any:
    """The tops that this one comes from through layers with a map, itself first, and the maps from them to it."""
    maps = {top: _IDENTITY}
    waiting = [top]
    for current in waiting:
        yield current, maps[current]
        inputs = current.fn.inputs
        if not inputs:
            continue
        try:
            step = coord_map(current.fn)
        except UndefinedMapException:
            continue
        for bottom in inputs[:1] if current.fn.type_name == "Crop" else inputs:
            if bottom not in maps:
                maps[bottom] = compose(maps[current], step)
                waiting.append(bottom)


def crop_offsets(top_from: Top, top_to: Top) -> tuple[int, list[int]]:
    """Axis and offsets of a Crop layer on ``top_from`` whose top lies over ``top_to`` pixel by pixel.

    CropError (an AssertionError) if the scales differ, or ``top_from`` begins inside ``top_to``, or between pixels.
    """
    axis, a, b = coord_map_from_to(top_from, top_to)
    if not np.all(np.abs(np.subtract(a, 1)) < _EXACT):
        raise CropError(f"scale mismatch on crop (a = {a}): strides and those of deconvolutions do not cancel out")
    if not np.all(np.less(b, _EXACT)):
        raise CropError(f"cannot crop negative width (b = {b}): pad the layers before more")
    if not np.all(np.abs(np.round(b) - b) < _EXACT):
        raise CropError(f"cannot crop noninteger width (b = {b})")
    return 2 if axis is None else axis + 1, [round(-shift) for shift in np.atleast_1d(b).tolist()]


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer on ``top_from`` whose top lies over ``top_to`` pixel by pixel; errors as of ``crop_offsets``."""
    axis, offsets = crop_offsets(top_from, top_to)
    return net_spec.layers.Crop(top_from, top_to, crop_param=dict(axis=axis, offset=offsets))
