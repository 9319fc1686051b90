"""Counts how often memory that nets compute in was replaced: what was recorded of work on it before is out of date."""

from __future__ import annotations

_count = 0


def note() -> None:
    """Note that arrays were replaced, or that the current backend no longer finds the latest numbers in them."""
    global _count
    _count += 1


def count() -> int:
    """How often that happened so far, anywhere in the process."""
    return _count
