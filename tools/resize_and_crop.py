"""``minicaffe resize_and_crop``: image files as squares of one size."""

from __future__ import annotations

import logging
import os

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

_log = logging.getLogger(__name__)


@click.command(
    cls=Command,
    examples=["minicaffe resize_and_crop --input_folder photos --output_folder squares --output_side_length 64"],
)
@click.option("--input_folder", required=True, metavar="DIR", type=Path("dir"), help="Where the images are.")
@click.option("--output_folder", required=True, metavar="DIR", type=Path("dir"), help="Where the squares go.")
@click.option(
    "--input", "list_file", metavar="LIST", type=Path(),
    help="A text file with the names of the images, as seen from the folder (default: all files in it and below).",
)  # fmt: skip
@click.option(
    "--output_side_length", default=256, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Height and width of the squares.",
)  # fmt: skip
@click.option(
    "--image_lib", type=click.Choice(["opencv", "pil"]), default="opencv", show_default=True,
    help="Resize as OpenCV does (bilinear), or against aliasing, as Pillow does.",
)  # fmt: skip
@click.option("--num_clients", type=int, default=1, hidden=True, help="Has no effect.")
def command(
    input_folder: str, output_folder: str, list_file: str | None, output_side_length: int, image_lib: str,
    num_clients: int,
) -> None:  # fmt: skip
    """Resize images and crop them to squares.

    The square in the middle is cut out.  The squares get the names of the images, in the same folders below.  Images
    that cannot be read are named and left out.
    """
    from minicaffe.data.crop import crop_all, image_files
    from minicaffe.errors import DataError

    if not os.path.isdir(input_folder):
        raise DataError(f"no folder {input_folder} (tried {os.path.abspath(input_folder)})")
    if list_file is None:
        names = list(image_files(input_folder))
    else:
        with open(list_file, encoding="utf-8", errors="surrogateescape") as file:
            names = [line.strip() for line in file if line.strip()]
    written = 0
    for _, error in crop_all(input_folder, output_folder, names, output_side_length, image_lib):
        if error is None:
            written += 1
        else:
            _log.error("%s", error)
    if not written:
        raise DataError(f"not one of {len(names)} files of {input_folder} could be read as an image")
    missing = f"; {len(names) - written} could not be read and were left out" if written < len(names) else ""
    size = f"{output_side_length} x {output_side_length}"
    console.result(f"{output_folder}: {written} images of {size}{missing}")
