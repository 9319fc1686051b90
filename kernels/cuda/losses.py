"""Softmax, losses and accuracy."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.cuda.launch import Launcher, program


class LossOps:
    """The softmax, loss and accuracy functions of ``kernels/reference.py``."""

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

    # --- labels

    def check_labels(self, label: Any, classes: int | None, ignore_label: int | None, bad: Any) -> None:
        """See ``kernels.reference.check_labels``."""
        bad.fill(-1)
        args = (label, -1 if classes is None else classes, *_ignore(ignore_label), bad)
        self.launch.flat(program("loss", label.dtype), "check_labels", label.size, *args)

    def loss_normalizer(
        self, label: Any, outer: int, ignore_label: int | None, normalization: int, normalizer: Any
    ) -> None:
        """See ``kernels.reference.loss_normalizer``."""
        if normalization == reference.VALID:
            loss = program("loss", label.dtype)
            partials = self.launch.partial_sums(loss, "valid_partials", 1, label.size, label, *_ignore(ignore_label))
            self.launch.reduction(loss, "normalizer_of_partials", *partials, normalizer)
        else:
            count = {reference.FULL: label.size, reference.BATCH_SIZE: outer, reference.NONE: 1}[normalization]
            normalizer.fill(max(count, 1))

    def accuracy(
        self, score: Any, label: Any, top_k: int, ignore_label: int | None, correct: Any, per_class: Any, seen: Any
    ) -> None:
        """See ``kernels.reference.accuracy``."""
        _, channels, inner = score.shape
        per_class.fill(0)
        seen.fill(0)
        args = (score, label, channels, inner, top_k, *_ignore(ignore_label), per_class, seen)
        self.launch.flat(program("loss", score.dtype), "accuracy_counts", label.size, *args)
        self.launch.reduction(program("loss", score.dtype), "accuracy_shares", 1, channels, correct, per_class, seen)

    # --- losses of labels and targets

    def softmax_loss(self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, loss: Any) -> None:
        """See ``kernels.reference.softmax_loss``."""
        _, channels, inner = prob.shape
        args = (prob, label, channels, inner, *_ignore(ignore_label))
        self._normalized("softmax_loss_partials", label.size, args, normalizer, loss)

    def softmax_loss_grad(
        self, prob: Any, label: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.softmax_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, inner, *_ignore(ignore_label), normalizer, weight, dx)
        self.launch.planes(program("loss", prob.dtype), "softmax_loss_grad", outer, channels * inner, *args)

    def sigmoid_loss(self, x: Any, target: Any, ignore_label: int | None, normalizer: Any, loss: Any) -> None:
        """See ``kernels.reference.sigmoid_loss``."""
        self._normalized("sigmoid_loss_partials", x.size, (x, target, *_ignore(ignore_label)), normalizer, loss)

    def sigmoid_loss_grad(
        self, x: Any, target: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.sigmoid_loss_grad``."""
        args = (x, target, *_ignore(ignore_label), normalizer, weight, dx)
        self.launch.flat(program("loss", x.dtype), "sigmoid_loss_grad", x.size, *args)

    def infogain_loss(
        self, prob: Any, label: Any, gain: Any, ignore_label: int | None, normalizer: Any, loss: Any
    ) -> None:
        """See ``kernels.reference.infogain_loss``."""
        _, channels, inner = prob.shape
        args = (prob, label, gain, channels, inner, *_ignore(ignore_label))
        self._normalized("infogain_loss_partials", prob.size, args, normalizer, loss)

    def infogain_loss_grad(
        self, prob: Any, label: Any, gain: Any, ignore_label: int | None, normalizer: Any, weight: Any, dx: Any
    ) -> None:
        """See ``kernels.reference.infogain_loss_grad``."""
        outer, channels, inner = prob.shape
        args = (prob, label, gain, channels, inner, *_ignore(ignore_label), normalizer, weight, dx)
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

    # --- losses of differences

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

    # --- a loss is a long sum, divided

    def _normalized(self, kernel: str, length: int, args: tuple, normalizer: Any, loss: Any) -> None:
        partials = self.launch.partial_sums(program("loss", loss.dtype), kernel, 1, length, *args)
        self.launch.reduction(program("loss", loss.dtype), "normalized_loss", *partials, normalizer, loss)

    def _mean(self, file: str, kernel: str, length: int, args: tuple, count: int, loss: Any) -> None:
        partials = self.launch.partial_sums(program(file, loss.dtype), kernel, 1, length, *args)
        self.launch.reduction(program("loss", loss.dtype), "mean_loss", *partials, float(count), loss)


def _ignore(label: int | None) -> tuple[bool, int]:
    """An optional label as the two arguments that kernels take."""
    return label is not None, label or 0
