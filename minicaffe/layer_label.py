"""What a picture says of a layer: its name, type, and the numbers that matter."""

from __future__ import annotations

from typing import Any

from minicaffe import proto
from minicaffe.errors import NetError

CONVOLUTIONS = ("Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution")
IN_PLACE = "#90EE90"
_COLOURS = {**dict.fromkeys(CONVOLUTIONS, "#FF5050"), "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_OTHER = "#6495ED"

_Windowed = Any  # a ConvolutionParameter or PoolingParameter


def in_phase(layer: proto.LayerParameter, phase: int) -> bool:
    """Whether a layer's rules let it be in a phase, whatever else they say.  NetError for rules of both kinds."""
    if layer.include and layer.exclude:
        raise NetError(f"layer '{layer.name}': Specify either include rules or exclude rules; not both.")
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def is_in_place(layer: proto.LayerParameter) -> bool:
    """Whether a layer overwrites its only bottom."""
    return len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]


def colour(layer: proto.LayerParameter) -> str:
    """A layer's colour: its type's, or the one of layers in place."""
    return IN_PLACE if is_in_place(layer) else _COLOURS.get(layer.type, _OTHER)


def kind(layer: proto.LayerParameter) -> str:
    """A layer's type, and what its type alone does not tell: "Pooling AVE", "Eltwise SUM"."""
    if layer.type == "Pooling":
        return f"Pooling {proto.PoolingParameter.PoolMethod.Name(layer.pooling_param.pool)}"
    if layer.type == "Eltwise":
        return f"Eltwise {proto.EltwiseParameter.EltwiseOp.Name(layer.eltwise_param.operation)}"
    return layer.type


def window(layer: proto.LayerParameter) -> dict[str, str]:
    """The window of a convolution or pooling: kernel size, stride and pad, height x width where they differ, dilation
    and group where there are any; for a global pooling only that.
    """
    if layer.type == "Pooling":
        if layer.pooling_param.global_pooling:
            return {"kernel size": "global"}
        return _sizes(layer.pooling_param)
    if layer.type not in CONVOLUTIONS:
        return {}
    options = layer.convolution_param
    result = _sizes(options)
    if any(size != 1 for size in options.dilation):
        result["dilation"] = _by(options.dilation)
    if options.group != 1:
        result["group"] = str(options.group)
    return result


def outputs(layer: proto.LayerParameter) -> int:
    """How many outputs a layer with weights is said to have; 0 for other layers."""
    if layer.type in CONVOLUTIONS:
        return layer.convolution_param.num_output
    return layer.inner_product_param.num_output if layer.type == "InnerProduct" else 0


def _sizes(options: _Windowed) -> dict[str, str]:
    return {
        "kernel size": _size(options, "kernel_size", "kernel", 1),
        "stride": _size(options, "stride", "stride", 1),
        "pad": _size(options, "pad", "pad", 0),
    }


def _size(options: _Windowed, name: str, prefix: str, default: int) -> str:
    if options.HasField(f"{prefix}_h") or options.HasField(f"{prefix}_w"):
        return _by([getattr(options, f"{prefix}_h"), getattr(options, f"{prefix}_w")])
    value = getattr(options, name)
    return str(value) if isinstance(value, int) else _by(value or [default])


def _by(sizes: Any) -> str:
    """The sizes along the axes: one number if they are equal."""
    return "x".join(map(str, sizes)) if len(set(sizes)) > 1 else str(sizes[0])
