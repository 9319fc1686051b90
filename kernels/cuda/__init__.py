"""The primitives on a GPU: CUDA kernels and matrix products behind the names of ``kernels/reference``.

To add one, write its kernel in a ``.cu`` file (``common.cuh`` says how kernels are launched) and a method that launches
it, in the module that bears the name of its family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicaffe.kernels.cuda.batch_norm import BatchNormOps
from minicaffe.kernels.cuda.bias import BiasOps
from minicaffe.kernels.cuda.channel import ChannelOps
from minicaffe.kernels.cuda.conv.select import ConvOps
from minicaffe.kernels.cuda.dot import DotOps
from minicaffe.kernels.cuda.elementwise import ElementwiseOps
from minicaffe.kernels.cuda.focal_loss import FocalLossOps
from minicaffe.kernels.cuda.labels import LabelOps
from minicaffe.kernels.cuda.launch import Launcher
from minicaffe.kernels.cuda.loss import LossOps
from minicaffe.kernels.cuda.lrn import LrnOps
from minicaffe.kernels.cuda.lstm import LstmOps
from minicaffe.kernels.cuda.permute import PermuteOps
from minicaffe.kernels.cuda.pooling import PoolingOps
from minicaffe.kernels.cuda.roi import RoiOps
from minicaffe.kernels.cuda.rounding import FactorRounding
from minicaffe.kernels.cuda.rows import RowsOps
from minicaffe.kernels.cuda.softmax import SoftmaxOps
from minicaffe.kernels.cuda.solver_update import SolverUpdateOps
from minicaffe.kernels.cuda.unit_norm import UnitNormOps
from minicaffe.kernels.halves import rounded_to


class CudaOps(
    BatchNormOps,
    BiasOps,
    ChannelOps,
    ConvOps,
    DotOps,
    ElementwiseOps,
    FocalLossOps,
    LabelOps,
    LossOps,
    LrnOps,
    LstmOps,
    PermuteOps,
    PoolingOps,
    RoiOps,
    RowsOps,
    SoftmaxOps,
    SolverUpdateOps,
    UnitNormOps,
):
    """Every function of ``kernels/reference`` as a method of the same name and signature.

    ``xp`` is CuPy or a module like it; ``gemm(a, b, out, transpose_a, transpose_b, accumulate)`` multiplies matrices,
    or batches of them on a first axis, from factors of 16 bits (``rounding``) as well; ``tensor_cores(dtype)`` tells
    whether kernels of our own may use these, for which float32 is rounded to TF32; ``zeros`` makes large arrays.  No
    method waits for the device, but for ``trials``, and none allocates memory the second time that it sees a shape.
    """

    def __init__(
        self,
        xp: Any,
        gemm: Callable[..., None],
        tensor_cores: Callable[[Any], bool],
        zeros: Callable[[tuple[int, ...], Any], Any] | None = None,
    ) -> None:
        self.launch = Launcher(xp)
        self.tensor_cores = tensor_cores
        self.factors = "fp32"
        """How the factors of float32 products are rounded before: to "fp16" or "bf16"; or as ``tensor_cores`` say."""
        self._gemm = gemm
        self._rounded = FactorRounding(zeros or xp.zeros, self.launch)

    @property
    def rounded_bytes(self) -> int:
        """Memory that is held for rounded factors."""
        return self._rounded.nbytes

    def gemm(
        self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
    ) -> None:
        """See ``kernels.reference.gemm``."""
        halves = rounded_to(self.factors, a, b, out)
        if halves is not None and a.size and b.size:
            a, b = (self._rounded(i, x, halves) if x.dtype == np.float32 else x for i, x in enumerate((a, b)))
        self._gemm(a, b, out, transpose_a, transpose_b, accumulate)
