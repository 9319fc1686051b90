"""The focal loss of softmax probabilities."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.labels import ignore_arguments, normalized
from minicaffe.kernels.cuda.launch import Launcher, program


class FocalLossOps:
    """The functions of ``kernels/reference/focal_loss.py``."""

    launch: Launcher

    def focal_loss(
        self, prob: Any, label: Any, alpha: float, gamma: float, ignore_label: int | None, normalizer: Any, loss: Any
    ) -> None:
        """See ``kernels.reference.focal_loss``."""
        _, channels, inner = prob.shape
        args = (prob, label, float(alpha), float(gamma), channels, inner, *ignore_arguments(ignore_label))
        normalized(self.launch, "focal_loss_partials", label.size, args, normalizer, loss)

    def focal_loss_grad(
        self,
        prob: Any,
        label: Any,
        alpha: float,
        gamma: float,
        ignore_label: int | None,
        normalizer: Any,
        weight: Any,
        dx: Any,
    ) -> None:
        """See ``kernels.reference.focal_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, float(alpha), float(gamma), inner, *ignore_arguments(ignore_label), normalizer, weight, dx)
        self.launch.planes(program("loss", prob.dtype), "focal_loss_grad", outer, channels * inner, *args)
