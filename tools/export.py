"""``minicaffe export``: a net with its weights as an ONNX model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path

if TYPE_CHECKING:
    from minicaffe.net import Net
    from minicaffe.onnx import Exported


@click.command(
    cls=Command,
    examples=[
        "minicaffe export lenet/lenet.prototxt lenet.caffemodel lenet.onnx --check",
        "minicaffe export ssd/deploy.prototxt ssd.caffemodel ssd.onnx --output loc --output conf_found",
    ],
)
@click.argument("model", metavar="NET", type=Definition())
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.argument("path", metavar="OUT", type=Path())
@click.option("--check", is_flag=True, help="Run the model in ONNX Runtime, too, and compare what both compute.")
@click.option(
    "--output", "outputs", multiple=True, metavar="BLOB",
    help="Let this blob be an output in place of the net's; may be given several times. Only what they need is "
    "exported.",
)  # fmt: skip
@options.shapes
@options.as_json
@options.threads
@options.net_state
def command(
    model: str, weights: str, path: str, check: bool, outputs: tuple[str, ...], shapes: tuple, as_json: bool,
    threads: int | None, level: int, stage: str,
) -> int:  # fmt: skip
    """Write a net and its weights as an ONNX model.

    OUT is NET's TEST phase, opset 18, for batches of any size, with the names of blobs for its values. Data layers
    become inputs.  Layers that ONNX has no words for are an error, which names all of them: name blobs before them as
    --output.  With --check the exit status is 1 if the model computes something else than the net.
    """
    from minicaffe import models
    from minicaffe.folding import ROUNDING
    from minicaffe.onnx import export_onnx
    from minicaffe.onnx.check import differences

    options.choose_device("", threads)
    net = _build(models.find(model), level, options.split(stage), dict(shapes))
    with contextlib.closing(net):
        _load(net, weights, outputs or net.outputs)
        exported = export_onnx(net, path, outputs or None)
        found = differences(exported) if check else None
    wrong = found is not None and not all(value <= ROUNDING for value in found.values())
    if as_json:
        sides = {"inputs": exported.inputs, "outputs": exported.outputs, "notes": exported.notes}
        console.result_as_json({"opset": exported.opset, **sides, "differences": found})
    else:
        _tell(path, exported, found)
    return int(wrong)


def _build(path: str, level: int, stages: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> Net:
    """The net in its TEST phase; what is told of data that is not there says how to do without."""
    from minicaffe import TEST
    from minicaffe.errors import DataError
    from minicaffe.verification import build

    try:
        return build(path, TEST, level, stages, shapes)
    except DataError as error:
        raise DataError(
            f"{error}\nno data is needed to export a net: give --shape for each top of the layers that bring it in",
            missing=error.missing,
        ) from None


def _load(net: Net, weights: str, outputs: Sequence[str]) -> None:
    """Load weights; WeightsError if a layer to export gets none."""
    from minicaffe.errors import WeightsError
    from minicaffe.onnx.plan import needed_steps

    needed = {step.layer.name for step in needed_steps(net, outputs)}
    missing = [name for name in net.copy_from(weights).initialised if name in needed]
    if missing:
        raise WeightsError(
            f"{weights} holds no weights for {', '.join(missing)} of net '{net.name}': give the weights of this net"
        )


def _tell(path: str, exported: Exported, found: dict[str, float] | None) -> None:
    console.result(f"{path}: opset {exported.opset}, {len(exported.model.graph.node)} nodes")
    for side, values in (("input", exported.inputs), ("output", exported.outputs)):
        for name, sizes in values.items():
            console.result(f"{side} {name}: {' x '.join('?' if s is None else str(s) for s in sizes) or 'one number'}")
    for note in exported.notes:
        console.result(f"note: {note}")
    if found is not None:
        worst = max(found, key=lambda name: found[name])
        console.result(
            f"checked in ONNX Runtime: the largest difference is {found[worst]:.2g} of the largest value of '{worst}'"
        )
