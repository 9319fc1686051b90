"""What exporters write with: one layer's part of a module's source, and the table of exporters by type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minicaffe.errors import NetError
from minicaffe.layers.base import registry


class Unsupported(NetError):
    """A layer, as it is set up, is nothing that is said in PyTorch."""


class Writer:
    """Writes the expressions of one layer.

    ``x`` are the expressions of its bottoms, ``bottom`` and ``top`` the shapes of bottoms and tops; ``layer`` tells the
    options.  A layer with params has a submodule, whose expression is ``reference``.  ``in_place`` says whether the
    layer may overwrite its bottom in PyTorch, too.
    """

    def __init__(self, step: Any, x: Sequence[str], reference: str, in_place: bool) -> None:
        self.layer, self.x, self.reference, self.in_place = step.layer, list(x), reference, in_place
        self.bottom = [blob.shape for blob in step.bottom]
        self.top = [blob.shape for blob in step.top]
        self.constructor = ""
        self.blobs: dict[str, int] = {}
        self.state: dict[str, NDArray] = {}
        self.helpers: set[str] = set()
        self.has_state = False
        """Whether the submodule is this layer's alone, even if others have the same params."""

    def helper(self, name: str) -> str:
        """Have the source bring along what ``helpers`` defines under a name, which is returned."""
        self.helpers.add(name)
        return name

    def module(self, constructor: str, **blobs: tuple[int, Sequence[int]]) -> str:
        """Give the layer a submodule; ``blobs`` names its params: the place of a learnable blob, and a shape for it.

        Returns the submodule's expression.
        """
        self.constructor = constructor
        self.blobs = {key: j for key, (j, _) in blobs.items()}
        self.state = {key: self.values(j).reshape(shape) for key, (j, shape) in blobs.items()}
        return self.reference

    def held(self, **blobs: int) -> str:
        """A submodule that only holds learnable blobs."""
        shapes = {key: (j, self.layer.blobs[j].shape) for key, j in blobs.items()}
        zeros = ", ".join(f'"{key}": torch.zeros({tuple(shape)})' for key, (_, shape) in shapes.items())
        return self.module(f"nn.ParameterDict({{{zeros}}})", **shapes)

    def values(self, j: int) -> NDArray:
        """What learnable blob ``j`` holds."""
        return np.array(self.layer.blobs[j].peek_data(), np.float32)

    def axis(self, axis: int, k: int = 0) -> int:
        """An axis of bottom ``k``, counted from the front."""
        return axis if axis >= 0 else axis + len(self.bottom[k])

    def require(self, holds: bool, why: str) -> None:
        """Raise Unsupported unless something holds; ``why`` completes "layer 'x':"."""
        if not holds:
            raise Unsupported(why)


def number(value: float) -> str:
    """A number as Python says it: as few digits as float32 needs, if it is one."""
    if not math.isfinite(value):
        return f'float("{value}")'
    short = float(str(np.float32(value)))
    return repr(short if np.float32(value) == value else float(value))


def scaled(x: str, factor: float) -> str:
    """The expression of x, which is a term, times a number."""
    return x if factor == 1 else f"{number(factor)} * {x}"


def stretched(x: str, axes: int) -> str:
    """The expression of x, which is a term, with so many axes of size 1 behind its own."""
    return f"{x}[..., {', '.join(['None'] * axes)}]" if axes > 0 else x


def sizes(values: Sequence[int]) -> str:
    """Sizes along axes: a number if all are the same."""
    return str(values[0]) if len(set(values)) == 1 else str(tuple(values))


def options(**given: tuple[Any, Any]) -> str:
    """Keyword arguments, ``name=(value, default)``, those that are not the default, each behind a comma."""
    return "".join(f", {name}={value}" for name, (value, default) in given.items() if value != default)


Exporter: TypeAlias = Callable[[Writer], "str | list[str]"]
"""Returns the expressions of the tops; one for several tops is a sequence of them."""

exporters: dict[str, Exporter] = {}
"""By the layer's type."""

_dialects: set[str] = set()
"""Names of classes, other than those of types, that the exporters know."""


def exports(*types: str, dialects: Sequence[str] = ()) -> Callable[[Exporter], Exporter]:
    """Register the function that writes layers of these types, and of a fork's classes of those."""

    def register(function: Exporter) -> Exporter:
        exporters.update(dict.fromkeys(types, function))
        _dialects.update(dialects)
        return function

    return register


def refusal(layer: Any) -> str:
    """Why no layer of this class is exported; empty if they are."""
    if layer.user_defined:
        return "it is a layer of your own"
    if layer.type not in exporters:
        return "there is no counterpart of it"
    if type(layer) is not registry[layer.type] and type(layer).__name__ not in _dialects:
        return "it is a fork's, as its options say"
    return "its functions, or its class', are no longer its own" if layer.patched else ""
