"""How exactly GPUs multiply matrices of float32."""

from __future__ import annotations

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
