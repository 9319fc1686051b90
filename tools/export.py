"""``minicaffe export``: a net with its weights as an ONNX model, or as a PyTorch module."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path

if TYPE_CHECKING:
    from minicaffe.net import Net

ONNX, TORCH = ".onnx", (".pt", ".pth")
"""How files for ONNX and for PyTorch end."""


@click.command(
    cls=Command,
    examples=[
        "minicaffe export lenet/lenet.prototxt lenet.caffemodel lenet.onnx --check",
        "minicaffe export ssd/deploy.prototxt ssd.caffemodel ssd.onnx --output loc --output conf_found",
        "minicaffe export lenet/lenet.prototxt lenet.caffemodel lenet.pt",
    ],
)
@click.argument("model", metavar="NET", type=Definition())
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.argument("path", metavar="OUT", type=Path())
@click.option("--check", is_flag=True, help="Run the model in ONNX Runtime, or PyTorch, and compare what both compute.")
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
    """Write a net and its weights for ONNX or PyTorch.

    It is for ONNX if OUT ends in .onnx, for PyTorch if it ends in .pt or .pth.  OUT is NET's TEST phase, opset 18, for
    batches of any size, with the names of blobs for its values.  Data layers become inputs.  For PyTorch it is a
    state_dict, and beside it, with the suffix .py, lies the source of the module that it is for.  Layers that ONNX or
    PyTorch has no words for are an error, which names all of them: name blobs before them as --output.  With --check
    the exit status is 1 if the model computes something else than the net.
    """
    from minicaffe import models
    from minicaffe.folding import ROUNDING

    options.choose_device("", threads)
    if not path.endswith((ONNX, *TORCH)):
        raise click.UsageError(
            f"OUT must end in {ONNX}, {' or '.join(TORCH)}, which tells what it is for; found {path}"
        )
    write = _write_onnx if path.endswith(ONNX) else _write_torch
    net = _build(models.find(model), level, options.split(stage), dict(shapes))
    with contextlib.closing(net):
        _load(net, weights, outputs or net.outputs)
        told = write(net, path, outputs or None, check)
    found = told.differences
    if as_json:
        sides = {"inputs": told.inputs, "outputs": told.outputs, "notes": told.notes}
        console.result_as_json({**told.facts, **sides, "differences": found})
    else:
        _tell(told)
    return int(found is not None and not all(value <= ROUNDING for value in found.values()))


@dataclass
class Told:
    """What is told of an exported net: a line and facts of its own, and the rest of any."""

    line: str
    facts: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    notes: list[str]
    checked_in: str
    differences: dict[str, float] | None


def _write_onnx(net: Net, path: str, outputs: Sequence[str] | None, checked: bool) -> Told:
    from minicaffe.onnx import check, export_onnx

    made = export_onnx(net, path, outputs)
    found = check.differences(made) if checked else None
    line = f"{path}: opset {made.opset}, {len(made.model.graph.node)} nodes"
    return Told(line, {"opset": made.opset}, made.inputs, made.outputs, made.notes, "ONNX Runtime", found)


def _write_torch(net: Net, path: str, outputs: Sequence[str] | None, checked: bool) -> Told:
    from minicaffe.pytorch import check, export_torch

    made = export_torch(net, path, outputs)
    found = check.differences(made) if checked else None
    weights, program = made.written
    name = made.source.name
    line = f"{weights}: a state_dict of {len(made.source.state)} tensors; {program}: its module, the class {name}"
    facts = {"module": str(program), "class": name}
    sizes: dict[str, Any] = {blob: list(net.blobs[blob].shape) for blob in made.outputs}
    inputs = {blob: list(shape) for blob, shape in made.inputs.items()}
    return Told(line, facts, inputs, sizes, [], "PyTorch", found)


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
    """Load weights; WeightsError if a layer to export gets none, or NaN."""
    import numpy as np

    from minicaffe.errors import WeightsError
    from minicaffe.onnx.plan import needed_steps

    needed = [step.layer for step in needed_steps(net, outputs)]
    names = {layer.name for layer in needed}
    missing = [name for name in net.copy_from(weights).initialised if name in names]
    if missing:
        raise WeightsError(
            f"{weights} holds no weights for {', '.join(missing)} of net '{net.name}': give the weights of this net"
        )
    spoilt = [layer.name for layer in needed if any(np.isnan(blob.peek_data()).any() for blob in layer.blobs)]
    if spoilt:
        raise WeightsError(
            f"{weights} holds NaN in {', '.join(spoilt)}: training diverged; export an earlier snapshot "
            "('minicaffe inspect' tells which are sound)"
        )


def _tell(told: Told) -> None:
    console.result(told.line)
    for side, values in (("input", told.inputs), ("output", told.outputs)):
        for name, sizes in values.items():
            console.result(f"{side} {name}: {' x '.join('?' if s is None else str(s) for s in sizes) or 'one number'}")
    for note in told.notes:
        console.result(f"note: {note}")
    if (found := told.differences) is not None:
        worst = max(found, key=lambda name: found[name])
        console.result(
            f"checked in {told.checked_in}: the largest difference is {found[worst]:.2g} of the largest value of "
            f"'{worst}'"
        )
