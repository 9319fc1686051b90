"""From a net to an ONNX model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf.message import EncodeError

from minicaffe import compat
from minicaffe.engine.assembly import Step
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.onnx import exporters as _families  # noqa: F401  (registers them)
from minicaffe.onnx.graph import OPSET, Graph
from minicaffe.onnx.plan import (
    Axes,
    Probe,
    Twin,
    blob_names,
    is_source,
    make_twin,
    needed_steps,
    refused,
    wanted_outputs,
)
from minicaffe.onnx.reasons import REASONS
from minicaffe.onnx.sizes import NotFixed, Shape, Size
from minicaffe.onnx.writer import Unsupported, Writer, by_values, exporters, kind_of
from minicaffe.proto.atomic import write_atomic

_log = logging.getLogger(__name__)

MOST_BYTES = 2**31 - 1
"""What a protobuf file can hold."""

_FORM = f"ONNX (opset {OPSET})"

Told: TypeAlias = "list[int | str | None]"
"""Sizes: a number, the name of one that may change, or None for one that depends on values."""


@dataclass
class Exported:
    """An ONNX model and what is to be said of it.

    ``inputs`` and ``outputs`` are their shapes by name; ``notes`` is what differs from the net; ``twin`` is the net
    that was exported, and ``axes`` those of its inputs that may change.
    """

    model: Any
    inputs: dict[str, Told]
    outputs: dict[str, Told]
    twin: Twin
    axes: Axes
    notes: list[str] = field(default_factory=list)
    opset: int = OPSET


def export_onnx(net: Net, path: str | os.PathLike[str] | None = None, outputs: Iterable[str] | None = None) -> Exported:
    """Write a net, as it is in its phase and with its weights, as an ONNX model, and return that.

    The net stays as it is.  Values keep the names of blobs; of a blob that layers overwrite in place the last one has
    the name.  Data layers become inputs.  The batch may have any size, unless the net holds it to one: a note says so.

    Args:
        net: usually in the TEST phase.
        path: the file to write; None for none.
        outputs: blobs; the net's outputs, unless given.  Only what they need is exported.

    Raises MissingExtraError without the package onnx; ArgumentTypeError for what is no Net; NetError for layers that
    ONNX has no words for, which names all of them, for a blob that there is not, for a net without outputs, and for one
    of more than 2 GB.
    """
    compat.require("onnx")
    wanted = wanted_outputs(net, outputs)
    steps = needed_steps(net, wanted)
    _refuse_unknown(net, steps)
    twin = make_twin(net, steps, wanted)
    exported = _convert(net, twin, wanted)
    if path is not None:
        write_atomic(path, exported.model.SerializeToString())
    return exported


def exported_types() -> list[str]:
    """The types of layers that can be exported."""
    return sorted(exporters)


def _refuse_unknown(net: Net, steps: Sequence[Step]) -> None:
    """Raise for layers of types that have no exporter, where their net cannot even be made anew: users' own."""
    wrong = {id(step): _reason(step) for step in steps if _is_unknown(step) and step.layer.user_defined}
    if wrong:
        wrong |= {id(step): _reason(step) for step in steps if _is_unknown(step)}
        raise refused(net, _FORM, [(step.layer, wrong[id(step)]) for step in steps if id(step) in wrong])


def _is_unknown(step: Step) -> bool:
    return not is_source(step) and kind_of(step.layer) not in exporters


def _reason(step: Step) -> str:
    if step.layer.user_defined:
        return "it is a layer of your own; register a function for its type with minicaffe.onnx.exports"
    return REASONS.get(step.layer.type, "there are no ONNX operators for it")


def _convert(net: Net, twin: Twin, outputs: Sequence[str]) -> Exported:
    """The model with as many axes that may change as the layers allow."""
    probe = Probe(twin.net)
    for axes in probe.plans():
        try:
            return _Conversion(net, twin, axes, probe.shapes(axes)).run(outputs)
        except NotFixed as error:
            _log.info("%s: %s", ", ".join(axes.names), error)
    raise AssertionError("without axes that change all sizes are numbers")


