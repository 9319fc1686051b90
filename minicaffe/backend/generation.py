"""A process-wide counter that says whether what was derived from blobs and layers still holds.

It goes up when memory that nets compute in is replaced, when a blob takes another shape, when an attribute of a layer is
set, and when the newest values move between host and device.  Whoever keeps something that depends on these (a captured
pass, a plan of fused layers) notes the generation it was made in, and makes it again once that has passed.
"""

from __future__ import annotations

import threading

_generation = 0
_lock = threading.Lock()  # two threads that count at once count twice


def advance() -> None:
    """Start a new generation: memory, a shape or a layer is no longer what it was."""
    global _generation
    with _lock:
        _generation += 1


def current() -> int:
    """The generation that the process is in."""
    return _generation
