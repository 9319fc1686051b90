"""``minicaffe convert_annoset``: databases of image files with the boxes in them."""

from __future__ import annotations

import logging
import os

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

_log = logging.getLogger(__name__)
_SIDE = click.IntRange(min=0)


@click.command(
    cls=Command,
    examples=[
        "minicaffe convert_annoset -anno_type=detection -label_map_file=labels.prototxt images/ images/boxes.txt "
        "train_lmdb",
    ],
)
@click.argument("root", metavar="ROOT/", type=Path("dir"))
@click.argument("list_file", metavar="LIST", type=Path())
@click.argument("database", metavar="DB", type=Path("dir"))
@click.option("--gray", is_flag=True, help="Make images gray.")
@click.option("--shuffle", is_flag=True, help="Shuffle the images.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Shuffle in the order that this number gives.")
@click.option(
    "--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb", show_default=True, help="The kind of database."
)
@click.option(
    "--anno_type", type=click.Choice(["classification", "detection"]), default="classification", show_default=True,
    help="What LIST tells of an image: a label, or a file with boxes.",
)  # fmt: skip
@click.option(
    "--label_type", type=click.Choice(["xml", "json", "txt"]), default="xml", show_default=True,
    help="The form of these files: PASCAL VOC's, COCO's, or lines 'label xmin ymin xmax ymax'.",
)  # fmt: skip
@click.option("--label_map_file", default="", metavar="FILE", type=Path(), help="The classes' names and labels.")
@click.option("--check_label", is_flag=True, help="Refuse a label map with a name or label twice.")
@click.option("--min_dim", type=_SIDE, default=0, help="Resize in proportion: the shorter side becomes so long.")
@click.option("--max_dim", type=_SIDE, default=0, help="Resize in proportion: the longer side is at most so long.")
@click.option("--resize_width", type=_SIDE, default=0, help="Resize images to this width; 0 keeps their size.")
@click.option("--resize_height", type=_SIDE, default=0, help="Resize images to this height; 0 keeps their size.")
@click.option("--check_size", is_flag=True, help="Stop at an image that is not of the first one's size.")
@click.option("--encoded", is_flag=True, help="Keep images compressed.")
@click.option("--encode_type", default="", metavar="png|jpg|...", help="Compress images so, whatever their files are.")
@click.option("--overwrite", is_flag=True, help="Replace a database that exists.")
def command(
    root: str, list_file: str, database: str, anno_type: str, label_type: str, resize_height: int, resize_width: int,
    min_dim: int, max_dim: int, **flags: object,
) -> None:  # fmt: skip
    """Make a database of images with boxes in them.

    AnnotatedData layers read it, as SSD's convert_annoset makes it.  LIST has a line for each image: its path in ROOT/,
    a space, and the path of its file of boxes (or its label, a whole number).  One COCO file may stand behind all
    images.  Images that cannot be read are named and left out.
    """
    from minicaffe.data.annoset import Sides, write_annoset
    from minicaffe.data.annotations import Annotations, LabelMap, read_pairs
    from minicaffe.data.image_source import read_list

    detection = anno_type == "detection"
    label_map = LabelMap(str(flags["label_map_file"]), bool(flags["check_label"])) if flags["label_map_file"] else None
    entries = read_pairs(list_file) if detection else [(name, str(label)) for name, label in read_list(list_file)]
    if flags["shuffle"] or flags["seed"] is not None:
        entries = _shuffled(entries, flags["seed"])
    recoding = Sides(
        not flags["gray"], resize_height, resize_width, bool(flags["encoded"]), str(flags["encode_type"]), min_dim,
        max_dim,
    )  # fmt: skip
    _log.info("A total of %d images.", len(entries))
    annotations = Annotations(label_type, label_map) if detection else None
    how = (str(flags["backend"]), bool(flags["overwrite"]), bool(flags["check_size"]))
    written, skipped = write_annoset(database, root, entries, recoding, annotations, *how)
    missing = f"; {len(skipped)} could not be read and were left out" if skipped else ""
    counts = ", ".join(f"{count} of label {label}" for label, count in written.labels.items())
    what = "boxes" if detection else "images"
    console.result(f"{database} ({written.backend}): {written.records} images; {what}: {counts or 'none'}{missing}")


def _shuffled(entries: list[tuple[str, str]], seed: object) -> list[tuple[str, str]]:
    import numpy as np

    from minicaffe.backend.random import Stream

    order = np.arange(len(entries))
    Stream(int(str(seed)) if seed is not None else int.from_bytes(os.urandom(4), "little")).shuffle(order)
    return [entries[i] for i in order]
