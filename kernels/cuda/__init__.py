"""The primitives on a GPU: CUDA kernels and matrix products behind the names of ``kernels/reference.py``.

To add one, write its kernel in a ``.cu`` file (``common.cuh`` says how kernels are launched) and a method that
launches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from minicaffe.kernels.cuda.channels import ChannelOps
from minicaffe.kernels.cuda.convolution import ConvolutionOps
from minicaffe.kernels.cuda.launch import Launcher, Program, formula, program, window_struct
from minicaffe.kernels.cuda.losses import LossOps
from minicaffe.kernels.cuda.translate import translate
from minicaffe.kernels.cuda.updates import UpdateOps
from minicaffe.kernels.window import Window


class CudaOps(ChannelOps, ConvolutionOps, LossOps, UpdateOps):
    """Every function of ``kernels/reference.py`` as a method of the same name and signature.

    ``xp`` is CuPy or a module like it; ``gemm(a, b, out, transpose_a, transpose_b, accumulate)`` multiplies matrices,
    or batches of them on a first axis.  No method waits for the device, and none allocates memory the second time that
    it sees a shape.
    """

    def __init__(self, xp: Any, gemm: Callable[..., None]) -> None:
        self.launch = Launcher(xp)
        self._gemm = gemm

    # --- linear algebra

    def gemm(
        self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
    ) -> None:
        """See ``kernels.reference.gemm``."""
        self._gemm(a, b, out, transpose_a, transpose_b, accumulate)

    def dot(self, a: Any, b: Any, out: Any) -> None:
        """See ``kernels.reference.dot``."""
        self._add_sums(program("linear", a.dtype), "dot_partials", 1, a.size, (a, b), out, contiguous=True)

    def bias_add(self, y: Any, bias: Any) -> None:
        """See ``kernels.reference.bias_add``."""
        n, c, *rest = y.shape
        inner = math.prod(rest)
        self.launch.planes(program("linear", y.dtype), "bias_add", n * c, inner, y, bias, c)

    def bias_grad(self, dy: Any, dbias: Any) -> None:
        """See ``kernels.reference.bias_grad``."""
        n, c, *rest = dy.shape
        inner = math.prod(rest)
        self._add_sums(
            program("linear", dy.dtype), "bias_grad_partials", c, n * inner, (dy, inner), dbias, contiguous=inner > 1
        )

    def _add_sums(
        self, source: Program, kernel: str, columns: int, length: int, args: tuple, out: Any, contiguous: bool
    ) -> None:
        """Accumulates the sum down each column into ``out``."""
        partials = self.launch.partial_sums(source, kernel, columns, length, *args, contiguous=contiguous)
        self.launch.reduction(program("linear", out.dtype), "add_partials", *partials, out)

    # --- pooling

    def max_pool(self, x: Any, y: Any, mask: Any, window: Window) -> None:
        """See ``kernels.reference.max_pool``."""
        self._pool("max_pool", x.shape, y.shape, window, y.shape, x, y, mask)

    def max_pool_grad(self, dy: Any, mask: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.max_pool_grad``."""
        self._pool("max_pool_grad", dx.shape, dy.shape, window, dx.shape, dy, mask, dx)

    def average_pool(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool``."""
        self._pool("average_pool", x.shape, y.shape, window, y.shape, x, y)

    def average_pool_grad(self, dy: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool_grad``."""
        self._pool("average_pool_grad", dx.shape, dy.shape, window, dx.shape, dy, dx)

    def stochastic_pool(self, x: Any, u: Any, y: Any, mask: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool``."""
        self._pool("stochastic_pool", x.shape, y.shape, window, y.shape, x, u, y, mask)

    def stochastic_pool_mean(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool_mean``."""
        self._pool("stochastic_pool_mean", x.shape, y.shape, window, y.shape, x, y)

    def _pool(
        self,
        kernel: str,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        window: Window,
        over: Sequence[int],
        *arrays: Any,
    ) -> None:
        """Launches one thread for each element of shape ``over``, which is that of x or of y."""
        struct = window_struct(window, tuple(x_shape[2:]), tuple(y_shape[2:]))
        source = program("pooling", arrays[0].dtype)
        self.launch.planes(source, kernel, math.prod(over[:2]), math.prod(over[2:]), *arrays, struct)

    # --- formulas

    def elementwise(
        self, function: Callable[..., float], arrays: Sequence[Any], scalars: Sequence[float], out: Any
    ) -> None:
        """See ``kernels.reference.elementwise``; ``function`` is computed in the dtype of ``out``."""
        source, values = formula("elementwise", translate(function), out.dtype, len(arrays), 0, scalars)
        self.launch.flat(source, "elementwise", out.size, out, *arrays, *values)

    # --- rows, normalisation, recurrence

    def gather_rows(self, x: Any, index: Any, y: Any) -> None:
        """See ``kernels.reference.gather_rows``."""
        self.launch.planes(program("rows", x.dtype), "gather_rows", *y.shape, x, index, y, x.shape[0])

    def scatter_rows(self, y: Any, index: Any, x: Any) -> None:
        """See ``kernels.reference.scatter_rows``."""
        self.launch.planes(program("rows", x.dtype), "scatter_rows", *y.shape, y, index, x, x.shape[0])

    def lrn(self, x: Any, scale: Any, y: Any, size: int, alpha: float, beta: float, k: float) -> None:
        """See ``kernels.reference.lrn``."""
        n, c, inner = x.shape
        args = (x, scale, y, c, size, float(alpha), float(beta), float(k))
        self.launch.planes(program("lrn", x.dtype), "lrn", n * c, inner, *args)

    def lrn_grad(self, x: Any, y: Any, scale: Any, dy: Any, dx: Any, size: int, alpha: float, beta: float) -> None:
        """See ``kernels.reference.lrn_grad``."""
        n, c, inner = x.shape
        args = (x, y, scale, dy, dx, c, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_grad", n * c, inner, *args)

    def lrn_within(self, x: Any, scale: Any, y: Any, size: int, alpha: float, beta: float) -> None:
        """See ``kernels.reference.lrn_within``."""
        n, c, *image = x.shape
        args = (x, scale, y, *image, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_within", n * c, math.prod(image), *args)

    def lrn_within_grad(
        self, x: Any, y: Any, scale: Any, dy: Any, dx: Any, size: int, alpha: float, beta: float
    ) -> None:
        """See ``kernels.reference.lrn_within_grad``."""
        n, c, *image = x.shape
        args = (x, y, scale, dy, dx, *image, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_within_grad", n * c, math.prod(image), *args)

    def lstm_unit(self, c_before: Any, gates: Any, cont: Any, c: Any, h: Any) -> None:
        """See ``kernels.reference.lstm_unit``."""
        self.launch.planes(program("lstm", c.dtype), "lstm_unit", *c.shape, c_before, gates, cont, c, h)

    def lstm_unit_grad(
        self, c_before: Any, gates: Any, cont: Any, c: Any, dc: Any, dh: Any, dc_before: Any, dgates: Any
    ) -> None:
        """See ``kernels.reference.lstm_unit_grad``."""
        args = (c_before, gates, cont, c, dc, dh, dc_before, dgates)
        self.launch.planes(program("lstm", c.dtype), "lstm_unit_grad", *c.shape, *args)
