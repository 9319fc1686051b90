"""What of a net is exported: the layers that outputs need, a net of these alone, and the axes that may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from minicaffe import arguments, backend, proto
from minicaffe.engine.assembly import Step
from minicaffe.errors import ArgumentTypeError, MinicaffeError, NetError
from minicaffe.layers.indexing import Filter
from minicaffe.layers.proposal import Proposing
from minicaffe.net import Net
from minicaffe.onnx.sizes import Shape
from minicaffe.onnx.writer import by_values, exporters, kind_of
from minicaffe.proto.origin import Origin

Changes = Mapping[str, tuple[int, int]]
"""By input: an axis, and another size for it."""


def is_source(step: Step) -> bool:
    """Whether a layer brings data in, so that its tops are inputs of the exported graph."""
    return not step.bottom and kind_of(step.layer) not in exporters


def blob_names(net: Net) -> list[str]:
    """The names of a net's blobs, by the numbers that steps have for them."""
    return list(net._blob_names)


def wanted_outputs(net: Net, outputs: Iterable[str] | None) -> list[str]:
    """The names of the blobs to be outputs, each once: the net's, unless given; NetError if there are none."""
    if not isinstance(net, Net):
        raise ArgumentTypeError(
            f"a Net is what is exported; found {net!r:.80}: make one of its file and its weights, "
            "minicaffe.Net(file, minicaffe.TEST, weights=weights)"
        )
    wanted = net.outputs if outputs is None else arguments.names(outputs, "outputs to export")
    if not (names := list(dict.fromkeys(wanted))):
        raise NetError(f"net '{net.name}' has no outputs to export; name blobs to be outputs")
    return names


def needed_steps(net: Net, outputs: Sequence[str]) -> list[Step]:
    """The layers that these blobs come from, in order; NetError for a name that no blob has."""
    names = blob_names(net)
    splits = {i for step in net.steps if step.layer.type == "Split" for i in step.top_ids}
    for name in outputs:
        if name not in names:  # of a deployed net all layers can be said, though not all its blobs are there
            known = [blob for i, blob in enumerate(names) if i not in splits]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(known)}"
            raise NetError(f"net '{net.name}' has no blob '{name}'; {hint}")
    wanted = {names.index(name) for name in outputs}
    kept = []
    for step in reversed(net.steps):
        if wanted.intersection(step.top_ids):
            wanted.update(step.bottom_ids)
            kept.append(step)
    return kept[::-1]


def refused(net: Net, form: str, wrong: Sequence[tuple[Any, str]]) -> NetError:
    """The error for layers of a net that are nothing ``form`` can say, and why each is not."""
    lines = []
    for layer, reason in wrong:
        place = net.source.where(layer.name, layer.layer_param.phase)
        lines.append(f"{place + ': ' if place else ''}layer '{layer.name}' ({layer.type}): {reason}")
    return NetError(
        f"net '{net.name}' cannot be said in {form}:\n  " + "\n  ".join(lines) + "\n"
        "name blobs before these layers as outputs to export what leads to them"
    )


@dataclass
class Twin:
    """A float32 net of the layers to export, with copies of their weights; what brought data in is an Input there.

    ``origins`` are the layers of the given net, one for each layer of this one; None for an Input.
    ``replaced`` are the tops of layers that brought data in, by what the layers are.
    """

    net: Net
    origins: list[Step | None]
    replaced: dict[str, list[str]] = field(default_factory=dict)


def make_twin(net: Net, steps: Sequence[Step], outputs: Sequence[str]) -> Twin:
    """The twin of the layers that these outputs need."""
    definition = proto.NetParameter(name=net.name)
    definition.state.phase = net.phase
    origins: list[Step | None] = []
    replaced: dict[str, list[str]] = {}
    names = blob_names(net)
    read = {i for step in steps for i in step.bottom_ids} | {i for i, name in enumerate(names) if name in outputs}
    for step in steps:
        if is_source(step):
            for i, blob in zip(step.top_ids, step.top, strict=True):
                if i not in read:
                    continue
                name = names[i]
                inputs = definition.layer.add(name=f"{name} (input)", type="Input", top=[name])
                inputs.input_param.shape.add(dim=blob.shape)
                origins.append(None)
                if step.layer.type != "Input":
                    replaced.setdefault(f"layer '{step.layer.name}' ({step.layer.type})", []).append(name)
            continue
        definition.layer.append(_plain(step.layer.layer_param))
        origins.append(step)
    twin = Net.from_param(definition, Origin(net.source.path))
    for step, origin in zip(twin.steps, origins, strict=True):
        if origin is not None:
            for blob, given in zip(step.layer.blobs, origin.layer.blobs, strict=True):
                blob.data[...] = given.peek_data()
    return Twin(twin, origins, replaced)


def _plain(given: proto.LayerParameter) -> proto.LayerParameter:
    """A layer's definition without rules and weights, whose fillers draw no random numbers."""
    layer = proto.LayerParameter()
    layer.CopyFrom(given)
    for rules in (layer.include, layer.exclude, layer.blobs):
        del rules[:]
    for _, options in layer.ListFields():
        if hasattr(options, "ListFields"):
            for each, value in options.ListFields():
                if each.message_type is not None and each.message_type.name == "FillerParameter":
                    fillers: list[Any] = [value] if isinstance(value, Message) else list(value)
                    for filler in fillers:
                        filler.Clear()
                        filler.type = "constant"
    return layer


@dataclass
class Axes:
    """Groups of inputs whose axis changes together: {input: axis} each."""

    groups: list[dict[str, int]]
    changes: list[Changes]

    @property
    def names(self) -> list[str]:
        """One for each group."""
        return ["batch" if k == 0 else f"{next(iter(group))}_items" for k, group in enumerate(self.groups)]


