"""``minicaffe test``: score a net."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command

if TYPE_CHECKING:
    import numpy as np

    from minicaffe.net import Net

_log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    examples=["minicaffe test --model lenet/lenet_train_test.prototxt --weights lenet.caffemodel --iterations 100"],
)
@options.model
@options.weights
@options.iterations
@click.option(
    "--ap_version", type=click.Choice(["11point", "101point", "MaxIntegral", "Integral"]), default="Integral",
    show_default=True,
    help="How average precision is computed, of a net that finds things in images.",
)  # fmt: skip
@options.as_json
@options.device
@options.precision
@options.net_state
def command(
    model: str, weights: str, iterations: int, ap_version: str, as_json: bool, gpu: str, threads: int | None,
    precision: str, level: int, stage: str,
) -> None:  # fmt: skip
    """Score a net with given weights.

    Runs the net's TEST phase over so many batches and reports the outputs of each batch and their means; of a
    DetectionEvaluate layer's output the mean average precision over all batches.
    """
    import numpy as np

    from minicaffe import TEST, models
    from minicaffe.boxes.precision import Precision
    from minicaffe.net import Net

    options.choose_device(gpu, threads)
    net = Net(models.find(model), TEST, level, options.split(stage), weights)
    with contextlib.closing(net):
        net.precision = precision
        net.reuse_memory()
        _log.info("Running for %d iterations.", iterations)
        found = {top: Precision() for top in _evaluated(net)}
        sums = {name: np.zeros(net.blobs[name].count) for name in net.outputs if name not in found}
        loss = 0.0
        for batch in range(iterations):
            net.run_forward()
            loss += net.loss
            for name, curve in found.items():
                curve.add(net.blobs[name].peek_data())
            for name, total in sums.items():
                values = net.blobs[name].peek_data().ravel()
                total += values
                for value in values:
                    _log.info("Batch %d, %s = %g", batch, name, value)
        means = {name: total / iterations for name, total in sums.items()}
        means |= {name: np.array([curve.mean(ap_version)]) for name, curve in found.items()}
        if as_json:
            console.result_as_json(_results(net, iterations, loss / iterations, means))
            return
        console.result(f"Loss: {loss / iterations:g}")
        for name, values in means.items():
            weight = net.blob_loss_weights[name]
            for mean in values:
                console.result(f"{name} = {mean:g}" + (f" (* {weight:g} = {weight * mean:g} loss)" if weight else ""))


def _evaluated(net: Net) -> list[str]:
    """The outputs of DetectionEvaluate layers."""
    tops = [
        top
        for name, names in net.top_names.items()
        if net.layer_dict[name].type == "DetectionEvaluate"
        for top in names
    ]
    return [name for name in net.outputs if name in tops]


def _results(net: Net, iterations: int, loss: float, means: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the command found, as numbers and lists; an output of one value is a number."""
    outputs = {name: values.tolist() if values.size > 1 else float(values[0]) for name, values in means.items()}
    weights = {name: net.blob_loss_weights[name] for name in means if net.blob_loss_weights[name]}
    return {"net": net.name, "iterations": iterations, "loss": loss, "outputs": outputs, "loss_weights": weights}
