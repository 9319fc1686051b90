"""From a layer's type, class or prototxt text and keyword params to the LayerParameter that a net would read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import Message

from minicaffe import proto
from minicaffe.errors import LayerError, PrototxtError
from minicaffe.layers import Layer
from minicaffe.layers.base import registry
from minicaffe.layers.python_layer import PythonLayer, declarations
from minicaffe.proto import text, upgrade
from minicaffe.testing import under_test

Definition: TypeAlias = "str | type | Any"
"""A layer as ``run`` takes it: a registered type, a class of a Python layer, a prototxt ``layer { … }``, or a
LayerParameter.
"""


def least_tops(definition: proto.LayerParameter, bottoms: int) -> int:
    """The least number of tops that the layer can make of so many bottoms; 1 for a Python layer that does not say."""
    cls = registry.get(definition.type, Layer)
    declared = cls.tops
    if definition.type == "Python" and definition.python_param.module == under_test.__name__:
        declared = declarations(getattr(under_test, definition.python_param.layer)).get("tops", 1)
    return bottoms if cls.equal_counts else declared if isinstance(declared, int) else declared[0]


def define(layer: Definition, fields: Mapping[str, Any]) -> proto.LayerParameter:
    """The LayerParameter of ``layer`` with these fields set, of its own options or of the LayerParameter itself.

    A class that is no type of the registry becomes a layer of ``type: "Python"``, as in a user's net.  Messages are
    given as dicts, repeated fields as lists (a single value may stand for a list of one), enums by name or number.

    Raises LayerError for an unknown field or a value that it cannot hold, PrototxtError for text that does not parse.
    """
    result = _without_fields(layer)
    cls = PythonLayer if result.type == "Python" else registry.get(result.type, Layer)
    owners = [cls.param] if cls.param else []
    for name, value in fields.items():
        owner = next((o for o in owners if name in getattr(result, o).DESCRIPTOR.fields_by_name), None)
        if owner is not None:
            _set(getattr(result, owner), name, value, result, f"{owner}.{name}")
        elif name in result.DESCRIPTOR.fields_by_name:
            _set(result, name, value, result, name)
        else:
            known = [f for o in owners for f in getattr(result, o).DESCRIPTOR.fields_by_name]
            raise _unknown(
                name, [*known, *result.DESCRIPTOR.fields_by_name], result, " or ".join([*owners, "LayerParameter"])
            )
    return result


def _without_fields(layer: Definition) -> proto.LayerParameter:
    if isinstance(layer, Message):
        result = proto.LayerParameter()
        result.CopyFrom(layer)
        return result
    if isinstance(layer, str) and "{" in layer:
        return _parse(layer)
    if isinstance(layer, str):
        return proto.LayerParameter(name=layer, type=layer)
    if not isinstance(layer, type):
        raise LayerError(
            f"{layer!r} is no layer: give a type such as 'ReLU', a class derived from minicaffe.Layer, or the text of "
            "a "
            "prototxt layer { … }"
        )
    if layer in registry.values():
        return proto.LayerParameter(name=layer.__name__, type=layer.type)  # type: ignore[attr-defined]
    setattr(under_test, layer.__name__, layer)
    options = proto.PythonParameter(module=under_test.__name__, layer=layer.__name__)
    return proto.LayerParameter(name=layer.__name__, type="Python", python_param=options)


def _parse(definition: str) -> proto.LayerParameter:
    net, _ = upgrade.upgrade_net(text.parse(definition, proto.NetParameter(), "<layer>"))
    if len(net.layer) != 1:
        raise PrototxtError(f"<layer>: one layer {{ … }} is expected; found {len(net.layer)}")
    result = net.layer[0]
    result.name = result.name or result.type
    return result


def _set(message: Message, name: str, value: Any, layer: proto.LayerParameter, path: str) -> None:
    """Set one field of ``message``; ``path`` names it in errors about ``layer``."""
    field = message.DESCRIPTOR.fields_by_name[name]
    one = isinstance(value, (str, bytes, Mapping, Message)) or not isinstance(value, Iterable)
    if not one and not _repeated(message, name):
        raise LayerError(f"{_place(layer, path)}: takes one value; found {value!r}")
    values = [_plain(field, v, layer, path) for v in ([value] if one else value)]
    try:
        message.MergeFrom(type(message)(**{name: values if _repeated(message, name) else values[0]}))
    except (TypeError, ValueError) as error:
        legal = f" (legal: {', '.join(field.enum_type.values_by_name)})" if field.enum_type else ""
        raise LayerError(f"{_place(layer, path)}: cannot hold {value!r}: {error}{legal}") from None


def _repeated(message: Message, name: str) -> bool:
    value = getattr(message, name)
    return hasattr(value, "extend")


def _plain(field: Any, value: Any, layer: proto.LayerParameter, path: str) -> Any:
    """``value`` as protobuf takes it: a dict as a message, a NumPy number as Python's."""
    if isinstance(value, Mapping):
        if field.message_type is None:
            raise LayerError(f"{_place(layer, path)}: is no message; found {value!r}")
        message = getattr(proto, field.message_type.name)()
        for name, inner in value.items():
            if name not in message.DESCRIPTOR.fields_by_name:
                raise _unknown(name, message.DESCRIPTOR.fields_by_name, layer, path)
            _set(message, name, inner, layer, f"{path}.{name}")
        return message
    return value.item() if isinstance(value, np.generic) else value


def _place(layer: proto.LayerParameter, path: str) -> str:
    return f"layer '{layer.name}' ({layer.type}), {path}"


def _unknown(name: str, known: Iterable[str], layer: proto.LayerParameter, owner: str) -> LayerError:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(known)})"
    return LayerError(f"layer '{layer.name}' ({layer.type}): {owner} has no field {name!r}{hint}")
