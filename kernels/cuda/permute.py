"""The axes of an array in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PermuteOps:
    """The functions of ``kernels/reference/permute.py``."""

    def permute(self, x: Any, axes: Sequence[int], y: Any) -> None:
        """See ``kernels.reference.permute``."""
        y[...] = x.transpose(axes)
