"""What takes the memory of a device, for the error that says there is none left."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from minicaffe.limits import amount

Part = tuple[str, dict[int, int]]
"""What it is, and the bytes of each piece of memory by an id: what several parts share counts for the first."""

_owners: weakref.WeakKeyDictionary[object, Callable[[Any, Any], Iterable[Part]]] = weakref.WeakKeyDictionary()


def account_for(owner: Any, parts: Callable[[Any, Any], Iterable[Part]]) -> None:
    """From now on ``parts(owner, where)`` tells what ``owner`` holds on the backend ``where``."""
    _owners[owner] = parts


def table(where: Any, *more: tuple[str, int]) -> str:
    """A line for each part that holds memory on ``where``, then ``more`` names and bytes."""
    rows: list[tuple[str, int]] = []
    counted: set[int] = set()
    for owner, parts in list(_owners.items()):
        for name, pieces in parts(owner, where):
            rows.append((name, sum(size for key, size in pieces.items() if key not in counted)))
            counted.update(pieces)
    rows = [row for row in rows if row[1]] + list(more)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:{width}}  {amount(size)}" for name, size in rows)
