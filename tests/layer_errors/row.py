"""One thing that a layer refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A layer of these fields and bottoms of these shapes gives an error that names ``field`` and matches ``problem``.

    ``when``: "set-up"; "reshape", when the bottoms take the shapes ``later``; "forward", when bottom i holds the values
    of ``bad = (i, values)``; "backward".
    """

    type: str
    field: str | None
    problem: str
    shapes: tuple[Shape, ...] = ()
    tops: int | None = None
    later: tuple[Shape, ...] = ()
    bad: tuple[int, list[float]] | None = None
    backward: bool = False
    phase: str = "TRAIN"
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.type}-{self.field}-{self.problem[:40]}"


def row(type: str, field: str | None, problem: str, *shapes: Shape, **how: Any) -> Row:
    """A Row; keywords that are none of its own are fields of the layer."""
    own = {name: how.pop(name) for name in ("tops", "later", "bad", "backward", "phase") if name in how}
    return Row(type, field, problem, shapes, fields=how, **own)
