"""``minicaffe convert_mnist_data`` and its kin: the converters of Caffe's examples, with their arguments."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

if TYPE_CHECKING:
    import numpy as np

    from minicaffe.data.write import Written

_log = logging.getLogger(__name__)

_images = click.argument("images_file", metavar="IMAGES", type=Path())
_labels = click.argument("labels_file", metavar="LABELS", type=Path())
_database = click.argument("database", metavar="DB", type=Path("dir"))


@click.command(
    cls=Command,
    examples=[
        "minicaffe convert_mnist_data downloads/t10k-images-idx3-ubyte.gz downloads/t10k-labels-idx1-ubyte.gz "
        "mnist_test_lmdb --backend lmdb",
    ],
)
@_images
@_labels
@_database
@click.option(
    "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True,
    help="The kind of database.",
)  # fmt: skip
def mnist(images_file: str, labels_file: str, database: str, backend: str) -> None:
    """Make a database of images in MNIST's format.

    IMAGES and LABELS are IDX files, gzipped or not.
    """
    from minicaffe.data.write import write_images

    _report(write_images(database, *_read(images_file, labels_file), backend), "images")


@click.command(
    cls=Command,
    examples=[
        "minicaffe convert_mnist_siamese_data downloads/t10k-images-idx3-ubyte.gz downloads/t10k-labels-idx1-ubyte.gz "
        "pairs_leveldb",
    ],
)
@_images
@_labels
@_database
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), help="Draw the pairs that this number gives.")
def siamese(images_file: str, labels_file: str, database: str, seed: int | None) -> None:
    """Make a database of pairs of such images.

    IMAGES and LABELS are IDX files, gzipped or not.  A LevelDB gets as many pairs as there are images, drawn at random,
    so that with ten classes one in ten is similar.
    """
    from minicaffe.data.pairs import draw_pairs
    from minicaffe.data.write import write_pairs

    images, labels = _read(images_file, labels_file)
    drawn = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    pairs, similar = draw_pairs(labels, seed=drawn)
    _report(write_pairs(database, images, pairs, similar, "leveldb"), "pairs")


@click.command(cls=Command, examples=["minicaffe convert_cifar_data downloads databases lmdb"])
@click.argument("source", metavar="IN_DIR", type=Path("dir"))
@click.argument("target", metavar="OUT_DIR", type=Path("dir"))
@click.argument("backend", metavar="lmdb|leveldb", type=click.Choice(["lmdb", "leveldb"]))
def cifar10(source: str, target: str, backend: str) -> None:
    """Make databases of CIFAR-10's files.

    IN_DIR holds the binary version, packed or not; OUT_DIR gets cifar10_train_lmdb and cifar10_test_lmdb, or their
    LevelDBs.
    """
    from minicaffe.data.cifar10 import read_cifar10
    from minicaffe.data.write import write_images
    from minicaffe.tools import databases

    os.makedirs(target, exist_ok=True)
    for split in ("train", "test"):
        path = os.path.join(target, databases.images("cifar10", split, backend))
        _report(write_images(path, *read_cifar10(source, split), backend, digits=5), "images")


def _read(images_file: str, labels_file: str) -> tuple[np.ndarray, np.ndarray]:
    from minicaffe.data.idx import read_labelled_images

    images, labels = read_labelled_images(images_file, labels_file)
    _log.info("A total of %d items.", len(images))
    _log.info("Rows: %d Cols: %d", *images.shape[1:])
    return images, labels


def _report(written: Written, what: str) -> None:
    _log.info("Processed %d files.", written.records)
    labels = ", ".join(f"{count} of label {label}" for label, count in written.labels.items())
    console.result(f"{os.path.relpath(written.path)} ({written.backend}): {written.records} {what}: {labels}")
