"""The GPU path without a GPU: the same backend, ops and kernels, on the arrays of ``strict_cupy``."""

from __future__ import annotations

import numpy as np
import strict_cupy

from minicaffe.backend.device import DeviceBackend
from minicaffe.kernels import halves


class StrictBackend(DeviceBackend):
    """A backend whose device is ``strict_cupy``; only the matrix products are NumPy's."""

    name = "strict"

    def __init__(self) -> None:
        super().__init__(strict_cupy, gemm, lambda dtype: np.dtype(dtype) == np.float16)


def gemm(
    a: strict_cupy.ndarray,
    b: strict_cupy.ndarray,
    out: strict_cupy.ndarray,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> None:
    """What ``minicaffe.backend.gpu.CublasGemm`` does, with the same demands on the arrays."""
    for array in (a, b, out):
        matrix = array._host if array.ndim == 2 else array._host[0]
        if array.dtype not in (out.dtype, a.dtype) or not matrix.flags.c_contiguous:
            raise ValueError(f"gemm takes contiguous matrices of one dtype, not {array!r} with strides {array.strides}")
    kept = halves.held_by(out)
    factors = [strict_cupy.wide(x._host, x.dtype) if x.dtype.itemsize == 2 else x._host for x in (a, b)]
    left, right = (x.swapaxes(-1, -2) if t else x for x, t in zip(factors, (transpose_a, transpose_b), strict=True))
    if kept is not None:
        before = strict_cupy.wide(out._host, out.dtype) if accumulate else 0
        out._host[...] = kept.encode(before + left @ right)
    elif accumulate:
        out._host[...] += left @ right
    else:
        np.matmul(left, right, out=out._host)
