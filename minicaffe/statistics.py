"""What is to be known of an array's numbers at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Statistics:
    """Shape and type; of the finite values minimum, maximum, mean and standard deviation (None if there is none); how
    many are zero, NaN, and infinite.
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    infinite: int

    def to_json(self) -> dict[str, Any]:
        """Everything as numbers, a list and a string."""
        return {**vars(self), "shape": list(self.shape)}

    @property
    def remark(self) -> str:
        """What is wrong or odd, in words; empty if nothing is."""
        count = int(np.prod(self.shape, dtype=np.int64))
        parts = [f"{self.nan} NaN"] if self.nan else []
        parts += [f"{self.infinite} infinite"] if self.infinite else []
        if count and self.zeros == count:
            parts.append("all zero")
        return ", ".join(parts)


def describe(values: ArrayLike) -> Statistics:
    """The statistics of an array of numbers."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        finite, nan, infinite = array, 0, 0
    else:
        nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        finite = array[np.isfinite(array)] if nan or infinite else array
    some = finite.size > 0
    return Statistics(
        shape=array.shape,
        dtype=str(array.dtype),
        minimum=float(finite.min()) if some else None,
        maximum=float(finite.max()) if some else None,
        mean=float(finite.mean(dtype=np.float64)) if some else None,
        std=float(finite.std(dtype=np.float64)) if some else None,
        zeros=int((array == 0).sum()),
        nan=nan,
        infinite=infinite,
    )
