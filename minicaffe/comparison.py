"""How two files differ, layer by layer: nets and solvers by their fields, weights by their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from minicaffe import proto
from minicaffe.weight_files import Stored


@dataclass(frozen=True)
class Change:
    """A field that differs: its path ("convolution_param.num_output") and its values; None where it is not set."""

    path: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class ParamDifference:
    """A param of both files: shapes, and if these are equal the largest difference, the root of the mean square
    difference, and the former relative to the largest value of the first; numbers that are NaN in both count as equal.
    """

    layer: str
    index: int
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    largest: float | None = None
    rms: float | None = None
    relative: float | None = None

    @property
    def same_shape(self) -> bool:
        """Whether the numbers can be compared."""
        return self.shape_a == self.shape_b


@dataclass
class Difference:
    """What differs between A and B.

    ``only_a`` and ``only_b``: names of layers that one alone has.  ``fields``: by layer what differs in its definition,
    under "" the fields of the net or solver itself.  ``params``: every param that both have.  ``order``: whether
    layers of both stand in another order.
    """

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    fields: dict[str, list[Change]] = field(default_factory=dict)
    params: list[ParamDifference] = field(default_factory=list)
    order: bool = False

    def different(self, tolerance: float = 0.0) -> bool:
        """Whether anything differs; of params by more than ``tolerance``."""
        return bool(self.only_a or self.only_b or self.fields or self.order or self.changed_params(tolerance))

    def changed_params(self, tolerance: float = 0.0) -> list[ParamDifference]:
        """The params whose shapes differ, or whose values do by more than ``tolerance``."""
        return [p for p in self.params if p.largest is None or not p.largest <= tolerance]

    def to_json(self, tolerance: float = 0.0) -> dict[str, Any]:
        """Everything as dicts, lists and numbers."""
        return {
            "different": self.different(tolerance),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "other_order": self.order,
            "fields": {name: [vars(change) for change in changes] for name, changes in self.fields.items()},
            "params": [{**vars(p), "shape_a": list(p.shape_a), "shape_b": list(p.shape_b)} for p in self.params],
        }


def compare_weights(a: Stored, b: Stored) -> Difference:
    """Compare weights by layer and param."""
    result = Difference(
        only_a=[name for name in a.layers if name not in b.layers],
        only_b=[name for name in b.layers if name not in a.layers],
    )
    for layer, params in a.layers.items():
        others = b.layers.get(layer)
        if others is None:
            continue
        for j in range(max(len(params), len(others))):
            if j < len(params) and j < len(others):
                result.params.append(_compare(layer, j, params[j], others[j]))
            else:
                shapes = [str(each[j].shape) if j < len(each) else None for each in (params, others)]
                result.fields.setdefault(layer, []).append(Change(f"param {j}", *shapes))
    return result


def _compare(layer: str, index: int, a: NDArray, b: NDArray) -> ParamDifference:
    if a.shape != b.shape:
        return ParamDifference(layer, index, a.shape, b.shape)
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, x - y))
    gap = np.where(np.isnan(gap), np.inf, gap)
    largest = float(gap.max(initial=0.0))
    finite = np.abs(x[np.isfinite(x)])
    scale = float(finite.max(initial=0.0))
    relative = largest / scale if scale else float("inf") if largest else 0.0
    rms = float(np.sqrt(np.mean(gap**2))) if gap.size else 0.0
    return ParamDifference(layer, index, a.shape, b.shape, largest, rms, relative)


def compare_nets(a: proto.NetParameter, b: proto.NetParameter) -> Difference:
    """Compare definitions in today's format, layers by name; several of one name by their order among themselves."""
    first, second = _by_name(a.layer), _by_name(b.layer)
    result = Difference(
        only_a=[name for name in first if name not in second], only_b=[name for name in second if name not in first]
    )
    own = list(_changes(_without_layers(a), _without_layers(b)))
    if own:
        result.fields[""] = own
    for name, layer in first.items():
        if name in second and (changes := list(_changes(layer, second[name]))):
            result.fields[name] = changes
    result.order = [name for name in first if name in second] != [name for name in second if name in first]
    return result


def compare_solvers(a: proto.SolverParameter, b: proto.SolverParameter) -> Difference:
    """Compare solvers field by field."""
    changes = list(_changes(a, b))
    return Difference(fields={"": changes} if changes else {})


def _by_name(layers: Iterable[proto.LayerParameter]) -> dict[str, proto.LayerParameter]:
    found: dict[str, proto.LayerParameter] = {}
    for layer in layers:
        name, n = layer.name, 2
        while name in found:
            name, n = f"{layer.name} (number {n})", n + 1
        found[name] = layer
    return found


def _without_layers(net: proto.NetParameter) -> proto.NetParameter:
    result = proto.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    return result


def _changes(a: Message, b: Message, place: str = "") -> Iterable[Change]:
    """The fields in which two messages of one type differ; blobs are left out."""
    for descriptor in a.DESCRIPTOR.fields:
        name = place + descriptor.name
        if descriptor.message_type is not None and descriptor.message_type.name == "BlobProto":
            continue
        if name == "phase" and not (a.HasField(name) and b.HasField(name)):
            continue  # nets that were saved give every layer its phase
        if isinstance(getattr(a, descriptor.name), Message):
            if a.HasField(descriptor.name) or b.HasField(descriptor.name):
                yield from _changes(getattr(a, descriptor.name), getattr(b, descriptor.name), name + ".")
            continue
        one, other = _shown(a, descriptor), _shown(b, descriptor)
        if one != other:
            yield Change(name, one, other)


def _shown(message: Message, descriptor: Any) -> str | None:
    """A field's value as a prototxt has it; its default where it is not set; None for a list of nothing."""
    value = getattr(message, descriptor.name)
    if isinstance(value, (bool, int, float, str, bytes)):
        return _text(value, descriptor)
    if not len(value):
        return None
    return ", ".join(_text(part, descriptor) for part in value)


def _text(value: Any, descriptor: Any) -> str:
    if isinstance(value, Message):
        return "{ " + " ".join(str(value).split()) + " }"
    if descriptor.enum_type is not None:
        return descriptor.enum_type.values_by_number[value].name
    if isinstance(value, float):
        return str(np.float32(value)) if descriptor.type == descriptor.TYPE_FLOAT else repr(value)
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
