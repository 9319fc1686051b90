"""``minicaffe.Layer``, pycaffe's Layer: all that a layer shows to users, and all that a user's Python layer
is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

from minicaffe import proto
from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.layers.blob_vec import BlobVec


class LayerKind(type):
    """Tells the two kinds of users' classes apart: those that set ``type``, and thereby register it, become layers of
    the engine; all others are held by one (``PythonLayer``)."""

    engine_layer: ClassVar[Any] = None
    """The base of the engine's layers, once it is defined."""
    changes: ClassVar[int] = 0
    """How often an attribute of a class was set."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> LayerKind:
        """The class; one that sets ``type`` derives from the engine's Layer in the place of the plain one."""
        base = mcs.engine_layer
        registers = isinstance(body.get("type"), str) and body["type"] != ""
        if base is not None and registers and not any(issubclass(b, base) for b in bases):
            last = max(place for place, b in enumerate(bases) if isinstance(b, LayerKind))
            own = bases[:last] if bases[last] is Layer else bases[: last + 1]
            bases = (*(b for b in own if b is not Layer), base, *bases[last + 1 :])
        made = super().__new__(mcs, name, bases, body, **kwargs)
        _own[made] = _functions(made)
        return made

    def __setattr__(cls, name: str, value: Any) -> None:
        """Set an attribute of a class, of which nets with such layers take note (``Configured.revision``)."""
        super().__setattr__(name, value)
        if name != "__slotnames__":  # which ``copy`` keeps there the first time that it copies a layer
            cls._note_change()

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        cls._note_change()

    def _note_change(cls) -> None:
        """Of users' layers only those that are captured: all others run their Python code in every pass anyway."""
        base, kind = LayerKind.engine_layer, cast(Any, cls)
        if base is not None and issubclass(cls, base) and (not kind.user_defined or kind.capturable):
            LayerKind.changes += 1
            generation.advance()


_own: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
"""The functions that each class of layers was made with."""


def _functions(cls: type) -> dict[str, Any]:
    """What a class itself defines that can be called."""
    return {name: value for name, value in vars(cls).items() if callable(value) or isinstance(value, staticmethod)}


def is_patched(cls: type) -> bool:
    """Whether functions of a class of layers, or of one that it derives from, are no longer those it was made with."""
    return _is_patched(cls, LayerKind.changes)


@lru_cache
def _is_patched(cls: type, changes: int) -> bool:
    kinds = [kind for kind in cls.__mro__ if isinstance(kind, LayerKind)]
    return any(_functions(kind) != _own[kind] for kind in kinds)


class Layer(metaclass=LayerKind):
    """A layer as pycaffe shows it; users derive their Python layers from it and write four methods:

    ``setup(bottom, top)``            once: read ``param_str``, make learnable blobs with ``blobs.add_blob(*shape)``;
    may
                                      be left out;
    ``reshape(bottom, top)``          give the tops their shapes, before every forward pass;
    ``forward(bottom, top)``          compute the tops' values;
    ``backward(top, propagate_down, bottom)``  compute the gradient of each bottom that is asked for (overwriting it)
    and
                                      of the learnable blobs (adding to it).

    ``bottom`` and ``top`` are lists of blobs, whose ``data`` and ``diff`` are NumPy arrays on every backend;
    ``propagate_down`` is a list of bools.  The attributes below are set before ``setup``.  Every other name is the
    class's own: the engine neither reads nor sets it, but for what a class may declare in its body: ``bottoms`` and
    ``tops``, how many it takes (a number, or (at least, at most)), and ``differentiable``, the bottoms that can get a
    gradient (a tuple of numbers).  Undeclared it takes any number, and gives a gradient to all.

    A class that sets ``type`` is another kind: it registers that type for prototxts, and derives from
    ``minicaffe.layers.Layer``, with all that the engine offers to its own layers.
    """

    type: str = ""
    """The type in the prototxt; a class that sets it registers it."""
    phase: int
    """0 in training, 1 in testing."""
    blobs: BlobVec
    """The learnable blobs."""
    param_str: str = ""
    """``python_param { param_str }``, also as ``param_str_``, its older name."""

    def __init__(self, layer_param: proto.LayerParameter) -> None:
        """Made by nets, from the layer's LayerParameter."""

    def __repr__(self) -> str:
        blobs = ", ".join(blob.shape_string for blob in getattr(self, "blobs", ()))
        return f"<{type(self).__name__} layer" + (f", blobs {blobs}>" if blobs else ">")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read parameters, make learnable blobs."""
