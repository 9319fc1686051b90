"""``minicaffe embed``: what a trained siamese net makes of labelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from minicaffe.embedding import Tower
    from minicaffe.net import Net

_NEIGHBOURS = (1, 5)


@click.command(
    cls=Command,
    examples=[
        "minicaffe embed --model siamese/digits_train_test.prototxt --weights siamese.caffemodel "
        "--source examples/digits/digits_test_lmdb",
    ],
)
@options.model
@options.weights
@click.option("--source", required=True, metavar="DB", type=Path("dir"), help="A database of single, labelled images.")
@click.option(
    "--train_source", metavar="DB", type=Path("dir"), help="Labelled images among which to look for nearest neighbours."
)
@click.option(
    "--output", default="embedding.png", show_default=True, metavar="FILE", type=Path(), help="Where to write the plot."
)
@options.gpu
@options.no_python_layers
def command(model: str, weights: str, source: str, train_source: str | None, output: str, gpu: str) -> None:
    """Plot and score the features that a siamese net gives images.

    The net is the one that was trained, with its ContrastiveLoss: one of its towers is taken out and run over the
    images of --source.  The score is how many get their label from their nearest neighbours, in --train_source or else
    among the other images.
    """
    from minicaffe import models
    from minicaffe.embedding import tower_of_file

    tower = tower_of_file(models.find(model))
    options.choose_device(gpu)
    embed(tower, lambda net: net.copy_from(weights), source, train_source, output)


def embed(
    tower: Tower, load: Callable[[Net], object], images: str, train_images: str | None, path: str | None
) -> tuple[NDArray, NDArray]:
    """Report the nearest-neighbour accuracy of a tower's features of a database's images, and plot them to a path.

    Returns the features and labels of the images.
    """
    from minicaffe import plot
    from minicaffe.embedding import extract, neighbour_accuracy

    features, labels = extract(tower, images, load)
    reference = extract(tower, train_images, load) if train_images else None
    against = f"{len(reference[1])} of {train_images}" if reference else "the others"
    for k in _NEIGHBOURS:
        score = neighbour_accuracy(features, labels, k, reference)
        console.result(
            f"Accuracy of {k} nearest neighbour{'s' if k > 1 else ''}: {score:.4g} "
            f"({len(labels)} images of {images} against {against})"
        )
    if path is not None:
        plot.embedding(features, labels, path, title=f"{tower.feature} of {images}")
        console.result(f"Plot of the features: {path}")
    return features, labels
