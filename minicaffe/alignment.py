"""Where AutoCrop layers cut, which follows from the strides and pads of all layers between their bottoms."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from minicaffe import coord_map, proto
from minicaffe.errors import NetError
from minicaffe.net_spec import Function, Top
from minicaffe.proto.origin import Origin

_log = logging.getLogger(__name__)

_AUTOMATIC, _PLAIN = "AutoCrop", "Crop"


def align_crops(net: proto.NetParameter, source: Origin) -> proto.NetParameter:
    """The net with a ``crop_param`` in each AutoCrop layer that has none: its first bottom is cut where it lies over
    the second one, pixel by pixel.

    NetError if that is nowhere: other strides, or a first bottom that begins inside the second one, or between pixels.
    Warns of Crop layers without a ``crop_param`` that AutoCrop would cut elsewhere.
    """
    if not any(_wants_offsets(layer) for layer in net.layer):
        return net
    result = proto.NetParameter()
    result.CopyFrom(net)
    tops: dict[str, Top] = {}
    for layer in result.layer:
        bottoms = [tops[name] for name in layer.bottom if name in tops]
        if _wants_offsets(layer) and len(bottoms) == 2:
            _set_offsets(layer, bottoms[0], bottoms[1], source)
        type = _PLAIN if layer.type == _AUTOMATIC else layer.type
        function = Function(type, bottoms, {**_options(layer), "ntop": len(layer.top)})
        tops.update(zip(layer.top, function.tops, strict=True))
    return result


def _wants_offsets(layer: proto.LayerParameter) -> bool:
    return layer.type in (_AUTOMATIC, _PLAIN) and not layer.HasField("crop_param")


def _set_offsets(layer: proto.LayerParameter, x: Top, like: Top, source: Origin) -> None:
    try:
        with np.errstate(all="ignore"):  # strides of 0
            axis, offsets = coord_map.crop_offsets(x, like)
    except (NetError, ValueError, OverflowError) as error:  # kernels of 2 and of 3 axes do not go together
        if layer.type == _PLAIN:
            return
        place = source.where(layer.name, layer.phase if layer.HasField("phase") else None)
        raise NetError(
            f"{place + ': ' if place else ''}layer '{layer.name}' ({layer.type}): {error}; or give its crop_param"
        ) from None
    if layer.type == _AUTOMATIC:
        layer.crop_param.axis = axis
        layer.crop_param.offset.extend(offsets)
    elif any(offsets):
        _log.warning(
            "layer '%s' (Crop) has no crop_param and cuts from 0 on, as Caffe's does; older forks (FCN, HED, U-Net) "
            'let it begin at %s, over \'%s\': for that say type: "AutoCrop"',
            layer.name, ", ".join(map(str, offsets)), layer.bottom[1],
        )  # fmt: skip


def _options(layer: proto.LayerParameter) -> dict[str, Any]:
    """What decides where a layer's pixels lie, as ``net_spec`` has it."""
    options: dict[str, Any] = {}
    for name in ("convolution_param", "pooling_param", "crop_param"):
        if layer.HasField(name):
            options[name] = {
                field.name: list(value) if hasattr(value, "extend") else value
                for field, value in getattr(layer, name).ListFields()
            }
            if "hole" in options[name]:  # DeepLab's name
                options[name].setdefault("dilation", options[name]["hole"])
    return options
