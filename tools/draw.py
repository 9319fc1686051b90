"""``minicaffe draw``: a net as a picture."""

from __future__ import annotations

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path


@click.command(
    cls=Command,
    examples=[
        "minicaffe draw siamese/mnist_siamese.prototxt siamese.png",
        "minicaffe draw resnet50/deploy.prototxt resnet50.svg --compact",
    ],
)
@click.argument("net", metavar="NET", type=Definition())
@click.argument("output", metavar="OUT", type=Path())
@click.option(
    "--rankdir",
    type=click.Choice(["LR", "TB", "BT", "RL"]),
    help="Where the graph grows to (default: LR, left to right; with --compact TB, top to bottom).",
)
@click.option(
    "--phase",
    type=click.Choice(["TRAIN", "TEST", "ALL"]),
    default="ALL",
    show_default=True,
    help="Draw only the layers of this phase.",
)
@click.option("--display_lrm", is_flag=True, help="Show learning-rate multipliers.")
@click.option("--compact", is_flag=True, help="A box for each layer, layers in place below it, and no blobs.")
def command(net: str, output: str, rankdir: str | None, phase: str, display_lrm: bool, compact: bool) -> None:
    """Draw a net as a picture or as Graphviz text.

    NET is a prototxt, a path or a shipped model's file, or a .caffemodel; OUT ends in .png, .svg, .pdf, .dot or .raw
    (Graphviz text).
    """
    from minicaffe import draw, models, proto
    from minicaffe.proto.files import read_definition

    param = read_definition(models.find(net))
    chosen = None if phase == "ALL" else proto.Phase.Value(phase)
    draw.draw_net_to_file(param, output, rankdir or ("TB" if compact else "LR"), chosen, display_lrm, compact)
    console.result(f"Drawing net to {output}")
