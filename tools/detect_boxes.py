"""``minicaffe detect`` for nets that find boxes in whole images: images in, a table and pictures out."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console

if TYPE_CHECKING:
    from minicaffe.box_detector import BoxDetector, Found

_COLUMNS = ("filename", "label", "name", "confidence", "xmin", "ymin", "xmax", "ymax")


def run(
    detector: BoxDetector, color: bool, source: str, output: str, drawing: str, label_map_file: str, threshold: float
) -> None:
    """Find boxes in the images that ``source`` names; write them to ``output`` (default: to stdout) as a table, and
    pictures of them to ``drawing``."""
    from minicaffe import models
    from minicaffe.box_drawing import draw_boxes
    from minicaffe.data.annotations import LabelMap
    from minicaffe.io import load_image

    names = LabelMap(models.find(label_map_file)).shown if label_map_file else {}
    files = _images(source)
    rows: list[tuple[str, Found]] = []
    with contextlib.closing(detector):
        for file in files:
            image = load_image(file, color)
            found = detector.detect(image, threshold)
            rows += [(file, each) for each in found]
            if drawing:
                _save(draw_boxes(image, found, names), _picture(drawing, file, len(files) > 1))
    table = _table(rows, names)
    if not output:
        console.result(table.rstrip("\n"))
        return
    from minicaffe.proto.atomic import write_atomic

    write_atomic(output, table.encode())
    console.result(f"Saving results into {output}: {len(rows)} boxes in {len(files)} image(s)")


def _images(source: str) -> list[str]:
    """The image, or those in the folder, that ``source`` is."""
    if not os.path.isdir(source):
        return [source]
    from minicaffe.data.image import extensions

    names = sorted(name for name in os.listdir(source) if os.path.splitext(name)[1].lower() in extensions())
    if not names:
        raise click.UsageError(f"the folder {source} holds no image")
    return [os.path.join(source, name) for name in names]


def _picture(drawing: str, file: str, several: bool) -> str:
    """Where the picture of an image goes: into the folder ``drawing``, if there are several or it is one."""
    if not several and not os.path.isdir(drawing):
        return drawing
    os.makedirs(drawing, exist_ok=True)
    return os.path.join(drawing, os.path.splitext(os.path.basename(file))[0] + ".png")


def _save(picture: object, path: str) -> None:
    from minicaffe.errors import DataError

    try:
        picture.save(path)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise DataError(f"--draw {path}: the picture cannot be written: {error}") from None


def _table(rows: Sequence[tuple[str, Found]], names: dict[int, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for file, each in rows:
        corners = (f"{side:.1f}" for side in each[2:])
        writer.writerow([file, each.label, names.get(each.label, ""), f"{each.confidence:.4f}", *corners])
    return text.getvalue()
