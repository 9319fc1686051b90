"""A process-wide counter that says whether what was derived from blobs and layers still holds.

It changes when memory that nets compute in is replaced, when a blob takes another shape, when an attribute of a layer
is set.  Whoever keeps something that depends on these (a captured pass, a plan of fused layers) notes the generation
it was made in, and makes it again once that has passed.

A second counter says whether newest values have moved between host and device: what is kept stays right, but must find
them where it looks for them.
"""

from __future__ import annotations

import itertools

_numbers = itertools.count(1)
_generation = 0
_moves = 0


def advance() -> None:
    """Start a new generation: memory, a shape or a layer is no longer what it was."""
    global _generation
    _generation = next(_numbers)  # no number comes twice, even if several threads are here at once


def current() -> int:
    """The generation that the process is in."""
    return _generation


def note_move() -> None:
    """Note that newest values are on the other side now, host or device."""
    global _moves
    _moves = next(_numbers)


def moves() -> int:
    """Another number as soon as any newest values have moved."""
    return _moves
