"""How long the algorithms of a convolution should take, from what they multiply and move."""

from __future__ import annotations

import math

from minicaffe.kernels.cuda.conv import im2col, implicit_gemm
from minicaffe.kernels.cuda.conv.problem import WEIGHT_GRAD, Problem

COPY = 4.129e12
"""Bytes a second that a large copy reads and writes, and the rates of cuBLAS: measured on an H200."""
SGEMM, TF32 = 51.1e12, 383e12
"""FLOPs a second."""
IMPLICIT_SGEMM, IMPLICIT_TF32 = 0.7, 0.4
"""What implicit_gemm.cu is taken to reach of those rates: assumptions until it is timed on a GPU."""


def im2col_seconds(problem: Problem, tf32: bool) -> float:
    """Columns are written and read once, and so are the products of single images that make a weight gradient."""
    plan = im2col.Plan.of(problem.x_shape, problem.y_shape, problem.window, problem.group)
    moved = plan.columns + (plan.product if problem.kind == WEIGHT_GRAD else 0)
    product = 2 * problem.multiplications / (TF32 if tf32 else SGEMM)
    return product + 2 * 4 * problem.images * moved / COPY


def implicit_seconds(problem: Problem, tf32: bool) -> float:
    """Nothing but the product, tiles that reach over its ends included, and the sums of shares; infinite if the result
    has too few tiles for a GPU, or more of anything than the kernel counts.
    """
    cut = implicit_gemm.Cut.of(problem, "float32")
    if not implicit_gemm.fits(problem) or implicit_gemm.blocks(problem, cut.tile) * cut.splits < implicit_gemm.BLOCKS:
        return math.inf
    rate = TF32 * IMPLICIT_TF32 if tf32 else SGEMM * IMPLICIT_SGEMM
    sums = cut.splits * problem.y_shape[1] * problem.entries if cut.splits > 1 else 0
    return 2 * implicit_gemm.padded(problem, cut.tile) / rate + 2 * 4 * sums / COPY
