"""``minicaffe time``: how long each layer takes."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command

if TYPE_CHECKING:
    from minicaffe.net import Net

_log = logging.getLogger(__name__)


@click.command(cls=Command)
@options.model
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"]), default="TRAIN", show_default=True, help="The net's phase."
)
@options.iterations
@options.device
@options.net_state
def command(
    model: str, phase: str, iterations: int, gpu: str, threads: int | None, level: int, stage: str
) -> None:  # fmt: skip
    """Measure how long each layer of a net takes.

    Every layer is run forward and backward, also those that training would not run backward; the times are means over
    the iterations, after one that is not counted.
    """
    from minicaffe import models, proto
    from minicaffe.net import Net

    options.choose_device(gpu, threads)
    with contextlib.closing(Net(models.find(model), proto.Phase.Value(phase), level, options.split(stage))) as net:
        _log.info("Performing Forward")
        net.run_forward()
        _log.info("Initial loss: %g", net.loss)
        _log.info("Performing Backward")
        net.run_backward()
        _measure(net, iterations)


def _measure(net: Net, iterations: int) -> None:
    """Time every layer forward, then every layer backward, so many times, and report the means in milliseconds."""
    from minicaffe import backend

    _log.info("*** Benchmark begins ***")
    _log.info("Testing for %d iterations.", iterations)
    device = backend.current()

    def seconds(work: Callable[[int], object], index: int) -> float:
        start = time.perf_counter()
        work(index)
        device.synchronize()
        return time.perf_counter() - start

    layers = range(len(net.steps))
    forward, backward = [0.0] * len(layers), [0.0] * len(layers)
    for iteration in range(1, iterations + 1):
        start = time.perf_counter()
        for i in layers:
            forward[i] += seconds(lambda at: net.run_forward(at, at), i)
        with device.running(user_layers=True):
            for i in reversed(layers):
                backward[i] += seconds(net.backward_layer, i)
        _log.info("Iteration: %d forward-backward time: %.4g ms.", iteration, (time.perf_counter() - start) * 1e3)
    names = [step.layer.name for step in net.steps]
    _report(names, *([total / iterations * 1e3 for total in totals] for totals in (forward, backward)))
    _log.info("Total Time: %g ms.", (sum(forward) + sum(backward)) * 1e3)
    _log.info("*** Benchmark ends ***")


def _report(names: list[str], forward: list[float], backward: list[float]) -> None:
    """The means, in milliseconds: a table on a terminal, Caffe's lines elsewhere."""
    screen = console.terminal()
    if screen is None:
        _log.info("Average time per layer: ")
        for name, there, back in zip(names, forward, backward, strict=True):
            _log.info("%10s\tforward: %g ms.", name, there)
            _log.info("%10s\tbackward: %g ms.", name, back)
    else:
        screen.print(_table(names, forward, backward))
    _log.info("Average Forward pass: %g ms.", sum(forward))
    _log.info("Average Backward pass: %g ms.", sum(backward))
    _log.info("Average Forward-Backward: %g ms.", sum(forward) + sum(backward))


def _table(names: list[str], forward: list[float], backward: list[float]) -> object:
    from rich.table import Table

    total = sum(forward) + sum(backward)
    table = Table("layer")
    for heading in ("forward ms", "backward ms", "share"):
        table.add_column(heading, justify="right")
    for name, there, back in zip(names, forward, backward, strict=True):
        table.add_row(name, f"{there:.3f}", f"{back:.3f}", f"{(there + back) / total:.1%}")
    return table
