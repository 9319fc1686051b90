"""``minicaffe download_model``: the weights of a model of Caffe's zoo."""

from __future__ import annotations

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path


@click.command(cls=Command, examples=["minicaffe download_model models/bvlc_alexnet"])
@click.argument("folder", metavar="DIR", type=Path("dir"))
def command(folder: str) -> None:
    """Download a model's weights from where its readme.md says.

    DIR holds a readme.md as Caffe's model zoo has it, whose first lines name caffemodel, caffemodel_url and sha1.  The
    weights are checked against their SHA-1; an interrupted download goes on where it stopped.
    """
    from minicaffe.zoo import fetch, read_entry

    entry = read_entry(folder)
    if fetch(entry):
        console.result(f"{entry.path}: downloaded, its SHA-1 is right")
    else:
        console.result("Model already exists.")
