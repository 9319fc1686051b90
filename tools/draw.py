"""``minicaffe draw``: a net as a picture."""

from __future__ import annotations

import click

from minicaffe.tools.command import Command


@click.command(cls=Command)
@click.argument("net", metavar="NET")
@click.argument("output", metavar="OUT")
@click.option(
    "--rankdir",
    type=click.Choice(["LR", "TB", "BT", "RL"]),
    default="LR",
    show_default=True,
    help="Where the graph grows to.",
)
@click.option(
    "--phase",
    type=click.Choice(["TRAIN", "TEST", "ALL"]),
    default="ALL",
    show_default=True,
    help="Draw only the layers of this phase.",
)
@click.option("--display_lrm", is_flag=True, help="Show learning-rate multipliers.")
def command(net: str, output: str, rankdir: str, phase: str, display_lrm: bool) -> None:
    """Draw a net as a picture or as Graphviz text.

    NET is a prototxt, a path or a shipped model's file; OUT ends in .png, .svg, .pdf, .dot or .raw (Graphviz text).
    """
    from minicaffe import draw, models, proto
    from minicaffe.proto.files import read_net

    param, _ = read_net(models.find(net))
    click.echo(f"Drawing net to {output}")
    draw.draw_net_to_file(param, output, rankdir, None if phase == "ALL" else proto.Phase.Value(phase), display_lrm)
