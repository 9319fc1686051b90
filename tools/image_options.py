"""What ``classify``, ``detect`` and ``segment`` have in common: the net, and how images become its input."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import options
from minicaffe.tools.completion import Definition, Path

if TYPE_CHECKING:
    import numpy as np

    from minicaffe.net import Net


class Numbers(click.ParamType):
    """So many whole numbers, separated by commas."""

    name = "N,N"

    def __init__(self, count: int) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).split(",")
        if len(parts) != self.count or not all(part.strip().isdigit() for part in parts):
            self.fail(f"expected {self.count} whole numbers with commas between them; found '{value}'", param, ctx)
        return tuple(map(int, parts))


_FLAGS = [
    click.option(
        "--model_def", default="caffenet/deploy.prototxt", show_default=True, metavar="NET", type=Definition(),
        help="The net, a prototxt with one input of images.",
    ),
    click.option("--pretrained_model", required=True, metavar="WEIGHTS", type=Path(), help="Its weights."),
    click.option("--gpu", is_flag=True, help="Compute on the GPU."),
    click.option(
        "--mean_file", default="", metavar="FILE", type=Path(),
        help="Subtract this: an array (.npy) or a mean image (.binaryproto) of channels x height x width, or of a "
        "value a channel (default: nothing).",
    ),
    click.option("--raw_scale", default=255.0, show_default=True, help="Multiply images, of 0 to 1, by this first."),
    click.option("--input_scale", type=float, metavar="S", help="Multiply by this at last, after the mean."),
    click.option(
        "--channel_swap", type=Numbers(3), default="2,1,0", show_default=True,
        help="The order of the channels: by default blue, green, red.  Gray nets have none.",
    ),
    options.no_python_layers,
]  # fmt: skip


def image_options(command: Callable) -> Callable:
    """Caffe's flags for a net of images."""
    for option in reversed(_FLAGS):
        command = option(command)
    return command


def read_mean(path: str) -> np.ndarray | None:
    """The mean in a file, (channels, height, width) or (channels,); None for no file.  DataError if it is none."""
    from minicaffe.data import transform
    from minicaffe.data.npy import read_npy

    if not path:
        return None
    return read_npy(path) if os.path.splitext(path)[1] == ".npy" else transform.read_mean(path)


def set_channel_swap(net: Net, transformer: Any, order: tuple[int, ...]) -> bool:
    """Give a net's transformer the order of channels, if it has three; whether its images are in colour."""
    name = net.inputs[0]
    channels = net.blobs[name].shape[1]
    if channels == len(order):
        transformer.set_channel_swap(name, order)
    return channels != 1
