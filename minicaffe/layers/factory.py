"""From a LayerParameter to a layer: built-in ones by their type, a user's by its module and class."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.errors import LayerError
from minicaffe.layers import python_layer
from minicaffe.layers.base import Layer, make, registry
from minicaffe.proto import forks
from minicaffe.proto.origin import Origin


def layer_types() -> list[str]:
    """Every type a prototxt can name, sorted."""
    return sorted([*registry, "Python"])


def create(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike = np.float32) -> Layer:
    """The layer that a LayerParameter describes; LayerError if nobody registered its type."""
    require_types([layer_param], source)
    if layer_param.type == "Python":
        layer = python_layer.create(layer_param, source, dtype)
    else:
        layer = make(registry[layer_param.type].dialect(layer_param), layer_param, source, dtype)
    layer.definition = source
    return layer


def require_types(layer_params: Iterable[proto.LayerParameter], source: Origin) -> None:
    """LayerError that names all types that nobody registered: where, whose they are or which is meant, what to do."""
    unknown = {param.type: param for param in layer_params if param.type not in registry and param.type != "Python"}
    if not unknown:
        return
    found = [_unknown(param, source) for param in unknown.values()]
    name = next(iter(unknown))
    shown = name if name.isidentifier() else "MyLayer"
    raise LayerError(
        "\n".join(found) + f"\n(known types: {', '.join(layer_types())})\n"
        "To add a type, have Python run this before it makes the net; docs/writing-a-layer.md has a whole example:\n"
        f"    class {shown}(minicaffe.Layer):\n"
        f'        type = "{name}"\n'
        "        def reshape(self, bottom, top): ...  # give the tops their shapes\n"
        "        def forward(self, bottom, top): ...  # compute top[0].data from bottom[0].data\n"
        "        def backward(self, top, propagate_down, bottom): ...  # and bottom[0].diff from top[0].diff"
    )


def _unknown(layer_param: proto.LayerParameter, source: Origin) -> str:
    name = layer_param.type
    place = source.where(layer_param.name, layer_param.phase, "type")
    if fork := forks.origin_of_type(name):
        hint = f"; it is of a fork of Caffe{fork}"
    else:
        known = {type.lower(): type for type in layer_types()}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {known[near[0]]!r}?" if near else ""
    return f"{place + ': ' if place else ''}layer '{layer_param.name}': Unknown layer type: {name}{hint}"
