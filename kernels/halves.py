"""Numbers of 16 bits in which arrays of float32 can be kept: fp16 and bfloat16."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Halves(NamedTuple):
    """A format of 16 bits: the type of half.cuh, and the dtype of arrays that hold it."""

    c_type: str
    dtype: np.dtype[Any]

    def encode(self, values: NDArray) -> NDArray:
        """The nearest of these numbers, of two equally near the even one; infinite beyond the largest."""
        if self.dtype == np.float16:
            with np.errstate(over="ignore"):
                return values.astype(np.float16)
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)

    def decode(self, kept: NDArray) -> NDArray:
        """What such an array holds, in float32."""
        if self.dtype == np.float16:
            return kept.astype(np.float32)
        return (kept.astype(np.uint32) << 16).view(np.float32)


FORMATS = {"fp16": Halves("Half", np.dtype(np.float16)), "bf16": Halves("BFloat16", np.dtype(np.uint16))}
"""By their names.  NumPy and CuPy have no bfloat16: its bits are kept in uint16."""

_OF_DTYPE = {halves.dtype: halves for halves in FORMATS.values()}


def held_by(*arrays: Any) -> Halves | None:
    """The format of the first of some arrays that holds 16 bits, if any does."""
    return next((_OF_DTYPE[array.dtype] for array in arrays if array.dtype in _OF_DTYPE), None)


def rounded_to(factors: str, *arrays: Any) -> Halves | None:
    """The format of 16 bits to which factors are rounded where a product reads and writes ``arrays``: that in which one
    of them is kept already, or that named ``factors``, if any has this name; None for float64.
    """
    kept = held_by(*arrays)
    return FORMATS.get(factors) if kept is None and arrays[0].dtype == np.float32 else kept
