"""``minicaffe classify``: what a net says of images."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path
from minicaffe.tools.image_options import Numbers, image_options, read_mean, set_channel_swap

if TYPE_CHECKING:
    import numpy as np

_log = logging.getLogger(__name__)

_AT_ONCE = 64  # images that are in memory together


@click.command(
    cls=Command,
    examples=[
        "minicaffe classify digit.png scores.npy --model_def lenet/lenet.prototxt --pretrained_model lenet.caffemodel "
        "--images_dim 28,28 --center_only --input_scale 0.00390625 --top 3",
    ],
)
@click.argument("source", metavar="INPUT", type=Path())
@click.argument("output", metavar="OUTPUT", type=Path())
@image_options
@click.option("--center_only", is_flag=True, help="Take the crop in the middle, instead of the mean over ten crops.")
@click.option(
    "--images_dim", type=Numbers(2), default="256,256", show_default=True, metavar="H,W",
    help="Resize images to this before they are cropped to the net's input.",
)  # fmt: skip
@click.option("--ext", default="jpg", show_default=True, help="The files of a folder that are images.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Show the best classes of each image, so many.")
@options.deploy
@click.option("--labels", metavar="FILE", type=Path(), help="The names of the classes, a line each, for --top.")
def command(
    source: str, output: str, model_def: str, pretrained_model: str, gpu: bool, mean_file: str, raw_scale: float,
    input_scale: float | None, channel_swap: tuple[int, ...], center_only: bool, images_dim: tuple[int, ...], ext: str,
    top: int | None, deploy: bool, labels: str | None,
) -> None:  # fmt: skip
    """Classify images with a trained net.

    INPUT is an image, a folder of images, or an array of images (.npy: images x height x width x channels, values from
    0 to 1).  OUTPUT gets the net's first output for each image, as an array (.npy): images x classes.
    """
    import numpy as np

    from minicaffe import models
    from minicaffe.classifier import Classifier
    from minicaffe.proto.atomic import atomic_path

    options.choose_device("0" if gpu else "")
    names = _names(source, ext)
    classifier = Classifier(
        models.find(model_def),
        pretrained_model,
        images_dim,
        read_mean(mean_file),
        input_scale,
        raw_scale,
        deploy=deploy,
    )
    with contextlib.closing(classifier):
        colour = set_channel_swap(classifier, classifier.transformer, channel_swap)
        images = _read_array(source) if names is None else names
        _log.info("Classifying %d inputs.", len(images))
        start = time.perf_counter()
        predictions = np.concatenate(
            [
                classifier.predict(_load(images[i : i + _AT_ONCE], colour), not center_only)
                for i in range(0, len(images), _AT_ONCE)
            ]
        )
    _log.info("Done in %.2f s.", time.perf_counter() - start)
    if top:
        _show_best(predictions, names or [f"image {i}" for i in range(len(images))], top, labels)
    path = output if output.endswith(".npy") else output + ".npy"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, predictions)
    console.result(f"Saving results into {path}: {' x '.join(map(str, predictions.shape))} (images x classes)")


def _names(source: str, ext: str) -> list[str] | None:
    """The image files that INPUT names, or None if it is an array."""
    from minicaffe.errors import DataError

    if not os.path.exists(source):
        raise DataError(f"no image, folder or array {source} (tried {os.path.abspath(source)})")
    if source.endswith("npy"):
        _log.info("Loading file: %s", source)
        return None
    if not os.path.isdir(source):
        _log.info("Loading file: %s", source)
        return [source]
    _log.info("Loading folder: %s", source)
    found = sorted(glob.glob(os.path.join(glob.escape(source), f"*.{glob.escape(ext)}")))
    if not found:
        raise DataError(f"folder {source}: no file ends in .{ext}; --ext says which are images")
    return found


def _read_array(source: str) -> np.ndarray:
    from minicaffe.data.npy import read_npy
    from minicaffe.errors import DataError

    images = read_npy(source)
    if images.ndim != 4 or not len(images):
        raise DataError(f"{source}: expected images x height x width x channels; found an array of {images.shape}")
    return images


def _load(images: Sequence[Any] | np.ndarray, colour: bool) -> list[np.ndarray]:
    """Images (height, width, channels) of 0 to 1; those that are given as files are read."""
    from minicaffe import io

    return [io.load_image(image, colour) if isinstance(image, str) else image for image in images]


def _show_best(predictions: np.ndarray, names: Sequence[str], top: int, labels: str | None) -> None:
    from minicaffe.tools.classification import read_labels

    words = read_labels(labels, predictions.shape[1]) if labels else None
    for name, row in zip(names, predictions, strict=True):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:top]
        console.result(f"{name}: " + ", ".join(f"{row[i]:.4f} {words[i] if words else f'class {i}'}" for i in best))