class _Conversion:
    """Writes all layers of a twin."""

    def __init__(self, net: Net, twin: Twin, axes: Axes, shapes: Sequence[tuple[list[Shape], list[Shape]]]) -> None:
        self.net, self.twin, self.axes, self.shapes = net, twin, axes, shapes
        self.lists = [step for step in twin.net.steps if kind_of(step.layer) in by_values]
        self.graph = Graph()
        self.values: dict[int, str] = {}
        self.notes: list[str] = []
        self._symbols = {self._symbol(k): name for k, name in enumerate(axes.names)}
        self._params = {user: self._param(k) for k, param in enumerate(twin.net.learnable) for user in param.users}
        self._names = blob_names(twin.net)
        self._given = {
            i for step, origin in zip(twin.net.steps, twin.origins, strict=True) if not origin for i in step.top_ids
        }
        self._left: dict[int, int] = {}
        for step in twin.net.steps:
            for i in step.top_ids:
                self._left[i] = self._left.get(i, 0) + 1

    def run(self, outputs: Sequence[str]) -> Exported:
        """The model with these blobs as outputs."""
        for name in self._names:
            self.graph.reserve(name)
        wrong = []
        for index, (step, origin) in enumerate(zip(self.twin.net.steps, self.twin.origins, strict=True)):
            if origin is None:
                (i,) = step.top_ids
                self.values[i], self._left[i] = self._names[i], self._left[i] - 1
                continue
            try:
                self._write(index, step, origin, outputs)
            except Unsupported as error:
                wrong.append((origin.layer, str(error)))
                self.values |= {i: self._names[i] for i in step.top_ids}
        if wrong:
            raise refused(self.net, _FORM, wrong)
        inputs, told = self._told(self.twin.net.inputs), self._told(outputs)
        self._tell(inputs)
        model = self._model(inputs, told)
        return Exported(model, inputs, told, self.twin, self.axes, self.notes)

    def _model(self, inputs: dict[str, Told], outputs: dict[str, Told]) -> Any:
        """The ModelProto; NetError if it is more than one can hold."""
        try:
            model = self.graph.model(self.twin.net.name, inputs, outputs)
            size = model.ByteSize()
        except (EncodeError, ValueError):  # what protobuf makes of more
            size = MOST_BYTES + 1
        if size > MOST_BYTES:
            weights = 4 * sum(param.blob.count for param in self.twin.net.learnable)
            raise NetError(
                f"net '{self.net.name}' is too large: an ONNX model holds at most {MOST_BYTES} bytes, and its weights "
                f"take {weights}; name blobs before its last layers as outputs to export less"
            )
        return model

    def _write(self, index: int, step: Step, origin: Step, outputs: Sequence[str]) -> None:
        layer = step.layer
        if kind_of(layer) not in exporters:
            raise Unsupported(_reason(step))
        if origin.layer.patched:
            raise Unsupported("its functions, or its class', are no longer its own")
        bottoms, tops = self.shapes[index]
        params = [self._params[index, j] for j in range(len(layer.blobs))]
        read = [self.values[i] for i in step.bottom_ids]
        writer = Writer(self.graph, layer, read, bottoms, tops, params)
        since = len(self.graph.nodes)
        found = exporters[kind_of(layer)](writer)
        self.notes += [f"layer '{layer.name}' ({layer.type}) {note}" for note in writer.notes]
        made = [found] if isinstance(found, str) else list(found)
        for i, value in zip(step.top_ids, made, strict=True):
            self._name(i, value, since, layer, outputs)

    def _name(self, i: int, value: str, since: int, layer: Any, outputs: Sequence[str]) -> None:
        """Let the value of a top have the blob's name, or, where it is overwritten later, the layer's beside it."""
        blob = self._names[i]
        self._left[i] -= 1
        if layer.type == "Split" and blob not in outputs:
            self.values[i] = value
            return
        last = self._left[i] == 0
        if last and i in self._given and blob in outputs:
            raise Unsupported(
                f"it overwrites the input '{blob}' in place, which is an output; give its top another name"
            )
        name = blob if last and i not in self._given else self.graph.reserve(f"{blob}/{layer.name}")
        self.graph.name_value(value, name, since, layer.name)
        self.values[i] = name

    def _told(self, blobs: Sequence[str]) -> dict[str, Told]:
        """What is told of the sizes of blobs."""
        sizes: dict[str, Shape] = {}
        for step, (_, tops) in zip(self.twin.net.steps, self.shapes, strict=True):
            sizes |= {self._names[i]: shape for i, shape in zip(step.top_ids, tops, strict=True)}
        return {
            name: [size.number if size.fixed else self._symbols.get(size) for size in sizes[name]] for name in blobs
        }

    def _tell(self, inputs: dict[str, Told]) -> None:
        """Notes on inputs: those that stand for data layers, and the sizes that they are held to."""
        for layer, tops in self.twin.replaced.items():
            self.notes.append(
                f"{layer} is left out: {', '.join(tops)} {'is an input' if len(tops) == 1 else 'are inputs'}"
            )
        fixed = [name for name, sizes in inputs.items() if sizes and not any(isinstance(size, str) for size in sizes)]
        if fixed:
            self.notes.append(f"the batch has a fixed size in {', '.join(fixed)}: the net takes no other")

    def _symbol(self, k: int) -> Size:
        """The size of the axis of group ``k`` in all nets."""
        name, axis = next(iter(self.axes.groups[k].items()))
        given = self.twin.net.blobs[name].shape[axis]
        changed = [change.get(name, (axis, given))[1] for change in self.axes.changes]
        return Size((given, *changed, *[given] * len(self.lists)))

    def _param(self, k: int) -> tuple[str, int]:
        """Name and key of learnable blob ``k``: what the definition calls it, or of the layer and its place."""
        param = self.twin.net.learnable[k]
        index, j = param.users[0]
        layer = self.twin.net.steps[index].layer
        specs = layer.layer_param.param
        if j < len(specs) and specs[j].name:
            return specs[j].name, k
        own = ("weight", "bias") if len(layer.blobs) <= 2 else [str(n) for n in range(len(layer.blobs))]
        return f"{layer.name}.{own[j]}", k
