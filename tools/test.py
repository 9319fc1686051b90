"""``minicaffe test``: score a net."""

from __future__ import annotations

import contextlib
import logging

import click

from minicaffe.tools import options
from minicaffe.tools.command import Command

_log = logging.getLogger(__name__)


@click.command(cls=Command)
@options.model
@click.option("--weights", required=True, metavar="FILE", help="The trained weights.")
@options.iterations
@options.device
@options.net_state
def command(
    model: str, weights: str, iterations: int, gpu: str, threads: int | None, level: int, stage: str
) -> None:  # fmt: skip
    """Score a net with given weights.

    Runs the net's TEST phase over so many batches and reports the outputs of each batch and their means.
    """
    import numpy as np

    from minicaffe import TEST, models
    from minicaffe.net import Net

    options.choose_device(gpu, threads)
    net = Net(models.find(model), TEST, level, options.split(stage), weights)
    with contextlib.closing(net):
        net.reuse_memory()
        _log.info("Running for %d iterations.", iterations)
        sums = {name: np.zeros(net.blobs[name].count) for name in net.outputs}
        loss = 0.0
        for batch in range(iterations):
            net.run_forward()
            loss += net.loss
            for name, total in sums.items():
                values = net.blobs[name].peek_data().ravel()
                total += values
                for value in values:
                    _log.info("Batch %d, %s = %g", batch, name, value)
        _log.info("Loss: %g", loss / iterations)
        for name, total in sums.items():
            weight = net.blob_loss_weights[name]
            for mean in total / iterations:
                _log.info("%s = %g%s", name, mean, f" (* {weight:g} = {weight * mean:g} loss)" if weight else "")
