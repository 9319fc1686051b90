"""A process-wide counter that says whether what was derived from blobs and layers still holds.

It changes when memory that nets compute in is replaced, when a blob takes another shape, when an attribute of a layer
is set, and when the newest values move between host and device.  Whoever keeps something that depends on these (a
captured pass, a plan of fused layers) notes the generation it was made in, and makes it again once that has passed.
"""

from __future__ import annotations

import itertools

_numbers = itertools.count(1)
_generation = 0


def advance() -> None:
    """Start a new generation: memory, a shape or a layer is no longer what it was."""
    global _generation
    _generation = next(_numbers)  # no number comes twice, even if several threads are here at once


def current() -> int:
    """The generation that the process is in."""
    return _generation
