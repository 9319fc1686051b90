"""``minicaffe fold_bn``: BatchNorm and Scale layers into the layers before them."""

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


@click.command(
    cls=Command,
    examples=["minicaffe fold_bn net_with_bn.prototxt net_with_bn.caffemodel folded.prototxt folded.caffemodel"],
)
@click.argument("model", metavar="NET", type=Definition())
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.argument("new_model", metavar="OUT_NET", type=Path())
@click.argument("new_weights", metavar="OUT_WEIGHTS", type=Path())
@options.shapes
@options.no_python_layers
def command(model: str, weights: str, new_model: str, new_weights: str, shapes: tuple) -> int:
    """Fold BatchNorm and Scale into the layers before them.

    Writes NET's TEST phase without the BatchNorm and Scale layers that stand behind a Convolution, Deconvolution or
    InnerProduct, and weights with which it computes the same.  Both nets are then run on noise, and the largest
    difference of what their blobs hold is told; the exit status is 1 if it is more than rounding.
    """
    from minicaffe import models, weight_files
    from minicaffe.folding import fold
    from minicaffe.proto import text
    from minicaffe.proto.files import read_net

    path = models.find(model)
    folded = fold(read_net(path)[0], weight_files.read(weights))
    text.write_text(new_model, folded.net)
    weight_files.write(new_weights, folded.weights)
    for name, gone in folded.into.items():
        console.result(f"{', '.join(gone)} -> {name}")
    for name, reason in folded.kept.items():
        console.result(f"{name} stays: {reason}")
    count = sum(map(len, folded.into.values()))
    console.result(f"{new_model}, {new_weights}: {len(folded.net.layer)} layers, {count} fewer")
    return _check((path, weights), (new_model, new_weights), dict(shapes))


def _check(old: Sequence[str], new: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> int:
    """Run both nets on the same noise, and tell by how much their blobs differ; the exit status."""
    from minicaffe import TEST
    from minicaffe.errors import DataError, MissingExtraError
    from minicaffe.folding import ROUNDING, largest_difference
    from minicaffe.verification import build, fill_inputs

    def blobs(net: Net, weights: str) -> dict:
        with contextlib.closing(net):
            net.copy_from(weights)
            fill_inputs(net)
            net.run_forward()
            return {name: blob.data.copy() for name, blob in net.blobs.items()}

    try:
        before, after = (blobs(build(model, TEST, shapes=shapes), weights) for model, weights in (old, new))
    except (DataError, MissingExtraError) as error:
        console.result(f"not compared, for want of data ({error}): give --shape for each input")
        return 0
    found = {name: largest_difference(before[name], values) for name, values in after.items() if name in before}
    worst = max(found, key=lambda name: found[name])
    console.result(
        f"largest difference of the {len(found)} blobs that both nets have: {found[worst]:.2g} of the largest value of "
        f"'{worst}'"
    )
    return int(found[worst] > ROUNDING)
