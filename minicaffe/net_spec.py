"""pycaffe's ``caffe.net_spec``: nets written in Python, as calls of layers on the tops of others.

``layers`` and ``params`` are usually imported as L and P::

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.pool = L.Pooling(n.data, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.to_proto()
"""

from __future__ import annotations

import difflib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from minicaffe import proto
from minicaffe.errors import ArgumentError, ArgumentTypeError, UnknownNameError

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "Parameters",
    "Top",
    "assign_proto",
    "layers",
    "param_name_dict",
    "params",
    "to_proto",
]


def param_name_dict() -> dict[str, str]:
    """Which field of a layer holds the options of a type, without its ``_param``: "Pooling" to "pooling".

    Of several fields of one kind, which forks of Caffe have, that with the lowest number.
    """
    fields = sorted(proto.LayerParameter.DESCRIPTOR.fields, key=lambda field: -field.number)
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in fields
        if field.name.endswith("_param")
    }


_PARAM_NAMES = param_name_dict()


class Top:
    """One blob that a layer makes: number ``n`` of ``fn``."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """The net of all layers that this blob needs; see ``to_proto``."""
        return to_proto(self)


class Function:
    """A layer: its type, the tops that it takes, and its options.

    ``ntop`` says how many blobs it makes (1), ``in_place`` that its top is its bottom.  TypeError for an input that is
    no Top.
    """

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = tuple(inputs)
        for index, given in enumerate(self.inputs):
            if not isinstance(given, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(given)})")
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        if not isinstance(self.ntop, int) or self.ntop < 0:
            raise ArgumentError(f"{type_name}: ntop is how many tops it makes; found {self.ntop!r}")
        if self.in_place and not self.inputs:
            raise ArgumentError(f"{type_name}: in_place needs an input, in whose place it works")
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> Any:
        """The net of this layer and all that it needs; see ``to_proto``."""
        return to_proto(self)


def to_proto(*tops: Top | Function) -> Any:
    """A NetParameter of all layers that ``tops`` need, each after those that it needs.

    Blobs are named after the type that makes them, Convolution1, Convolution2 and so on, and layers after their first
    top.  UnknownNameError (an AttributeError) for an option that the layer has not, ArgumentError for a value that it
    cannot have, ArgumentTypeError (a TypeError) for what is no top.
    """
    wrong = [top for top in tops if not isinstance(top, (Top, Function))]
    if wrong or not tops:
        raise ArgumentTypeError(f"to_proto takes tops of layers; found {repr(wrong[0]) if wrong else 'none'}")
    return _Definition({}).net(tops)


class NetSpec:
    """A net whose blobs have the names of the attributes, or items, that they are assigned to.

    A layer that makes no blob (``ntop=0``) is assigned as it is.
    """

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, (Top, Function)):
            raise TypeError(
                f"NetSpec: {name} must be a top of a layer; found {value!r}. A layer of several tops is assigned as "
                "n.data, n.label = L.Data(…, ntop=2)"
            )
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Any:
        if name not in self.tops:
            raise UnknownNameError(f"the NetSpec has no top {name!r}; it has: {', '.join(self.tops) or 'none'}")
        return self.tops[name]

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tops

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.tops]

    def keys(self) -> list[str]:
        """The names of the tops, in order.  This and the next two are of SSD's fork of Caffe."""
        return list(self.tops)

    def vals(self) -> list[Top | Function]:
        """The tops, in order."""
        return list(self.tops.values())

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Set further options of the layer that makes top ``name``."""
        made = self[name]
        (made.fn if isinstance(made, Top) else made).params.update(params)

    def to_proto(self) -> Any:
        """A NetParameter of all layers that the assigned tops need; errors as of the function ``to_proto``."""
        return _Definition({top: name for name, top in self.tops.items()}).net(self.tops.values())


class _Definition:
    """A net in the making: names of tops, and the messages of layers so far."""

    def __init__(self, names: Mapping[Top | Function, str]) -> None:
        self._names = dict(names)
        self._made: Counter[str] = Counter()
        self._layers: OrderedDict[Function, Any] = OrderedDict()

    def net(self, tops: Iterable[Top | Function]) -> Any:
        for top in tops:
            for function in self._missing(top.fn if isinstance(top, Top) else top):
                self._layers[function] = self._layer(function)
        return proto.NetParameter(layer=self._layers.values())

    def _missing(self, function: Function) -> Iterator[Function]:
        """The layers that it needs and that are not there yet, in order, itself last."""
        path = [(function, iter(function.inputs))]
        while path:
            current, inputs = path[-1]
            needed = next((top.fn for top in inputs if top.fn not in self._layers), None)
            if needed is not None:
                path.append((needed, iter(needed.inputs)))
                continue
            path.pop()
            if current not in self._layers:
                yield current

    def _layer(self, function: Function) -> Any:
        bottoms = [self._layers[top.fn].top[top.n] for top in function.inputs]
        tops = bottoms if function.in_place else [self._name(top, function.type_name) for top in function.tops]
        name = self._name(function.tops[0] if function.tops else function, function.type_name)
        layer = proto.LayerParameter(name=name, type=function.type_name, bottom=bottoms, top=tops)
        for key, value in function.params.items():
            _set_option(layer, key, value)
        return layer

    def _name(self, made: Top | Function, type_name: str) -> str:
        if made not in self._names:
            self._made[type_name] += 1
            self._names[made] = f"{type_name}{self._made[type_name]}"
        return self._names[made]


def _set_option(layer: Any, key: str, value: Any) -> None:
    """Set an option of the layer's type, or one that all layers have."""
    of_type = f"{_PARAM_NAMES[layer.type]}_param" if layer.type in _PARAM_NAMES else None
    options = getattr(layer, of_type).DESCRIPTOR.fields_by_name if of_type else {}
    place = f"layer '{layer.name}' ({layer.type})"
    if key in options and not key.endswith("param"):
        assign_proto(getattr(layer, of_type or ""), key, value, f"{place}, {of_type}")
    elif key in layer.DESCRIPTOR.fields_by_name:
        assign_proto(layer, key, value, place)
    else:
        near = difflib.get_close_matches(key, [*options, *layer.DESCRIPTOR.fields_by_name], n=1)
        hint = f"did you mean {near[0]}?" if near else "options of other types are given as in pooling_param=dict(…)"
        raise UnknownNameError(f"{place} has no option {key!r}; {hint}")


