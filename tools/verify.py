"""``minicaffe verify``: whether weights are a net's own, whole and sound."""

from __future__ import annotations

import contextlib

import click

from minicaffe.tools import console, options, tables
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path


@click.command(
    cls=Command,
    examples=["minicaffe verify lenet/lenet.prototxt lenet.caffemodel"],
)
@click.argument("model", metavar="NET", type=Definition())
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"]), default="TEST", show_default=True, help="The net's phase."
)
@options.shapes
@options.as_json
@options.device
@options.net_state
def command(
    model: str, weights: str, phase: str, shapes: tuple, as_json: bool, gpu: str, threads: int | None, level: int,
    stage: str,
) -> int:  # fmt: skip
    """Check that weights fit a net, and what it computes with them.

    Loads WEIGHTS strictly: every layer of NET with params must find its own, of the same shape, and all numbers must be
    finite.  Then runs NET on noise, or on its data, and reports its outputs.  The exit status is 1 if anything is
    wrong.
    """
    from minicaffe import models, proto
    from minicaffe.verification import build, verify

    options.choose_device(gpu, threads)
    net = build(models.find(model), proto.Phase.Value(phase), level, options.split(stage), dict(shapes))
    with contextlib.closing(net):
        verdict = verify(net, weights)
    if as_json:
        console.result_as_json(verdict.to_json())
        return int(bool(verdict.problems))
    if verdict.unused:
        console.result(f"not used by the net: {', '.join(verdict.unused)}")
    for problem in verdict.problems:
        console.result(f"problem: {problem}")
    if verdict.outputs:
        rows = [
            [name, tables.shape(found.shape)]
            + [tables.number(value) for value in (found.minimum, found.maximum, found.mean)]
            + [found.remark]
            for name, found in verdict.outputs.items()
        ]
        tables.show(["output", "shape", ">min", ">max", ">mean", ""], rows)
    if not verdict.problems:
        console.result(f"{weights} fits {model}: {verdict.params} params, all finite")
    return int(bool(verdict.problems))
