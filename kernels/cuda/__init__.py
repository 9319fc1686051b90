"""The primitives on a GPU: CUDA kernels and matrix products behind the names of ``kernels/reference.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.cuda.convolution import ConvolutionOps
from minicaffe.kernels.cuda.launch import Launcher, window_struct
from minicaffe.kernels.cuda.translate import translate
from minicaffe.kernels.window import Window


class CudaOps(ConvolutionOps):
    """Every function of ``kernels/reference.py`` as a method of the same name and signature.

    ``xp`` is CuPy or a module like it; ``gemm(a, b, out, transpose_a, transpose_b, accumulate)`` multiplies matrices, or
    batches of them on a first axis.  No method waits for the device, and none allocates memory the second time that it
    sees a shape.
    """

    def __init__(self, xp: Any, gemm: Callable[..., None]) -> None:
        self.launch = Launcher(xp)
        self._gemm = gemm

    # --- linear algebra

    def gemm(self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False) -> None:
        """See ``kernels.reference.gemm``."""
        self._gemm(a, b, out, transpose_a, transpose_b, accumulate)

    def dot(self, a: Any, b: Any, out: Any) -> None:
        """See ``kernels.reference.dot``."""
        partials = self.launch.partial_sums("linear", "dot_partials", a.dtype, 1, a.size, a, b)
        self.launch.finish("linear", "add_partials", a.dtype, partials, out)

    def bias_add(self, y: Any, bias: Any) -> None:
        """See ``kernels.reference.bias_add``."""
        n, c, inner = y.shape
        self.launch.planes("linear", "bias_add", y.dtype, n * c, inner, y, bias, c)

    def bias_grad(self, dy: Any, dbias: Any) -> None:
        """See ``kernels.reference.bias_grad``."""
        n, c, inner = dy.shape
        partials = self.launch.partial_sums(
            "linear", "bias_grad_partials", dy.dtype, c, n * inner, dy, inner, contiguous=inner > 1
        )
        self.launch.finish("linear", "add_partials", dy.dtype, partials, dbias)

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

    def _pool(self, kernel: str, x_shape: Sequence[int], y_shape: Sequence[int], window: Window, over: Sequence[int], *arrays: Any) -> None:
        """Launches one thread for each element of shape ``over``, which is that of x or of y."""
        struct = window_struct(window, tuple(x_shape[2:]), tuple(y_shape[2:]))
        self.launch.planes("pooling", kernel, arrays[0].dtype, math.prod(over[:2]), math.prod(over[2:]), *arrays, struct)

    # --- neurons

    def elementwise(self, function: Callable[..., float], arrays: Sequence[Any], scalars: Sequence[float], out: Any) -> None:
        """See ``kernels.reference.elementwise``; ``function`` is computed in the dtype of ``out``."""
        self.launch.elementwise(translate(function), out.dtype, out.size, out, tuple(arrays), tuple(scalars))

    # --- softmax, losses, accuracy

    def softmax(self, x: Any, y: Any) -> None:
        """See ``kernels.reference.softmax``."""
        self._softmax("softmax", x, y)

    def softmax_grad(self, y: Any, dy: Any, dx: Any) -> None:
        """See ``kernels.reference.softmax_grad``."""
        self._softmax("softmax_grad", y, dy, dx)

    def _softmax(self, kernel: str, *arrays: Any) -> None:
        outer, channels, inner = arrays[0].shape
        blocks = min(outer, 65535)
        if arrays[0].size:
            self.launch.reduction("softmax", kernel, arrays[0].dtype, inner, channels, blocks, inner, channels, outer, *arrays)

    def check_labels(self, label: Any, classes: int, ignore_label: int | None, bad: Any) -> None:
        """See ``kernels.reference.check_labels``."""
        bad.fill(-1)
        self.launch.flat("loss", "check_labels", label.dtype, label.size, label, classes, *_ignore(ignore_label), bad)

    def loss_normalizer(self, label: Any, outer: int, ignore_label: int | None, normalization: int, normalizer: Any) -> None:
        """See ``kernels.reference.loss_normalizer``."""
        if normalization == reference.VALID:
            partials = self.launch.partial_sums("loss", "valid_partials", label.dtype, 1, label.size, label, *_ignore(ignore_label))
            self.launch.finish("loss", "normalizer_of_partials", label.dtype, partials, normalizer)
        else:
            count = {reference.FULL: label.size, reference.BATCH_SIZE: outer, reference.NONE: 1}[normalization]
            normalizer.fill(max(count, 1))

    def softmax_loss(self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, loss: Any) -> None:
        """See ``kernels.reference.softmax_loss``."""
        _, channels, inner = prob.shape
        partials = self.launch.partial_sums(
            "loss", "softmax_loss_partials", prob.dtype, 1, label.size, prob, label, channels, inner, *_ignore(ignore_label)
        )
        self.launch.finish("loss", "softmax_loss_of_partials", prob.dtype, partials, normalizer, loss)

    def softmax_loss_grad(self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any) -> None:
        """See ``kernels.reference.softmax_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, inner, *_ignore(ignore_label), normalizer, weight, dx)
        self.launch.planes("loss", "softmax_loss_grad", prob.dtype, outer, channels * inner, *args)

    def accuracy(self, score: Any, label: Any, top_k: int, ignore_label: int | None, correct: Any, per_class: Any, seen: Any) -> None:
        """See ``kernels.reference.accuracy``."""
        _, channels, inner = score.shape
        per_class.fill(0)
        seen.fill(0)
        args = (score, label, channels, inner, top_k, *_ignore(ignore_label), per_class, seen)
        self.launch.flat("loss", "accuracy_counts", score.dtype, label.size, *args)
        self.launch.reduction("loss", "accuracy_shares", score.dtype, 1, channels, 1, 1, channels, correct, per_class, seen)

    def euclidean_loss(self, a: Any, b: Any, difference: Any, loss: Any) -> None:
        """See ``kernels.reference.euclidean_loss``."""
        partials = self.launch.partial_sums("loss", "euclidean_loss_partials", a.dtype, 1, a.size, a, b, difference)
        self.launch.finish("loss", "euclidean_loss_of_partials", a.dtype, partials, a.shape[0], loss)

    def euclidean_loss_grad(self, difference: Any, weight: Any, sign: float, dx: Any) -> None:
        """See ``kernels.reference.euclidean_loss_grad``."""
        args = (difference, weight, float(sign), difference.shape[0], dx)
        self.launch.flat("loss", "euclidean_loss_grad", dx.dtype, dx.size, *args)

    def contrastive_loss(
        self, a: Any, b: Any, similar: Any, margin: float, legacy: bool, difference: Any, distance: Any, loss: Any
    ) -> None:
        """See ``kernels.reference.contrastive_loss``."""
        n, c = difference.shape
        self.launch.reduction(
            "loss", "contrastive_distance", a.dtype, n, c, 1, n, c, a, b, difference, distance, contiguous=True
        )
        self.launch.reduction("loss", "contrastive_loss", a.dtype, 1, n, 1, 1, n, distance, similar, float(margin), bool(legacy), loss)

    def contrastive_loss_grad(
        self, difference: Any, distance: Any, similar: Any, margin: float, legacy: bool, weight: Any, sign: float, dx: Any
    ) -> None:
        """See ``kernels.reference.contrastive_loss_grad``."""
        args = (difference, distance, similar, float(margin), bool(legacy), weight, float(sign), dx)
        self.launch.planes("loss", "contrastive_loss_grad", dx.dtype, *difference.shape, *args)

    # --- solver updates

    def clip_by_norm(self, g: Any, limit: float, norm: Any) -> None:
        """See ``kernels.reference.clip_by_norm``."""
        partials = self.launch.partial_sums("linear", "dot_partials", g.dtype, 1, g.size, g, g)
        self.launch.finish("update", "norm_of_partials", g.dtype, partials, norm)
        self.launch.flat("update", "clip_to_norm", g.dtype, g.size, g, float(limit), norm)

    def sgd_update(self, w: Any, g: Any, h: Any, rate: float, momentum: float, scale: float, decay: float, l1: bool) -> None:
        """See ``kernels.reference.sgd_update``."""
        rates = (float(rate), float(momentum), float(scale), float(decay))
        self.launch.flat("update", "sgd_update", w.dtype, w.size, w, g, h, *rates, bool(l1))


def _ignore(label: int | None) -> tuple[bool, int]:
    """An optional label as the two arguments that kernels take."""
    return label is not None, label or 0
