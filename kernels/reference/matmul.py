"""Matrix products."""

from __future__ import annotations

from minicaffe.kernels.reference.arrays import Array


def gemm(
    a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
) -> None:
    """Matrix product ``out = op(a) op(b)`` of 2-D arrays, added to ``out`` if ``accumulate``."""
    product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    if accumulate:
        out += product
    else:
        out[...] = product
