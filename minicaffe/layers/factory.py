"""From a LayerParameter to a layer: built-in ones by their type, a user's by its module and class."""

from __future__ import annotations

import difflib
import importlib

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.errors import LayerError
from minicaffe.layers.base import Layer, registry
from minicaffe.proto.origin import Origin


def layer_types() -> list[str]:
    """Every type a prototxt can name, sorted."""
    return sorted([*registry, "Python"])


def create(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike = np.float32) -> Layer:
    """The layer that a LayerParameter describes; LayerError naming the nearest known type if there is none."""
    name = layer_param.type
    if name == "Python":
        layer = _create_python(layer_param, source, dtype)
    elif name in registry:
        layer = registry[name](layer_param, dtype)
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


def _create_python(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike) -> Layer:
    """The layer of ``type: "Python"``: an instance of class ``python_param.layer`` of module ``python_param.module``.

    Caffe: ``param_str`` and ``phase`` are set before ``setup``.  Errors inside the user's module reach the caller as
    they are; a module or class that does not exist is a LayerError.
    """
    options = layer_param.python_param
    place = source.where(layer_param.name, layer_param.phase, "python_param")
    prefix = f"{place + ': ' if place else ''}layer '{layer_param.name}' (Python)"
    try:
        module = importlib.import_module(options.module)
    except ModuleNotFoundError as error:
        if error.name != options.module:
            raise
        raise LayerError(
            f"{prefix}, python_param.module: no module named {options.module!r}; put its folder on PYTHONPATH"
        ) from error
    cls = getattr(module, options.layer, None)
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        found = "nothing of that name" if cls is None else f"{cls!r}"
        raise LayerError(
            f"{prefix}, python_param.layer: module {options.module!r} must define a class {options.layer!r} derived from "
            f"minicaffe.Layer; found {found}"
        )
    layer = cls(layer_param, dtype)
    layer.param_str = options.param_str
    return layer