def assign_proto(proto: Message, name: str, val: Any, place: str | None = None) -> None:
    """Set a field of a message: from a dictionary a message, from a list a repeated field, or from what it repeats.

    UnknownNameError (an AttributeError) if there is no such field, ArgumentError (a ValueError) if the value does not
    fit; they begin with ``place``.
    """
    place = place or proto.DESCRIPTOR.name
    if name not in proto.DESCRIPTOR.fields_by_name:
        near = difflib.get_close_matches(name, proto.DESCRIPTOR.fields_by_name, n=1)
        raise UnknownNameError(f"{place} has no field {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    field = getattr(proto, name)
    where = f"{place}, {name}"
    try:
        if hasattr(field, "extend"):
            values = list(val) if isinstance(val, (list, tuple, np.ndarray)) else [val]
            for value in values:
                if isinstance(value, Mapping):
                    _assign_all(field.add(), value, where)
                else:
                    field.extend([value])
        elif isinstance(val, Mapping):
            field.SetInParent()
            _assign_all(field, val, where)
        elif isinstance(field, Message):
            field.CopyFrom(val)
        else:
            setattr(proto, name, val)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, (ArgumentError, UnknownNameError)):
            raise
        raise ArgumentError(f"{where}: cannot be {val!r} ({error})") from error


def _assign_all(message: Message, values: Mapping[str, Any], place: str) -> None:
    for name, value in values.items():
        assign_proto(message, name, value, place)


class Layers:
    """``layers.Convolution(bottom, kernel_size=3)`` is the top of a new layer of that type: a tuple of them for several
    (``ntop``), the Function for none.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*inputs: Top, **options: Any) -> Any:
            function = Function(name, inputs, options)
            return function if function.ntop == 0 else function.tops[0] if function.ntop == 1 else function.tops

        layer.__name__ = layer.__qualname__ = name
        return layer


class Parameters:
    """``params.Pooling.MAX``: the values of options that are enums, by the type of the layer."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(proto.caffe_pb2, f"{name}Parameter"):
            raise UnknownNameError(f"there are no options of a type {name!r} (no message {name}Parameter)")
        return _Values(getattr(proto.caffe_pb2, f"{name}Parameter"))


class _Values:
    """The values of the enums that a message defines."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self._values = [value.name for enum in message.DESCRIPTOR.enum_types for value in enum.values]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not hasattr(self._message, name):
            known = ", ".join(self._values) or "none"
            raise UnknownNameError(f"{self._message.DESCRIPTOR.name} has no value {name!r}; it has: {known}")
        return getattr(self._message, name)

    def __dir__(self) -> list[str]:
        return self._values


layers = Layers()
params = Parameters()
