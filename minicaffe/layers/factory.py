"""From a LayerParameter to a layer: built-in ones by their type, a user's by its module and class."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.errors import LayerError
from minicaffe.layers.base import Layer, registry
from minicaffe.proto.origin import Origin


def layer_types() -> list[str]:
    """Every type a prototxt can name, sorted."""
    return sorted([*registry, "Python"])


_python_layers_allowed = True


def allow_python_layers(allowed: bool) -> bool:
    """Say whether nets may have layers of ``type: "Python"``, which run code that a definition names; what was so before.

    A net that has one is then a LayerError, and nothing is imported.  For definitions from strangers; it holds for the
    whole process.
    """
    global _python_layers_allowed
    before, _python_layers_allowed = _python_layers_allowed, bool(allowed)
    return before


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


_PYTHON_2 = {"cPickle", "cStringIO", "ConfigParser", "HTMLParser", "Queue", "StringIO", "__builtin__", "urllib2"}
_MEANING = {"module": "name of the module that has the layer", "layer": "name of the class"}


def _import(name: str, prefix: str) -> ModuleType:
    """The module of a Python layer; LayerError if it, or its package, is not there or is no Python 3."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            python2 = ", a module of Python 2; convert it (2to3 or futurize)" if error.name in _PYTHON_2 else ""
            raise LayerError(
                f"{prefix}, python_param.module: {name!r} imports {error.name!r}, which is not installed{python2}"
            ) from error
        raise LayerError(
            f"{prefix}, python_param.module: no module named {error.name!r}; put its folder on PYTHONPATH"
        ) from error
    except (TypeError, ValueError) as error:  # a relative name, a null byte
        raise LayerError(f"{prefix}, python_param.module: {name!r} is no module's name ({error})") from error
    except SyntaxError as error:
        raise LayerError(
            f"{prefix}, python_param.module: {error.filename}:{error.lineno}: {error.msg}; the module must be Python 3 "
            "(2to3 or futurize convert from Python 2)"
        ) from error


def _create_python(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike) -> Layer:
    """The layer of ``type: "Python"``: an instance of class ``python_param.layer`` of module ``python_param.module``.

    Caffe: ``param_str`` and ``phase`` are set before ``setup``.  Errors inside the user's module reach the caller as
    they are; a module or class that does not exist, or is of Python 2, is a LayerError.
    """
    options = layer_param.python_param
    place = source.where(layer_param.name, layer_param.phase, "python_param")
    prefix = f"{place + ': ' if place else ''}layer '{layer_param.name}' (Python)"
    if not _python_layers_allowed:
        raise LayerError(
            f"{prefix}: it runs code, of module {options.module!r}, and Python layers are switched off "
            "(--no-python-layers, minicaffe.allow_python_layers); leave that out if you trust the net"
        )
    for field in ("module", "layer"):
        if not getattr(options, field):
            raise LayerError(f"{prefix}, python_param.{field}: give the {_MEANING[field]}")
    module = _import(options.module, prefix)
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
