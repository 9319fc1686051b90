"""Where the layers and fields of a prototxt stand, for messages that say ``lenet.prototxt:31``.

A message parsed by protobuf forgets its lines, so the text is read once more by a tolerant scanner: it knows names,
values and blocks, not the schema, and accepts anything, also a text with errors.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?)
    |(?P<mark>[{}<>\[\]:;,])
    |(?P<word>[^\s\#"'{}<>\[\]:;,]+)""",
    re.VERBOSE,
)
_PHASES = {"TRAIN": 0, "0": 0, "TEST": 1, "1": 1}


@dataclass(slots=True)
class Field:
    """One ``name: value`` or ``name { fields }`` of a text message; ``line`` counts from 1."""

    name: str
    line: int
    value: str | None = None
    fields: list[Field] = field(default_factory=list)

    def named(self, name: str) -> Iterator[Field]:
        """The direct fields called ``name``."""
        return (child for child in self.fields if child.name == name)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Field]]:
        """All fields below this one, the direct ones first, each with its dotted path."""
        paths = [(prefix + child.name, child) for child in self.fields]
        yield from paths
        for path, child in paths:
            yield from child.walk(path + ".")


def scan(text: str) -> tuple[Field, list[Field]]:
    """The fields of ``text`` under an unnamed root, and the blocks still open at its end, outermost first."""
    root = Field("", 0)
    stack = [root]
    last: Field | None = None  # the field that a value or a block would belong to
    in_list = expects_value = False
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup == "mark":
            if token in "{<":
                if last is None:  # the next message of a list
                    siblings = stack[-1].fields
                    last = Field(siblings[-1].name if siblings else "", line)
                    siblings.append(last)
                stack.append(last)
            elif token in "}>" and len(stack) > 1:
                stack.pop()
            if token in "{<}>":
                last = None
            if token != ",":
                in_list = token == "["
            expects_value = token == ":" or in_list
        elif match.lastgroup != "skip":
            if expects_value and last is not None:
                last.value = token.strip("\"'") if last.value is None else last.value
                expects_value = False
            elif match.lastgroup == "word":
                last = Field(token, line)
                stack[-1].fields.append(last)
        line += token.count("\n")
    return root, stack[1:]


class Locations:
    """Where each layer of one prototxt stands; also where a layer of a solver's inline net does."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._text = text

    @functools.cached_property
    def _layers(self) -> dict[str, list[Field]]:
        """The blocks of layers by name; found when somebody first asks for a place."""
        layers: dict[str, list[Field]] = {}
        for block in layer_blocks(scan(self._text)[0]):
            for owner in (block, *block.named("layer")):  # V0 keeps the name one block deeper
                for name in owner.named("name"):
                    layers.setdefault(name.value or "", []).append(block)
        return layers

    def of(self, layer_name: str, phase: int | None = None, field: str | None = None) -> str:
        """``"path:line"`` of a layer's block or of a field in it; just the path if the text does not hold the layer.

        Of several layers with one name, the one whose rules admit ``phase`` (``proto.TRAIN``, ``proto.TEST``) is meant.
        ``field`` is a field's name at any depth, or the end of its dotted path: ``"kernel_size"``,
        ``"weight_filler.type"``.
        """
        blocks = self._layers.get(layer_name)
        if not blocks:
            return self.path
        block = next((block for block in blocks if phase is None or _admits(block, phase)), blocks[0])
        if field is not None:
            found = [child for path, child in block.walk() if f".{path}".endswith(f".{field}")]
            block = found[0] if found else block
        return f"{self.path}:{block.line}"


def layer_blocks(block: Field) -> Iterator[Field]:
    """The blocks of layers, in inline nets too."""
    for child in block.fields:
        if child.name in ("layer", "layers"):
            yield child
        elif child.name.endswith("net_param"):
            yield from layer_blocks(child)


def _admits(block: Field, phase: int) -> bool:
    """Whether the layer's include and exclude rules, as far as they name phases, let it into ``phase``."""

    def phases(rules: str) -> list[int | None]:
        return [_PHASES.get(value.value or "") for rule in block.named(rules) for value in rule.named("phase")]

    included = phases("include")
    return phase in included if included else phase not in phases("exclude")
