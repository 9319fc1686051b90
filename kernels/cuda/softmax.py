"""Softmax, and the loss of its probabilities."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.labels import ignore_arguments, normalized
from minicaffe.kernels.cuda.launch import Launcher, program


class SoftmaxOps:
    """The functions of ``kernels/reference/softmax.py``."""

    launch: Launcher

    def softmax(self, x: Any, y: Any) -> None:
        """See ``kernels.reference.softmax``."""
        self._down_channels("softmax", x, y)

    def softmax_grad(self, y: Any, dy: Any, dx: Any) -> None:
        """See ``kernels.reference.softmax_grad``."""
        self._down_channels("softmax_grad", y, dy, dx)

    def _down_channels(self, kernel: str, *arrays: Any) -> None:
        outer, channels, inner = arrays[0].shape
        if arrays[0].size:
            self.launch.reduction(
                program("softmax", arrays[0].dtype), kernel, inner, channels, outer, *arrays, blocks=outer
            )

    def softmax_loss(self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, loss: Any) -> None:
        """See ``kernels.reference.softmax_loss``."""
        _, channels, inner = prob.shape
        args = (prob, label, channels, inner, *ignore_arguments(ignore_label))
        normalized(self.launch, "softmax_loss_partials", label.size, args, normalizer, loss)

    def softmax_loss_grad(
        self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.softmax_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, inner, *ignore_arguments(ignore_label), normalizer, weight, dx)
        self.launch.planes(program("loss", prob.dtype), "softmax_loss_grad", outer, channels * inner, *args)
