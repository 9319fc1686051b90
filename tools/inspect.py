"""``minicaffe inspect``: what a file is, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options, tables
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition

if TYPE_CHECKING:
    from minicaffe.inspection import Report


@click.command(
    cls=Command,
    examples=[
        "minicaffe inspect lenet/lenet.prototxt",
        "minicaffe inspect lenet.caffemodel --json",
        "minicaffe inspect train_lmdb --records 100",
    ],
)
@click.argument("file", metavar="FILE", type=Definition())
@click.option(
    "--records", type=click.IntRange(min=1), metavar="N", default=1000, show_default=True,
    help="Look at so many records of a database.",
)  # fmt: skip
@options.as_json
def command(file: str, records: int, as_json: bool) -> None:
    """Tell what a file is, and what is in it.

    FILE is any of these: a prototxt (net or solver), a .caffemodel, a .solverstate, HDF5, a mean image (.binaryproto),
    a database's folder (LMDB or LevelDB), .npz, .npy, .safetensors, IDX (MNIST), an image, a list of images, an ONNX
    model (with the package onnx).  Shows layers, shapes, and the statistics of all numbers: NaN and infinity are named
    at the end.
    """
    from minicaffe import models
    from minicaffe.inspection import inspect

    report = inspect(models.find(file), records)
    if as_json:
        console.result_as_json(report.to_json())
        return
    console.result(f"{report.path}: {report.kind}")
    for name, value in report.facts.items():
        console.result(f"  {name.replace('_', ' ')}: {_text(value)}")
    _show_layers(report)
    _show_arrays(report)
    for problem in report.problems:
        console.result(f"problem: {problem}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list):
        return (
            " x ".join(map(str, value))
            if value and all(isinstance(v, int) for v in value)
            else ", ".join(map(_text, value)) or "none"
        )
    if isinstance(value, float):
        return f"{value:g}"
    return "not known" if value is None else str(value)


def _show_layers(report: Report) -> None:
    if not report.layers:
        return
    rows = []
    for layer in report.layers:
        shapes = ", ".join(map(tables.shape, layer.get("shapes", [])))
        settings = ", ".join(f"{name} {value}" for name, value in layer["settings"].items())
        rows.append(
            [layer["name"], layer["type"], ", ".join(layer["bottoms"]), ", ".join(layer["tops"]), shapes, settings,
             layer["phase"]]
        )  # fmt: skip
    tables.show(["layer", "type", "bottoms", "tops", "shapes", "settings", "phase"], rows)


def _show_arrays(report: Report) -> None:
    if not report.arrays:
        return
    rows = [
        [name, tables.shape(found.shape), found.dtype]
        + [tables.number(value) for value in (found.minimum, found.maximum, found.mean, found.std)]
        + [found.remark]
        for name, found in report.arrays.items()
    ]
    tables.show(["numbers", "shape", "type", ">min", ">max", ">mean", ">std", ""], rows)
