"""``minicaffe summarize``: what a net costs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition

if TYPE_CHECKING:
    from rich.table import Table

    from minicaffe.summary import Memory, Summary

_PIPE_WIDTH = 160


@click.command(
    cls=Command,
    examples=[
        "minicaffe summarize resnet50/deploy.prototxt",
        "minicaffe summarize --model caffenet/train_val.prototxt --shape data=64,3,227,227 --shape label=64",
    ],
)
@click.argument("net", metavar="[NET]", required=False, type=Definition())
@click.option("--model", metavar="NET", type=Definition(), help="The net, as Caffe's commands name it.")
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"]), default="TRAIN", show_default=True, help="The net's phase."
)
@options.shapes
@options.as_json
@click.option(
    "--w", "width", type=click.IntRange(min=4), metavar="N", help="The width of the columns of names, in characters."
)
@options.net_state
def command(
    net: str | None, model: str | None, phase: str, shapes: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool,
    width: int | None, level: int, stage: str,
) -> None:  # fmt: skip
    """Show what a net costs: shapes, params, FLOPs, memory.

    NET is a prototxt, a path or a shipped model's file.  FLOPs count a multiplication and an addition as two; bytes are
    those that a pass must read and write at least.  Memory is that of blobs, params and scratch; a solver's history and
    data layers' batches come on top.
    """
    from minicaffe import models, proto
    from minicaffe.errors import DataError, MissingExtraError
    from minicaffe.summary import load, summarize

    if (net is None) == (model is None):
        raise click.UsageError("name one net: minicaffe summarize NET")
    path = models.find(net or model or "")
    try:
        loaded = load(path, proto.Phase.Value(phase), level, options.split(stage), dict(shapes))
    except (DataError, MissingExtraError) as error:
        raise DataError(f"{error}; or say what its data layers would make: {wanted_shapes(path)}") from error
    with contextlib.closing(loaded):
        summary = summarize(loaded)
    if as_json:
        console.result_as_json(summary.to_json())
        return
    from rich.console import Console

    screen = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    screen.print(_layers(summary, width))
    screen.print(_memory(summary.memory))


def wanted_shapes(path: str) -> str:
    """The ``--shape`` flags that a net needs when its data is not there."""
    from minicaffe.proto.files import read_net

    layers = [
        layer for layer in read_net(path)[0].layer if not layer.bottom and layer.type not in ("Input", "DummyData")
    ]
    firsts = {layer.top[0] for layer in layers if layer.top}
    tops = dict.fromkeys(top for layer in layers for top in layer.top)
    return " ".join(f"--shape {top}={'N,C,H,W' if top in firsts else 'N'}" for top in tops)


def _layers(summary: Summary, width: int | None) -> Table:
    from rich.table import Table

    table = Table(title=f"{summary.name} ({summary.phase})", show_footer=True)
    total, images = summary.forward, max(summary.images, 1)
    for heading, footer in (("layer", "total"), ("type", f"{len(summary.layers)} layers"), ("output", "")):
        table.add_column(heading, footer, overflow="fold", max_width=width)
    columns = [
        ("params", summary.params, lambda layer: layer.params),
        ("FLOPs", total.flops, lambda layer: layer.forward.flops),
        ("an image", total.flops / images, lambda layer: layer.forward.flops / images),
        ("bytes", total.bytes, lambda layer: layer.forward.bytes),
    ]
    if summary.backward.flops:
        columns.append(("backward FLOPs", summary.backward.flops, lambda layer: layer.backward.flops))
    for heading, sum_, _ in columns:
        table.add_column(heading, _count(sum_), justify="right", no_wrap=True)
    for layer in summary.layers:
        shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in layer.tops)
        table.add_row(layer.name, layer.type, shapes, *(_count(of(layer)) for _, _, of in columns))
    return table


def _memory(memory: Memory) -> Table:
    from rich.table import Table

    table = Table("memory", title="Memory", show_header=False)
    table.add_column("MiB", justify="right")
    for label, size in (
        ("params", memory.params), ("their gradients", memory.param_gradients), ("blobs", memory.blobs),
        ("their gradients", memory.blob_gradients), ("what layers keep", memory.scratch),
        ("workspace that layers share", memory.workspace),
    ):  # fmt: skip
        if size:
            table.add_row(label, _mebibytes(size))
    table.add_section()
    if memory.training > memory.inference:
        table.add_row("peak while training", _mebibytes(memory.training))
    for label, size in (
        ("peak of forward alone", memory.inference),
        (f"the same with blobs' memory reused (blobs: {_mebibytes(memory.planned_blobs)})", memory.planned_inference),
    ):  # fmt: skip
        table.add_row(label, _mebibytes(size))
    return table


def _count(number: float) -> str:
    """Three digits and a prefix; nothing for 0."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{prefix}" if number < 999.5 * factor else f"{number / factor:.0f}{prefix}"
    return f"{number:.3g}" if number else ""


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
