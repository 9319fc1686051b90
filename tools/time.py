"""``minicaffe time``: how long each layer takes."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command

if TYPE_CHECKING:
    from minicaffe.engine.deploy import Part
    from minicaffe.net import Net

_log = logging.getLogger(__name__)

_WARM_PASSES = 3  # kernels are compiled, and the pass is captured, by then


@click.command(
    cls=Command,
    examples=[
        "minicaffe time --model cifar10/cifar10_quick.prototxt --iterations 5",
        "minicaffe time --model lenet/lenet.prototxt --phase TEST --iterations 5 --json",
    ],
)
@options.model
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"]), default="TRAIN", show_default=True, help="The net's phase."
)
@options.iterations
@options.as_json
@options.device
@options.precision
@options.deploy
@options.net_state
def command(
    model: str, phase: str, iterations: int, as_json: bool, gpu: str, threads: int | None, precision: str,
    deploy: bool, level: int, stage: str,
) -> None:  # fmt: skip
    """Measure how long each layer of a net takes.

    Every layer is run forward and backward, also those that training would not run backward; the times are means over
    the iterations, after one that is not counted.  With --deploy it is the TEST phase that runs, forward: all at once,
    for the time of a pass, and then the parts of a pass, each a layer and those that run as one with it.
    """
    from minicaffe import models, proto
    from minicaffe.net import Net

    options.choose_device(gpu, threads)
    state = proto.TEST if deploy else proto.Phase.Value(phase), level, options.split(stage)
    with contextlib.closing(Net(models.find(model), *state, deploy=deploy)) as net:
        net.precision = precision
        if deploy:
            _time_deployed(net, iterations, as_json)
            return
        _log.info("Performing Forward")
        net.run_forward()
        _log.info("Initial loss: %g", net.loss)
        _log.info("Performing Backward")
        net.run_backward()
        forward, backward = _measure(net, iterations)
        names = [step.layer.name for step in net.steps]
        if as_json:
            console.result_as_json(_results(net, iterations, names, forward, backward))
        else:
            _report(names, forward, backward)
            console.result(f"Total Time: {(sum(forward) + sum(backward)) * iterations:g} ms.")
    _log.info("*** Benchmark ends ***")


def _time_deployed(net: Net, iterations: int, as_json: bool) -> None:
    """Measure and tell the times of a net in its deploy form."""
    for _ in range(_WARM_PASSES):
        net.run_forward()
    whole = _passes(net, iterations)
    parts = net.run_apart()
    each = _apart(parts, iterations)
    if as_json:
        rows = [_row(part, mean) for part, mean in zip(parts, each, strict=True)]
        console.result_as_json({"net": net.name, "iterations": iterations, "forward_ms": whole, "layers": rows})
        return
    console.result("Average time per layer: ")
    for part, mean in zip(parts, each, strict=True):
        name = " + ".join(step.layer.name for step in part.steps)
        console.result(f"{name:>10}\tforward: {mean:g} ms.")
    console.result(f"Average Forward pass: {whole:g} ms.")


def _row(part: Part, mean: float) -> dict:
    """What is told of a part of a pass: the first of its layers, those that run as one with it, and milliseconds."""
    first, *others = (step.layer for step in part.steps)
    return {"name": first.name, "type": first.type, "with": [layer.name for layer in others], "forward_ms": mean}


def _passes(net: Net, iterations: int) -> float:
    """The mean time of a whole pass, in milliseconds."""
    from minicaffe import backend

    start = time.perf_counter()
    for _ in range(iterations):
        net.run_forward()
        backend.current().synchronize()
    return (time.perf_counter() - start) / iterations * 1e3


def _apart(parts: Sequence[Part], iterations: int) -> list[float]:
    """The mean time of each part of a pass by itself, in milliseconds; they take turns, as in a pass."""
    from minicaffe import backend

    device, totals = backend.current(), [0.0] * len(parts)
    for iteration in range(1 + iterations):
        for k, part in enumerate(parts):
            start = time.perf_counter()
            part.run()
            device.synchronize()
            if iteration > 0:  # the first time is not counted
                totals[k] += time.perf_counter() - start
    return [total / iterations * 1e3 for total in totals]


def _measure(net: Net, iterations: int) -> tuple[list[float], list[float]]:
    """The mean times in milliseconds of every layer forward, and of every layer backward."""
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
    return [total / iterations * 1e3 for total in forward], [total / iterations * 1e3 for total in backward]


def _results(net: Net, iterations: int, names: list[str], forward: list[float], backward: list[float]) -> dict:
    """The means, in milliseconds."""
    layers = [
        {"name": name, "type": step.layer.type, "forward_ms": there, "backward_ms": back}
        for name, step, there, back in zip(names, net.steps, forward, backward, strict=True)
    ]
    totals = {"forward_ms": sum(forward), "backward_ms": sum(backward), "total_ms": sum(forward) + sum(backward)}
    return {"net": net.name, "iterations": iterations, **totals, "layers": layers}


def _report(names: list[str], forward: list[float], backward: list[float]) -> None:
    """The means, in milliseconds: a table on a terminal, Caffe's lines elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(_table(names, forward, backward))
    else:
        console.result("Average time per layer: ")
        for name, there, back in zip(names, forward, backward, strict=True):
            console.result(f"{name:>10}\tforward: {there:g} ms.")
            console.result(f"{name:>10}\tbackward: {back:g} ms.")
    console.result(f"Average Forward pass: {sum(forward):g} ms.")
    console.result(f"Average Backward pass: {sum(backward):g} ms.")
    console.result(f"Average Forward-Backward: {sum(forward) + sum(backward):g} ms.")


def _table(names: list[str], forward: list[float], backward: list[float]) -> object:
    from rich.table import Table

    total = sum(forward) + sum(backward)
    table = Table("layer")
    for heading in ("forward ms", "backward ms", "share"):
        table.add_column(heading, justify="right")
    for name, there, back in zip(names, forward, backward, strict=True):
        table.add_row(name, f"{there:.3f}", f"{back:.3f}", f"{(there + back) / total:.1%}")
    return table
