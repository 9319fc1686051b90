"""From a LayerParameter to a layer: built-in ones by their type, a user's by its module and class."""

from __future__ import annotations

import difflib

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.errors import LayerError
from minicaffe.layers import python_layer
from minicaffe.layers.base import Layer, make, registry
from minicaffe.proto.origin import Origin


def layer_types() -> list[str]:
    """Every type a prototxt can name, sorted."""
    return sorted([*registry, "Python"])


def create(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike = np.float32) -> Layer:
    """The layer that a LayerParameter describes; LayerError naming the nearest known type if there is none."""
    name = layer_param.type
    if name == "Python":
        layer = python_layer.create(layer_param, source, dtype)
    elif name in registry:
        layer = make(registry[name], layer_param, source, dtype)
    else:
        place = source.where(layer_param.name, layer_param.phase, "type")
        known = {type.lower(): type for type in layer_types()}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = (
            f"; did you mean {known[near[0]]!r}?" if near else "; to add it, derive from minicaffe.Layer and set type"
        )
        raise LayerError(
            f"{place + ': ' if place else ''}layer '{layer_param.name}': Unknown layer type: {name}{hint} "
            f"(known types: {', '.join(layer_types())})"
        )
    layer.definition = source
    return layer
