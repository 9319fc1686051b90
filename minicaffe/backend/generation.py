"""A process-wide counter that says whether what was derived from blobs and layers still holds.

It goes up when memory that nets compute in is replaced, when a blob takes another shape, when an attribute of a layer is
set, and when the newest values move between host and device.  Whoever keeps something that depends on these (a captured
pass, a plan of fused layers) notes the generation it was made in, and makes it again once that has passed.
"""

from __future__ import annotations

_generation = 0


def advance() -> None:
    """Start a new generation: memory, a shape or a layer is no longer what it was."""
    global _generation
    _generation += 1


def current() -> int:
    """The generation that the process is in."""
    return _generation
