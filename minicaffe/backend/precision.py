"""How exactly GPUs multiply matrices of float32."""

from __future__ import annotations

import functools
import logging

from minicaffe.errors import ArgumentError

_log = logging.getLogger(__name__)

FLOAT32 = "fp32"
PRECISIONS = (FLOAT32, "fp16", "bf16")
"""What the factors of products are rounded to; "fp32" leaves them as they are."""

_tf32 = False


def allow_tf32(allowed: bool = True) -> bool:
    """Say whether GPUs may round the factors of matrix products to TF32, eleven significant bits; what was so before.

    The sums stay float32.  Convolutions are matrix products, too.  It is several times as fast on GPUs from Ampere on,
    and nothing on others, on the CPU, and in float64.  It holds for the whole process, for nets that have run already
    as well; at first it is not allowed.
    """
    global _tf32
    before, _tf32 = _tf32, bool(allowed)
    return before


def tf32_allowed() -> bool:
    """What ``allow_tf32`` said last."""
    return _tf32


def checked(precision: str, dtype: object) -> str:
    """``precision``; ArgumentError unless it is one of ``PRECISIONS`` that goes with products of ``dtype``."""
    if precision not in PRECISIONS:
        raise ArgumentError(f"a precision is one of {', '.join(PRECISIONS)}; found {precision!r}")
    if precision != FLOAT32 and str(dtype) != "float32":
        raise ArgumentError(f"precision {precision} is for nets of float32; this one is of {dtype}")
    return precision


@functools.cache
def warn_that_not(precision: str) -> None:
    """Once."""
    _log.warning("precision %s is for GPUs: the CPU multiplies in the precision of its arrays", precision)
