"""``minicaffe classification``: the five best classes of an image, as Caffe's example in C++ shows them."""

from __future__ import annotations

import contextlib

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path

_SHOWN = 5


@click.command(
    cls=Command,
    examples=["minicaffe classification net.prototxt net.caffemodel mean.binaryproto labels.txt image.png"],
)
@click.argument("model", metavar="NET", type=Definition())
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.argument("mean_file", metavar="MEAN", type=Path())
@click.argument("labels", metavar="LABELS", type=Path())
@click.argument("image", metavar="IMAGE", type=Path())
@options.device
@options.no_python_layers
def command(
    model: str, weights: str, mean_file: str, labels: str, image: str, gpu: str, threads: int | None
) -> None:  # fmt: skip
    """Show the five best classes of an image.

    MEAN is a mean image (.binaryproto), of which the mean of each channel is subtracted; LABELS has the name of a class
    on each line.
    """
    import numpy as np

    from minicaffe import TEST, models
    from minicaffe.data.image import read_image, resize
    from minicaffe.data.transform import read_mean
    from minicaffe.errors import DataError, NetError
    from minicaffe.net import Net

    options.choose_device(gpu, threads)
    net = Net(models.find(model), TEST, weights=weights)
    with contextlib.closing(net):
        if len(net.inputs) != 1 or len(net.outputs) != 1 or len(net.blobs[net.inputs[0]].shape) != 4:
            raise NetError(
                f"net '{net.name}' must have one input of images and one output; "
                f"found the inputs {', '.join(net.inputs) or 'none'} and the outputs {', '.join(net.outputs) or 'none'}"
            )
        blob = net.blobs[net.inputs[0]]
        _, channels, height, width = blob.shape
        if channels not in (1, 3):
            raise NetError(f"net '{net.name}' takes images of {channels} channels; expected 1 or 3")
        blob.reshape(1, channels, height, width)
        mean = read_mean(mean_file)
        if len(mean) != channels:
            raise DataError(f"{mean_file} has {len(mean)} channels, net '{net.name}' takes {channels}")
        pixels = resize(read_image(image, channels == 3), height, width).astype(np.float32)
        blob.data[0] = pixels - mean.mean(axis=(1, 2), keepdims=True)
        net.run_forward()
        scores = net.blobs[net.outputs[0]].data.reshape(-1)
        words = read_labels(labels, len(scores))
        console.result(f"---------- Prediction for {image} ----------")
        for i in np.argsort(-scores, kind="stable")[:_SHOWN]:
            console.result(f'{scores[i]:.4f} - "{words[i]}"')


def read_labels(path: str, classes: int) -> list[str]:
    """The names of so many classes, a line each; DataError if there is another number of them."""
    from minicaffe.errors import DataError

    try:
        with open(path, encoding="utf-8") as file:
            names = file.read().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"labels {path}: not text in UTF-8") from None
    if len(names) != classes:
        raise DataError(
            f"labels {path}: {len(names)} lines, but the net has {classes} classes; expected a line for each"
        )
    return names
