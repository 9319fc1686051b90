"""Losses, except the softmax loss: of classes (sigmoid, multinomial, hinge, infogain) and of differences."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.labels import ignore_arguments, normalized
from minicaffe.kernels.cuda.launch import Launcher, program


class LossOps:
    """The functions of ``kernels/reference/loss.py``."""

    launch: Launcher

    def sigmoid_loss(self, x: Any, target: Any, ignore_label: int | None, normalizer: Any, loss: Any) -> None:
        """See ``kernels.reference.sigmoid_loss``."""
        normalized(
            self.launch, "sigmoid_loss_partials", x.size, (x, target, *ignore_arguments(ignore_label)), normalizer, loss
        )

    def sigmoid_loss_grad(
        self, x: Any, target: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.sigmoid_loss_grad``."""
        args = (x, target, *ignore_arguments(ignore_label), normalizer, weight, dx)
        self.launch.flat(program("loss", x.dtype), "sigmoid_loss_grad", x.size, *args)

    def infogain_loss(
        self, prob: Any, label: Any, gain: Any, ignore_label: int | None, normalizer: Any, loss: Any
    ) -> None:
        """See ``kernels.reference.infogain_loss``."""
        _, channels, inner = prob.shape
        args = (prob, label, gain, channels, inner, *ignore_arguments(ignore_label))
        normalized(self.launch, "infogain_loss_partials", prob.size, args, normalizer, loss)

    def infogain_loss_grad(
        self, prob: Any, label: Any, gain: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.infogain_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, gain, channels, inner, *ignore_arguments(ignore_label), normalizer, weight, dx)
        self.launch.planes(program("loss", prob.dtype), "infogain_loss_grad", outer, channels * inner, *args)

    def multinomial_loss(self, prob: Any, label: Any, loss: Any) -> None:
        """See ``kernels.reference.multinomial_loss``."""
        n, channels = prob.shape
        self._mean("loss", "multinomial_loss_partials", n, (prob, label, channels), n, loss)

    def multinomial_loss_grad(self, prob: Any, label: Any, weight: Any, dx: Any) -> None:
        """See ``kernels.reference.multinomial_loss_grad``."""
        self.launch.planes(program("loss", prob.dtype), "multinomial_loss_grad", *prob.shape, prob, label, weight, dx)

    def hinge_loss(self, x: Any, label: Any, squared: bool, margin: Any, loss: Any) -> None:
        """See ``kernels.reference.hinge_loss``."""
        n, channels = x.shape
        self._mean("loss", "hinge_loss_partials", x.size, (x, label, channels, squared, margin), n, loss)

    def hinge_loss_grad(self, margin: Any, label: Any, squared: bool, weight: Any, dx: Any) -> None:
        """See ``kernels.reference.hinge_loss_grad``."""
        args = (margin, label, squared, weight, dx)
        self.launch.planes(program("loss", margin.dtype), "hinge_loss_grad", *margin.shape, *args)

    def euclidean_loss(self, a: Any, b: Any, difference: Any, loss: Any) -> None:
        """See ``kernels.reference.euclidean_loss``."""
        self._mean("difference", "euclidean_loss_partials", a.size, (a, b, difference), 2 * a.shape[0], loss)

    def euclidean_loss_grad(self, difference: Any, weight: Any, sign: float, dx: Any) -> None:
        """See ``kernels.reference.euclidean_loss_grad``."""
        args = (difference, weight, float(sign), difference.shape[0], dx)
        self.launch.flat(program("difference", dx.dtype), "euclidean_loss_grad", dx.size, *args)

    def contrastive_loss(
        self, a: Any, b: Any, similar: Any, margin: float, legacy: bool, difference: Any, distance: Any, loss: Any
    ) -> None:
        """See ``kernels.reference.contrastive_loss``."""
        pairs = program("difference", a.dtype)
        n, channels = difference.shape
        self.launch.reduction(pairs, "contrastive_distance", n, channels, a, b, difference, distance, contiguous=True)
        self.launch.reduction(pairs, "contrastive_loss", 1, n, distance, similar, float(margin), bool(legacy), loss)

    def contrastive_loss_grad(
        self,
        difference: Any,
        distance: Any,
        similar: Any,
        margin: float,
        legacy: bool,
        weight: Any,
        sign: float,
        dx: Any,
    ) -> None:
        """See ``kernels.reference.contrastive_loss_grad``."""
        args = (difference, distance, similar, float(margin), bool(legacy), weight, float(sign), dx)
        self.launch.planes(program("difference", dx.dtype), "contrastive_loss_grad", *difference.shape, *args)

    def _mean(self, file: str, kernel: str, length: int, args: tuple, count: int, loss: Any) -> None:
        partials = self.launch.partial_sums(program(file, loss.dtype), kernel, 1, length, *args)
        self.launch.reduction(program("loss", loss.dtype), "mean_loss", *partials, float(count), loss)
