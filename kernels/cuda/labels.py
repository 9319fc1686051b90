"""Checking and counting labels for losses, and accuracy."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.cuda.launch import Launcher, program


class LabelOps:
    """The functions of ``kernels/reference/labels.py``."""

    launch: Launcher

    def check_labels(self, label: Any, classes: int | None, ignore_label: int | None, bad: Any) -> None:
        """See ``kernels.reference.check_labels``."""
        args = (label, -1 if classes is None else classes, *ignore_arguments(ignore_label), bad)
        self.launch.flat(program("loss", label.dtype), "check_labels", label.size, *args)

    def loss_normalizer(
        self, label: Any, outer: int, ignore_label: int | None, normalization: int, normalizer: Any
    ) -> None:
        """See ``kernels.reference.loss_normalizer``."""
        if normalization == reference.VALID:
            loss = program("loss", label.dtype)
            partials = self.launch.partial_sums(
                loss, "valid_partials", 1, label.size, label, *ignore_arguments(ignore_label)
            )
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
        args = (score, label, channels, inner, top_k, *ignore_arguments(ignore_label), per_class, seen)
        self.launch.flat(program("loss", score.dtype), "accuracy_counts", label.size, *args)
        self.launch.reduction(program("loss", score.dtype), "accuracy_shares", 1, channels, correct, per_class, seen)


def ignore_arguments(label: int | None) -> tuple[bool, int]:
    """An optional label as the two arguments that kernels take."""
    return label is not None, label or 0


def normalized(launch: Launcher, kernel: str, length: int, args: tuple, normalizer: Any, loss: Any) -> None:
    """Into ``loss`` the sum that ``kernel`` of loss.cu starts, over the scalar ``normalizer``."""
    partials = launch.partial_sums(program("loss", loss.dtype), kernel, 1, length, *args)
    launch.reduction(program("loss", loss.dtype), "normalized_loss", *partials, normalizer, loss)
