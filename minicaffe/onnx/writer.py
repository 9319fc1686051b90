"""What exporters write with: one layer's part of a graph, and the table of exporters by type."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicaffe import backend
from minicaffe.errors import NetError
from minicaffe.layers.proposal import Proposal, Proposing
from minicaffe.onnx.graph import FLOAT, INT64, Graph
from minicaffe.onnx.sizes import NotFixed, Shape, Size, is_fixed, number

END = np.iinfo(np.int64).max
"""As the end of a slice: the axis' end."""

Sizes: TypeAlias = Sequence[Size | int]


class Unsupported(NetError):
    """A layer, as it is set up, is nothing that ONNX can say."""


class Writer:
    """Writes the nodes of one layer.

    ``x`` names the values of its bottoms, ``bottom`` and ``top`` are the shapes of bottoms and tops; ``params`` are
    what the learnable blobs hold, and ``layer`` tells the options.  Values are float32 unless said otherwise.
    """

    def __init__(
        self,
        graph: Graph,
        layer: Any,
        x: Sequence[str],
        bottom: Sequence[Shape],
        top: Sequence[Shape],
        params: Sequence[tuple[str, Hashable]],
    ) -> None:
        self.graph, self.layer = graph, layer
        self.x, self.bottom, self.top = list(x), list(bottom), list(top)
        self.params = [np.asarray(blob.peek_data(), np.float32) for blob in layer.blobs]
        self._param_names = list(params)
        self.notes: list[str] = []

    def refuse(self, why: str) -> Unsupported:
        """The error to raise for what ONNX cannot say."""
        return Unsupported(why)

    def axis(self, axis: int, k: int = 0) -> int:
        """An axis of bottom ``k``, counted from the front."""
        return axis if axis >= 0 else axis + len(self.bottom[k])

    # --- nodes -----------------------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        return self.graph.node(self.layer.name, kind, inputs, outputs, attributes)

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b)

    def sub(self, a: str, b: str) -> str:
        return self.op("Sub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.op("Mul", a, b)

    def div(self, a: str, b: str) -> str:
        return self.op("Div", a, b)

    def scaled(self, x: str, factor: float) -> str:
        """x times a number."""
        return x if factor == 1 else self.mul(x, self.number(factor))

    def shifted(self, x: str, offset: float) -> str:
        """x plus a number."""
        return x if offset == 0 else self.add(x, self.number(offset))

    def where(self, condition: str, a: str, b: str) -> str:
        return self.op("Where", condition, a, b)

    def reduced(self, kind: str, x: str, axes: Iterable[int] | None = None, keep: bool = False) -> str:
        """A reduction (``ReduceSum``, ``ReduceMax``, …) over these axes, or all."""
        given = [] if axes is None else [self.ints(list(axes))]
        return self.op(kind, x, *given, keepdims=int(keep))

    def sum(self, x: str, axes: Iterable[int] | None = None, keep: bool = False) -> str:
        return self.reduced("ReduceSum", x, axes, keep)

    # --- constants -------------------------------------------------------------------------------------------------

    def floats(self, values: ArrayLike, name: str = "constant") -> str:
        """A float32 constant."""
        return self.graph.constant(f"{self.layer.name}/{name}", np.asarray(values, np.float32))

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.floats(value)

    def ints(self, values: ArrayLike) -> str:
        """An int64 constant."""
        return self.graph.constant(f"{self.layer.name}/constant", np.asarray(values, np.int64))

    def param(self, j: int, shape: Sequence[int] | None = None) -> str:
        """Learnable blob ``j``, in this shape; one constant for all layers that share it."""
        name, key = self._param_names[j]
        values = self.params[j] if shape is None else self.params[j].reshape(shape)
        return self.graph.constant(name, values, (key, values.shape))

    # --- types and shapes ------------------------------------------------------------------------------------------

    def as_float(self, x: str) -> str:
        return self.op("Cast", x, to=FLOAT)

    def as_int(self, x: str) -> str:
        """Floats that hold integers, as int64."""
        return self.op("Cast", x, to=INT64)

    def dims(self, x: str, axes: Sequence[int]) -> str:
        """The sizes of x along these axes when it runs, int64."""
        return self.op("Gather", self.op("Shape", x), self.ints(list(axes)))

    def length(self, x: str, *sizes: tuple[int, Size | int]) -> str:
        """The product of sizes of x, a float scalar: a constant where it is one.  Each is (axis, size)."""
        if is_fixed(size for _, size in sizes):
            return self.number(float(np.prod([number(size) for _, size in sizes], initial=1.0)))
        product = self.op("ReduceProd", self.dims(x, [axis for axis, _ in sizes]), keepdims=0)
        return self.as_float(product)

    def span(self, x: str, shape: Shape, start: int = 0, end: int | None = None) -> str:
        """The product of the sizes of x, which has this shape, from axis ``start`` to ``end``; a float scalar."""
        stop = len(shape) if end is None else end
        return self.length(x, *((axis, shape[axis]) for axis in range(start, stop)))

    def reshape(self, x: str, shape: Sizes, of: Sizes | None = None) -> str:
        """x in another shape.  ``of`` is the one that it has; nothing is done where both are the same."""
        if of is not None and [_seen(size) for size in of] == [_seen(size) for size in shape]:
            return x
        moving = [k for k, size in enumerate(shape) if not is_fixed([size])]
        target = [0 if k in moving else number(size) for k, size in enumerate(shape)]
        copied = [k for k in moving if of is not None and k < len(of) and of[k] == shape[k]]
        rest = [k for k in moving if k not in copied]
        if len(rest) > 1:
            raise NotFixed("several of the sizes that it makes change with the batch")
        if 0 in [number(size) for k, size in enumerate(shape) if k not in moving]:
            raise self.refuse("an axis has no elements")
        for k in rest:
            target[k] = -1
        return self.op("Reshape", x, self.ints(target))

    def like_top(self, x: str, of: Sizes | None = None, k: int = 0) -> str:
        """x in the shape of top ``k``."""
        return self.reshape(x, self.top[k], of)

    def filled(self, like: str, value: float) -> str:
        """As large as a value is when it runs, and the same number everywhere."""
        return self.op("Expand", self.number(value), self.op("Shape", like))

    def slice(self, x: str, axis: int, start: int, stop: int | str, step: int = 1) -> str:
        """Part of x along an axis; ``stop`` may be an int64 value of one element."""
        end = stop if isinstance(stop, str) else self.ints([stop])
        return self.op("Slice", x, self.ints([start]), end, self.ints([axis]), self.ints([step]))

    def reversed(self, x: str, axis: int) -> str:
        """x the other way round along an axis."""
        return self.slice(x, axis, -1, -END, -1)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.ints(list(axes)))


def _seen(size: Size | int) -> Any:
    return size if isinstance(size, int) else size.seen[0] if size.fixed else size.seen


def host(array: Any) -> NDArray:
    """An array that a layer keeps on the current backend, as a NumPy array."""
    out = np.empty(array.shape, array.dtype)
    backend.current().download(array, out)
    return out


Exporter: TypeAlias = Callable[[Writer], str | Sequence[str]]
"""Writes one layer and returns the values of its tops."""

exporters: dict[str, Exporter] = {}
"""By the layer's type."""

by_values: dict[str, int] = {}
"""By the type of layers that make lists: the axis of their tops whose size depends on values."""


def exports(*types: str, lists: int | None = None) -> Callable[[Exporter], Exporter]:
    """Register the function that writes layers of these types; also for layer types of your own.

    ``lists``: the axis of the tops whose size depends on values.
    """

    def register(function: Exporter) -> Exporter:
        for kind in types:
            exporters[kind] = function
            if lists is not None:
                by_values[kind] = lists
        return function

    return register


def kind_of(layer: Any) -> str:
    """The type by which a layer is written: what stands for a well-known Python layer is written as what it is."""
    return Proposal.type if isinstance(layer, Proposing) else layer.type
