"""The engine's side of ``type: "Python"``: an adapter that holds the object of a user's class and calls its methods."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.as_caffe import install_as_caffe
from minicaffe.blob import Blob
from minicaffe.errors import LayerError
from minicaffe.layers import interface
from minicaffe.layers.base import Layer, make, takes
from minicaffe.proto.origin import Origin

_METHODS = {
    "setup": "setup(bottom, top)",
    "reshape": "reshape(bottom, top)",
    "forward": "forward(bottom, top)",
    "backward": "backward(top, propagate_down, bottom)",
}


class PythonLayer(Layer):
    """Runs an object of a user's class as a layer: any bottoms, any tops, and what the user's methods make of them.

    The object has pycaffe's names and nothing of the engine's (see ``minicaffe.Layer``), so that whatever its class
    sets is its own.  Its blobs are this layer's.  As nobody knows what its methods do, ``reshape`` runs before every
    forward, and the layer may work in place.

    Caffe: the same; ``share_in_parallel`` has no effect.
    """

    param = "python_param"
    bottoms = (0, None)
    tops = (0, None)
    in_place = "always"
    reshape_always = True
    user_defined = True

    def __init__(self, cls: type, layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike) -> None:
        super().__init__(layer_param, dtype)
        self.definition = source
        for name, declared in declarations(cls).items():
            setattr(self, name, declared)
        self.user: Any = _construct(cls, layer_param)
        self._require_methods(
            "reshape", "forward", *(() if issubclass(cls, interface.Layer) else ("setup", "backward"))
        )
        self.user.type = self.type
        self.user.phase = self.phase
        self.user.blobs = self.blobs
        self.user.param_str = self.user.param_str_ = layer_param.python_param.param_str

    @property
    def unwrapped(self) -> Any:
        """The user's object."""
        return self.user

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.user.setup(bottom, top)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.user.reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = [blob.shape for blob in top]
        self.user.forward(bottom, top)
        if shapes != [blob.shape for blob in top]:  # a layer may know how much it makes only once it has made it
            self.install_loss_weights(top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if any(propagate_down) or any(self.param_propagate_down):
            self._require_methods("backward")
        if hasattr(self.user, "backward"):
            self.user.backward(top, list(propagate_down), bottom)

    def _require_methods(self, *names: str) -> None:
        missing = [_METHODS[name] for name in names if not callable(getattr(self.user, name, None))]
        if missing:
            raise self.error(
                f"{type(self.user)!r} must have the methods of a class derived from minicaffe.Layer; found no "
                f"{' and no '.join(missing)}",
                "layer",
            )


_python_layers_allowed = True


def allow_python_layers(allowed: bool) -> bool:
    """Say whether nets may have layers of ``type: "Python"``, which run code that a definition names; what was so
    before.

    A net that has one is then a LayerError, and nothing is imported.  For definitions from strangers; it holds for the
    whole process.
    """
    global _python_layers_allowed
    before, _python_layers_allowed = _python_layers_allowed, bool(allowed)
    return before


_OF_FORKS = {
    "rpn.proposal_layer": "minicaffe.layers.proposal",
    "rpn.anchor_target_layer": "minicaffe.layers.rpn_targets",
    "rpn.proposal_target_layer": "minicaffe.layers.rpn_targets",
}
"""Modules of forks whose layers are here, and where: for nets whose own modules are not on the path."""

_PYTHON_2 = {"cPickle", "cStringIO", "ConfigParser", "HTMLParser", "Queue", "StringIO", "__builtin__", "urllib2"}
_MEANING = {"module": "name of the module that has the layer", "layer": "name of the class"}


def _import(name: str, prefix: str) -> ModuleType:
    """The module of a Python layer; LayerError if it, or its package, is not there or is no Python 3.

    Where it imports caffe, and none is installed, that means minicaffe.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "caffe":
            install_as_caffe()
            return _import(name, prefix)
        if name in _OF_FORKS and f"{name}.".startswith(f"{error.name}."):
            return importlib.import_module(_OF_FORKS[name])
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            python2 = ", a module of Python 2; convert it (2to3 or futurize)" if error.name in _PYTHON_2 else ""
            raise LayerError(
                f"{prefix}, python_param.module: {name!r} imports {error.name!r}, which is not installed{python2}"
            ) from error
        raise LayerError(f"{prefix}, python_param.module: {_why_missing(name, error.name)}") from error
    except (TypeError, ValueError) as error:  # a relative name, a null byte
        raise LayerError(f"{prefix}, python_param.module: {name!r} is no module's name ({error})") from error
    except SyntaxError as error:
        raise LayerError(
            f"{prefix}, python_param.module: {error.filename}:{error.lineno}: {error.msg}; the module must be Python 3 "
            "(2to3 or futurize convert from Python 2)"
        ) from error


def _why_missing(name: str, missing: str) -> str:
    """Why module ``name`` is not found, of which ``missing`` is the first part that is not, and what to do."""
    folder, file = os.path.split(name)
    if folder or file.endswith(".py"):
        on_path = f"with {folder}" if folder else "with its folder"
        return (
            f"{name!r} is a file's path; give the module's name, {os.path.splitext(file)[0]!r}, {on_path} on PYTHONPATH"
        )
    package, _, rest = missing.rpartition(".")
    if package in sys.modules:
        home = getattr(sys.modules[package], "__file__", None) or "a folder without __init__.py"
        return (
            f"no module named {missing!r}: {package!r} ({home}) has no {rest!r}; is it another {package!r} than meant?"
        )
    return f"no module named {missing!r}; put its folder on PYTHONPATH"


def create(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike = np.float32) -> Layer:
    """The layer of ``type: "Python"`` that holds an object of class ``python_param.layer`` of ``python_param.module``.

    A class derived from ``minicaffe.layers.Layer`` is a layer of the engine and needs no holding.  Errors inside the
    user's module reach the caller as they are; a module or class that does not exist, or is of Python 2, is a
    LayerError.
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
    if not isinstance(cls, type):
        found = "nothing of that name" if cls is None else f"{cls!r}"
        raise LayerError(
            f"{prefix}, python_param.layer: module {options.module!r} must define a class {options.layer!r} derived "
            "from "
            f"minicaffe.Layer; found {found}"
        )
    if not issubclass(cls, Layer):
        return PythonLayer(cls, layer_param, source, dtype)
    layer = make(cls, layer_param, source, dtype)
    layer.param_str = layer.param_str_ = options.param_str
    return layer


def declarations(cls: type) -> dict[str, Any]:
    """What a user's class declares: ``bottoms``, ``tops`` and ``differentiable``; values of another form are
    its own.
    """
    found = {name: getattr(cls, name, None) for name in ("bottoms", "tops", "differentiable")}
    return {
        name: value
        for name, value in found.items()
        if (_is_count(value) if name != "differentiable" else isinstance(value, tuple) and all(map(_is_number, value)))
    }


def _is_count(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and _is_number(value[0]) and (value[1] is None or _is_number(value[1]))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _construct(cls: type, layer_param: proto.LayerParameter) -> Any:
    """An object of the class: from the LayerParameter, as in pycaffe, unless its constructor takes nothing."""
    return cls(layer_param) if takes(cls, layer_param) else cls()
