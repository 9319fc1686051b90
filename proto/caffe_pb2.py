"""Caffe's messages and enums, as protoc's module ``caffe_pb2`` has them.

The classes are built at import from ``caffe.desc`` (compiled from ``caffe.proto`` and the files beside it) in a
descriptor pool of our own: they work with any protobuf runtime that setup.cfg allows, and beside another package that
registers a ``caffe.proto``.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.internal import enum_type_wrapper

MESSAGES: dict[str, Descriptor] = {}
"""What describes each message, by its name; a message inside another as ``Outer.Inner``."""


def _load() -> dict[str, Any]:
    """The file's descriptor, message classes, enum wrappers and values of file-level enums, by name."""
    schema = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files(__package__).joinpath("caffe.desc").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    names: dict[str, Any] = {}
    for file in schema.file:
        pool.Add(file)
        descriptor = names["DESCRIPTOR"] = pool.FindFileByName(file.name)
        for name, message in descriptor.message_types_by_name.items():
            MESSAGES[name] = message
            MESSAGES.update({f"{name}.{inner}": nested for inner, nested in message.nested_types_by_name.items()})
            names[name] = message_factory.GetMessageClass(message)
        for name, enum in descriptor.enum_types_by_name.items():
            names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
            names.update((value.name, value.number) for value in enum.values)
    return names


NAMES = _load()
globals().update(NAMES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
