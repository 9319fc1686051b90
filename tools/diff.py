"""``minicaffe diff``: how two nets, solvers or files of weights differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options, tables
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition

if TYPE_CHECKING:
    from minicaffe.comparison import Difference


@click.command(
    cls=Command,
    examples=[
        "minicaffe diff lenet/lenet.prototxt lenet/lenet_train_test.prototxt",
        "minicaffe diff before.caffemodel after.caffemodel --tolerance 1e-6",
    ],
)
@click.argument("a", metavar="A", type=Definition())
@click.argument("b", metavar="B", type=Definition())
@click.option(
    "--tolerance", default=0.0, show_default=True, type=click.FloatRange(min=0), metavar="T",
    help="Weights that differ by no more than this count as equal.",
)  # fmt: skip
@options.as_json
def command(a: str, b: str, tolerance: float, as_json: bool) -> int:
    """Compare two nets, solvers or files of weights, layer by layer.

    Weights may be .caffemodel, HDF5, .npz and .safetensors files, also one of each; a prototxt is compared with the
    definition in a .caffemodel.  The exit status is 1 if A and B differ.
    """
    from minicaffe import models

    found = _compare(models.find(a), models.find(b))
    if as_json:
        console.result_as_json(found.to_json(tolerance))
    else:
        _show(found, a, b, tolerance)
    return int(found.different(tolerance))


def _compare(a: str, b: str) -> Difference:
    from minicaffe import comparison, weight_files
    from minicaffe.proto.files import read_definition, read_solver

    texts = [_text_kind(path) for path in (a, b)]
    if texts == ["solver", "solver"]:
        return comparison.compare_solvers(read_solver(a), read_solver(b))
    if "solver" in texts:
        raise click.UsageError(f"a solver can be compared with another solver only: {a}, {b}")
    if any(texts):
        return comparison.compare_nets(read_definition(a), read_definition(b))
    return comparison.compare_weights(weight_files.read(a), weight_files.read(b))


def _text_kind(path: str) -> str | None:
    """ "net" or "solver" for a prototxt, None for any other file."""
    from minicaffe import limits, proto
    from minicaffe.errors import PrototxtError
    from minicaffe.proto import kinds, text

    try:
        head = limits.read_head(path)
    except (FileNotFoundError, IsADirectoryError):
        head = b""  # let the one that reads it say why it cannot
    if head and not kinds.may_be_text(head):
        return None
    characters = text.load(path)
    try:
        text.parse(characters, proto.NetParameter(), path)
    except PrototxtError:
        try:
            text.parse(characters, proto.SolverParameter(), path)
        except PrototxtError:
            return "net"  # whose error says more
        return "solver"
    return "net"


def _show(found: Difference, a: str, b: str, tolerance: float) -> None:
    for names, place in ((found.only_a, a), (found.only_b, b)):
        if names:
            console.result(f"only in {place}: {', '.join(names)}")
    if found.order:
        console.result("the layers that both have stand in another order")
    rows = [
        [layer or "(the whole)", change.path, _value(change.a), _value(change.b)]
        for layer, changes in found.fields.items()
        for change in changes
    ]
    if rows:
        tables.show(["layer", "field", "A", "B"], rows)
    changed = found.changed_params(tolerance)
    if changed:
        tables.show(
            ["layer", ">param", "shape", ">largest difference", ">of the largest", ">rms"],
            [
                [p.layer, str(p.index), _shapes(p)] + [tables.number(x) for x in (p.largest, p.relative, p.rms)]
                for p in changed
            ],
        )
    if found.params:
        console.result(f"{len(found.params) - len(changed)} of {len(found.params)} params are equal")
    if not found.different(tolerance):
        console.result("no difference")


def _value(text: str | None) -> str:
    return "(not set)" if text is None else text


def _shapes(param: Any) -> str:
    a, b = map(tables.shape, (param.shape_a, param.shape_b))
    return a if param.same_shape else f"{a} and {b}"