class Probe:
    """Finds out which sizes of a twin change with which axes of its inputs, by reshaping it."""

    def __init__(self, twin: Net) -> None:
        self.twin = twin
        self.given = {name: twin.blobs[name].shape for name in twin.inputs}

    def plans(self) -> Iterator[Axes]:
        """Axes that may change, most useful first: those of items, of sequences of items, none."""
        seen: list[list[dict[str, int]]] = []
        for axis in (0, 1):
            found = self._along(axis)
            if found.groups and found.groups not in seen:
                seen.append(found.groups)
                yield found
        yield Axes([], [])

    def _along(self, axis: int) -> Axes:
        """Each input for itself where the net takes that, and all others together."""
        open_ = [name for name, shape in self.given.items() if len(shape) > axis and shape[axis] > 0]
        result = Axes([], [])
        together = []
        for name in open_:
            alone = self._accepted({name: axis}) if axis == 0 else None
            if alone is None:
                together.append(name)
            else:
                result.groups.append({name: axis})
                result.changes.append(alone)
        for names in self._parts(together, axis):
            group = dict.fromkeys(names, axis)
            if (change := self._accepted(group)) is not None:
                result.groups.insert(0, group)
                result.changes.insert(0, change)
                break
        return result

    def _parts(self, names: Sequence[str], axis: int) -> Iterator[list[str]]:
        """Which of several inputs may change together: all, those of one size, all but one."""
        if names:
            yield list(names)
        sizes = {name: self.given[name][axis] for name in names}
        for size in dict.fromkeys(sizes.values()):
            yield [name for name in names if sizes[name] == size]
        for one in names if len(names) > 2 else ():
            yield [name for name in names if name != one]

    def _accepted(self, group: Mapping[str, int]) -> Changes | None:
        """A change of these axes that the net takes."""
        for factor, more in ((1, 1), (2, 0)):
            change = {name: (axis, self.given[name][axis] * factor + more) for name, axis in group.items()}
            if self.takes(change):
                return change
        return None

    def takes(self, change: Changes) -> bool:
        """Whether the net takes a change; it is then as large as that, and else as it was."""
        try:
            self.resize(change)
        except MinicaffeError:
            self.resize({})
            return False
        return True

    def resize(self, change: Changes, longer: Step | None = None) -> None:
        """Give all inputs their shapes, some of them changed; ``longer`` makes lists one longer than that."""
        for name, shape in self.given.items():
            axis, size = change.get(name, (0, shape[0] if shape else 0))
            self.twin.blobs[name].reshape(*(size if k == axis else given for k, given in enumerate(shape)))
        for step in self.twin.steps:
            if isinstance(step.layer, Filter):
                step.bottom[-1].data[...] = 1  # it keeps all items, as when the net was made
            step.reshape(backend.current())
            if step is longer:
                axis = by_values[kind_of(step.layer)]
                for top in step.top:
                    top.reshape(*(size + (k == axis) for k, size in enumerate(top.shape)))

    def shapes(self, axes: Axes) -> list[tuple[list[Shape], list[Shape]]]:
        """Shapes of the bottoms and tops of each layer; the net is then as it was given."""
        seen = []
        lists = [step for step in self.twin.steps if kind_of(step.layer) in by_values]
        for change, longer in [*((c, None) for c in axes.changes), *(({}, step) for step in lists), ({}, None)]:
            self.resize(change, longer)
            seen.append([([b.shape for b in s.bottom], [b.shape for b in s.top]) for s in self.twin.steps])
        seen = [seen[-1], *seen[:-1]]
        return [tuple(_joined(side) for side in zip(*step, strict=True)) for step in zip(*seen, strict=True)]  # type: ignore[misc]


def _joined(seen: Iterable[Sequence[Any]]) -> list[Shape]:
    """The shapes of several blobs, from what each was in each of the nets."""
    return [Shape.of(shapes) for shapes in zip(*seen, strict=True)]


def fill(twin: Net, seed: int = 0) -> dict[str, Any]:
    """Noise for the inputs, zeros for those that hold labels, indices or regions, the size of an image for those that
    tell it; what they hold now.
    """
    rng = np.random.default_rng(seed)
    whole = _whole_numbers(twin)
    for name in twin.inputs:
        blob = twin.blobs[name]
        blob.data[...] = 0 if name in whole or len(blob.shape) < 2 else rng.standard_normal(blob.shape)
    for step in twin.steps:
        if isinstance(step.layer, Proposing):
            size = [cells * step.layer.choice.stride for cells in step.bottom[0].shape[2:]]
            step.bottom[2].data.reshape(-1)[:3] = [*size, 1]
    return {name: twin.blobs[name].data.copy() for name in twin.inputs}


def _whole_numbers(twin: Net) -> set[str]:
    """Inputs that a layer reads as labels, indices or regions."""
    found = set()
    origin = {i: name for i, name in enumerate(blob_names(twin)) if name in twin.inputs}
    for step in twin.steps:
        for k, i in enumerate(step.bottom_ids):
            if i in origin and _reads_whole(step.layer, k, len(step.bottom_ids)):
                found.add(origin[i])
        if step.layer.type in ("Split", "Slice", "Reshape", "Flatten") and step.bottom_ids[0] in origin:
            origin |= dict.fromkeys(step.top_ids, origin[step.bottom_ids[0]])
    return found


def _reads_whole(layer: Any, k: int, bottoms: int) -> bool:
    """Whether a layer takes bottom ``k`` for labels, indices or regions: nearly all such layers check them."""
    checks = any(hasattr(layer, flag) for flag in ("bad_label", "bad_index", "bad_item", "bad_length"))
    return k >= min(1, bottoms - 1) and (checks or layer.type in ("SegAccuracy", "BiasChannel"))
