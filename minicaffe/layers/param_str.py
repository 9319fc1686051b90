"""The options of Faster R-CNN's layers, which nets give in ``param_str``."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any, ClassVar

from numpy.typing import NDArray

from minicaffe.boxes.anchors import anchors_of_cell
from minicaffe.layers.base import Layer

_BASE = 16
"""Pixels of the side of an anchor's square before it is scaled."""

_MOST = 2**31
"""Above all numbers that make sense: Python's integers may be larger than any float."""


class Worded(Layer):
    """Base of layers that take what they need to know from ``param_str``."""

    fixed: ClassVar[Collection[str] | None] = None
    param_str: str = ""

    def number(self, name: str, default: float | None = None) -> float:
        """A positive option, or without a sign the ``default``; one without a default must be given."""
        value = options_of(self.param_str).get(name, default)
        good = isinstance(value, (int, float)) and abs(value) < _MOST and (default is not None or value > 0)
        kind = "a positive number" if default is None else "a number"
        self.require(good, f"param_str must give {name!r}, {kind}; found {self.param_str!r:.80}", "python_param")
        return value or 0

    def anchors(self) -> NDArray:
        """The anchors (A, 4) of the first cell, by ``'ratios'`` (0.5, 1, 2) and ``'scales'`` (8, 16, 32)."""
        given, found = options_of(self.param_str), []
        for name, default in (("ratios", (0.5, 1, 2)), ("scales", (8, 16, 32))):
            values = given.get(name, default)
            good = isinstance(values, (list, tuple)) and all(
                isinstance(v, (int, float)) and 0 < v < _MOST for v in values
            )
            self.require(
                good and len(values) > 0,
                f"param_str must give {name!r} as a list of positive numbers; found {values!r:.80}",
                "python_param",
            )
            found.append(values)
        return anchors_of_cell(_BASE, *found)


def options_of(param_str: str) -> dict[str, Any]:
    """What a ``param_str`` says, in Python's form (``'a': 1, 'b': (1, 2)``) or YAML's (``a: 1`` on a line)."""
    found = _literal("{" + param_str.strip().strip("{}") + "}")
    if isinstance(found, dict):
        return found
    options = {}
    for line in param_str.splitlines():
        name, _, value = line.partition(":")
        options[name.strip().strip("'\"")] = _literal(value.strip().rstrip(","))
    return options


def _literal(words: str) -> Any:
    """The Python value that these words write, or they themselves."""
    try:
        return ast.literal_eval(words)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return words
