"""Counts how often memory that nets compute in was replaced, or layers were changed: what was recorded before is out of
date.
"""

from __future__ import annotations

_count = 0


def note() -> None:
    """Note that arrays were replaced or a layer was changed, or that the latest numbers are no longer in the host's
    memory.
    """
    global _count
    _count += 1


def count() -> int:
    """How often that happened so far, anywhere in the process."""
    return _count
