"""Tables that commands print: as wide as the terminal, or wide enough in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

PIPE_WIDTH = 160


def show(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, without the columns that are empty; headings that begin with > are those of numbers, which stand
    at the right.
    """
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    table = Table()
    for i in kept:
        right = headings[i].startswith(">")
        table.add_column(headings[i].removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, highlight=False).print(table)


def shape(sizes: Sequence[int]) -> str:
    """A shape as in Caffe's words: 20x1x5x5."""
    return "x".join(map(str, sizes)) or "one number"


def number(value: float | None) -> str:
    """Five digits; nothing where there is no number."""
    return "" if value is None else f"{value:.5g}"
