"""The engine's side of ``type: "Python"``: an adapter that holds the object of a user's class and calls its methods."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import LayerError
from minicaffe.layers import interface
from minicaffe.layers.base import Layer
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
        self.user.param_str = self.user.param_str_ = self.param_str

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


def create(layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike = np.float32) -> Layer:
    """The layer of ``type: "Python"`` that holds an object of class ``python_param.layer`` of ``python_param.module``.

    A class derived from ``minicaffe.layers.Layer`` is a layer of the engine and needs no holding.  Errors inside the
    user's module reach the caller as they are; a module or class that does not exist is a LayerError.
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
    if not isinstance(cls, type):
        found = "nothing of that name" if cls is None else f"{cls!r}"
        raise LayerError(
            f"{prefix}, python_param.layer: module {options.module!r} must define a class {options.layer!r} derived from "
            f"minicaffe.Layer; found {found}"
        )
    if not issubclass(cls, Layer):
        return PythonLayer(cls, layer_param, source, dtype)
    layer = cls(layer_param, dtype)
    layer.param_str = options.param_str
    return layer


def declarations(cls: type) -> dict[str, Any]:
    """What a user's class declares: ``bottoms``, ``tops`` and ``differentiable``; values of another form are its own."""
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
    try:
        inspect.signature(cls).bind(layer_param)
    except (TypeError, ValueError):
        return cls()
    return cls(layer_param)
