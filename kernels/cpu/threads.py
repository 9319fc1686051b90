"""How many threads the work on an array is shared out over."""

from __future__ import annotations

from numba import get_num_threads

_LEAST = 1 << 14  # elements: waking a thread takes about as long as a simple pass over so many


def parts(size: int) -> int:
    """Parts to divide ``size`` elements into: one a thread, but none too small to be worth waking one."""
    return max(1, min(get_num_threads(), size // _LEAST))
