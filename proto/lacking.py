"""All that a text asks for and minicaffe does not have: fields and layer types, and the forks that have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor

from minicaffe.proto import forks
from minicaffe.proto.locations import Field, layer_blocks, scan

_MOST = 40  # names that are listed


def others(text: str, root: Descriptor, first: str) -> str:
    """What a text of message ``root`` lacks beside the unknown field ``first`` (``Message.field``): a clause for the
    end of an error, or nothing.
    """
    tree = scan(text)[0]
    fields = {name: line for line, name in reversed([*_unknown_fields(tree, root)]) if name != first}
    clauses = [f"line {line}: {name}{_origin(name)}" for name, line in fields.items()]
    parts = [f"; no such fields either: {listed(reversed(clauses))}"] if clauses else []
    if root.name == "NetParameter" and forks.here:
        types = {type: line for line, type in reversed([*_unknown_types(tree)])}
        clauses = [f"line {line}: {type}{_origin(type)}" for type, line in types.items()]
        parts += [f"; no such layer types: {listed(reversed(clauses))}"] if clauses else []
    return "".join(parts)


def listed(clauses: Iterable[str]) -> str:
    """The clauses with commas, the last of very many left out."""
    found = list(clauses)
    rest = f", and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(found[:_MOST]) + rest


def _origin(name: str) -> str:
    """The fork that has a type, or the field of ``Message.field``, in brackets."""
    fork = forks.origin(name.rpartition(".")[2]) if "." in name else forks.origin_of_type(name)
    return f" [{fork.removeprefix(': ')}]" if fork else ""


def _unknown_fields(block: Field, message: Descriptor) -> Iterator[tuple[int, str]]:
    """Line and ``Message.field`` of each field below ``block`` that its message does not have."""
    for child in block.fields:
        field = message.fields_by_name.get(child.name)
        if field is None:
            yield child.line, f"{message.name}.{child.name}"
        elif field.message_type:
            yield from _unknown_fields(child, field.message_type)


def _unknown_types(tree: Field) -> Iterator[tuple[int, str]]:
    """Line and type of each layer of a type that nobody registered; V1 layers have other names for theirs."""
    for block in layer_blocks(tree):
        for field in block.named("type") if block.name == "layer" else ():
            if field.value and field.value not in forks.here:
                yield field.line, field.value
