"""What a training says while it runs: outputs as numbers, and how fast it goes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.errors import MinicaffeError, NetError
from minicaffe.net import Net
from minicaffe.solvers.monitor import Scalar

_log = logging.getLogger(__name__)


def scalars(net: Net, values: dict[str, NDArray]) -> list[Scalar]:
    """Each number of each of a net's outputs, with the output's name and loss weight."""
    return [
        Scalar(name, float(value), net.blob_loss_weights[name])
        for name, array in values.items()
        for value in array.reshape(-1)
    ]


def outputs(net: Net) -> list[Scalar]:
    """A net's outputs as they are now."""
    return scalars(net, {name: net.blobs[name].peek_data() for name in net.outputs})


def log_outputs(kind: str, values: Sequence[Scalar]) -> None:
    """Log each as Caffe does; ``kind``: "Train" or "Test"."""
    for k, scalar in enumerate(values):
        _log.info("    %s net output #%d: %s", kind, k, scalar)


def log_clipping(norm: float, limit: float) -> None:
    """Say so if gradients of this norm were scaled down."""
    if norm > limit:
        _log.info(
            "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g", norm, limit, limit / norm
        )


def mean_outputs(net: Net, batches: int, go_on: Callable[[], bool]) -> tuple[list[Scalar], float] | None:
    """The means of a net's outputs and of its loss over some batches; None if ``go_on``, asked before each, says no."""
    sums = {name: np.zeros(net.blobs[name].shape) for name in net.outputs}
    loss = 0.0
    for _ in range(batches):
        if not go_on():
            return None
        net.run_forward()
        loss += net.loss
        for name, total in sums.items():
            values = net.blobs[name].peek_data()
            if values.shape != total.shape:
                raise NetError(
                    f"net '{net.name}': its output '{name}' changes its shape from batch to batch, so that it has no "
                    f"mean; found {total.shape} and {values.shape}. For the output of a DetectionEvaluate layer set "
                    'eval_type: "detection" in the solver'
                )
            total += values
    return scalars(net, {name: total / batches for name, total in sums.items()}), loss / batches


class Speed:
    """Measures iterations a second, from one display to the next."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, iteration: int) -> None:
        """Measure from here on."""
        self._since, self._began = iteration, time.perf_counter()

    def log(self, iteration: int, interval: int, loss: float) -> None:
        """Log the iteration, the speed since the last time, and the loss."""
        done, seconds = iteration - self._since, time.perf_counter() - self._began
        self.begin(iteration)
        _log.info(
            "Iteration %d (%g iter/s, %gs/%d iters), loss = %g",
            iteration, done / seconds if seconds else 0, seconds, interval, loss,
        )  # fmt: skip


def require_finite(loss: float, iteration: int, net: Net) -> None:
    """Raise a MinicaffeError if the training loss is not a number that training can go on from."""
    if not math.isfinite(loss):
        raise MinicaffeError(
            f"the training loss is {loss} at iteration {iteration}{net.first_non_finite()}; training cannot recover. "
            "Lower base_lr, set clip_gradients, and check the data for values that are not finite; resume from the "
            "last snapshot with --snapshot, and with --detect_anomaly to see which layer it begins in. Snapshots "
            "written so far are unharmed"
        )
