"""``minicaffe convert``: weights from one format to another."""

from __future__ import annotations

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path


@click.command(
    cls=Command,
    examples=[
        "minicaffe convert lenet.caffemodel lenet.safetensors",
        "minicaffe convert lenet.safetensors again.caffemodel --model lenet/lenet.prototxt",
        "minicaffe convert lenet.caffemodel lenet.caffemodel.h5",
    ],
)
@click.argument("source", metavar="IN", type=Path())
@click.argument("target", metavar="OUT", type=Path())
@click.option(
    "--model", metavar="NET", type=Definition(),
    help="The net whose layers a .caffemodel is to hold; without it they are those of IN, or have names only.",
)  # fmt: skip
def command(source: str, target: str, model: str | None) -> None:
    """Convert weights from one format to another.

    The formats are .caffemodel, .h5, .npz and .safetensors.  IN is told by its content, OUT by its name.  In .npz and
    .safetensors the params are named layer/index, as in Caffe's HDF5 files: conv1/0 are the weights of conv1, conv1/1
    its biases.  All formats can be given as --weights.
    """
    from minicaffe import models, weight_files
    from minicaffe.proto.files import read_definition

    stored = weight_files.read(source)
    if model is not None:
        stored.definition = read_definition(models.find(model))
        stored.net = stored.definition.name
    weight_files.write(target, stored)
    console.result(f"{target}: {stored.count} params of {len(stored.layers)} layers")
