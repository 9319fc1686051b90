"""``minicaffe convert_imageset`` and ``minicaffe data images``: databases of image files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

if TYPE_CHECKING:
    from minicaffe.data.imageset import Entry, Recoding

_log = logging.getLogger(__name__)

_LISTED = 20  # labels whose images are counted one by one

_FLAGS = [
    click.option("--gray", is_flag=True, help="Make images gray."),
    click.option("--shuffle", is_flag=True, help="Shuffle the images with their labels."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Shuffle in the order that this number gives."),
    click.option(
        "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True,
        help="The kind of database.",
    ),
    click.option(
        "--resize_width", type=click.IntRange(min=0), default=0, show_default=True,
        help="Resize images to this width; 0 keeps their size.",
    ),
    click.option(
        "--resize_height", type=click.IntRange(min=0), default=0, show_default=True,
        help="Resize images to this height; 0 keeps their size.",
    ),
    click.option("--check_size", is_flag=True, help="Stop at an image that is not of the first one's size."),
    click.option("--encoded", is_flag=True, help="Keep images compressed."),
    click.option(
        "--encode_type", default="", metavar="png|jpg|...",
        help="Compress images so, whatever their files are; means --encoded.",
    ),
    click.option(
        "--labels", type=click.IntRange(min=1), metavar="N",
        help="Each line of LIST ends in N numbers, whole or not: the Data layer's labels are then of shape (batch, N).",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a database that exists."),
]  # fmt: skip


def _flags(command: Callable) -> Callable:
    for option in reversed(_FLAGS):
        command = option(command)
    return command


@click.command(
    cls=Command,
    examples=[
        "minicaffe convert_imageset images/ images/list.txt train_lmdb",
        "minicaffe convert_imageset -resize_height=32 -resize_width=32 -shuffle images/ images/list.txt small_lmdb",
    ],
)
@click.argument("root", metavar="ROOT/", type=Path("dir"))
@click.argument("list_file", metavar="LIST", type=Path())
@click.argument("database", metavar="DB", type=Path("dir"))
@_flags
def convert(root: str, list_file: str, database: str, **flags: object) -> None:
    """Make a database of the images that a list names.

    LIST has a line for each image: its path, a space, and its label, a whole number.  ROOT/ is put before each path as
    it is.  Images that cannot be read are named and left out.
    """
    _write(database, root, _listed(list_file, flags), flags)


@click.command(
    "images",
    cls=Command,
    examples=[
        "minicaffe data images images/list.txt train_lmdb",
        "minicaffe data images photos photos_lmdb --resize_height 32 --resize_width 32",
    ],
)
@click.argument("source", metavar="DIR|LIST", type=Path())
@click.argument("database", metavar="DB", type=Path("dir"))
@_flags
def images(source: str, database: str, **flags: object) -> None:
    """Make a database of labelled images.

    DIR holds one folder of images for each class; the classes are numbered in the order of their names, and listed.
    LIST has a line for each image: its path, as seen from the list's folder, a space, and its label.  Images that
    cannot be read are named and left out.
    """
    from minicaffe.data.imageset import files_by_class

    if not os.path.isdir(source):
        _write(database, os.path.join(os.path.dirname(source), ""), _listed(source, flags), flags)
        return
    if flags["labels"]:
        raise click.UsageError("--labels goes with a LIST; in a folder of folders an image has one label, its class")
    entries, classes = files_by_class(source)
    _write(database, os.path.join(source, ""), [*entries], flags)
    for label, name in enumerate(classes):
        console.result(f"label {label}: {name}")


def _listed(list_file: str, flags: dict) -> list[Entry]:
    """The images in a list, and their labels."""
    from minicaffe.data.image_source import read_labels, read_list

    return [*(read_labels(list_file, flags["labels"]) if flags["labels"] else read_list(list_file))]


def _write(database: str, root: str, entries: list[Entry], flags: dict) -> None:
    """Write the database, and say what is in it."""
    from minicaffe.backend.random import Stream
    from minicaffe.data.imageset import write_imageset

    if flags["shuffle"] or flags["seed"] is not None:
        import numpy as np

        _log.info("Shuffling data")
        seed = flags["seed"] if flags["seed"] is not None else int.from_bytes(os.urandom(4), "little")
        order = np.arange(len(entries))
        Stream(seed).shuffle(order)
        entries = [entries[i] for i in order]
    _log.info("A total of %d images.", len(entries))
    if flags["encode_type"] and not flags["encoded"]:
        _log.info("encode_type specified, assuming encoded=true.")
    written, skipped = write_imageset(
        database, root, entries, _recoding(flags), flags["backend"], flags["overwrite"], flags["check_size"]
    )
    labels = ", ".join(f"{count} of label {label}" for label, count in written.labels.items())
    if flags["labels"]:
        labels = f"{flags['labels']} label{'s' if flags['labels'] > 1 else ''} each"
    elif len(written.labels) > _LISTED:
        labels = (
            f"{len(written.labels)} labels, {min(written.labels.values())} to {max(written.labels.values())} of each"
        )
    missing = f"; {len(skipped)} could not be read and were left out" if skipped else ""
    console.result(f"{database} ({written.backend}): {written.records} images: {labels}{missing}")


def _recoding(flags: dict) -> Recoding:
    from minicaffe.data.imageset import Recoding

    return Recoding(
        not flags["gray"], flags["resize_height"], flags["resize_width"], flags["encoded"], flags["encode_type"]
    )
