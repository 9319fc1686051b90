"""``minicaffe detect`` for nets that find boxes in whole images: images in, a table and pictures out."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minicaffe.tools import console, pictures

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
    files = pictures.images(source)
    rows: list[tuple[str, Found]] = []
    with contextlib.closing(detector):
        for file in files:
            image = load_image(file, color)
            found = detector.detect(image, threshold)
            rows += [(file, each) for each in found]
            if drawing:
                pictures.save(draw_boxes(image, found, names), pictures.place(drawing, file, len(files) > 1))
    table = _table(rows, names)
    if not output:
        console.result(table.rstrip("\n"))
        return
    from minicaffe.proto.atomic import write_atomic

    write_atomic(output, table.encode())
    console.result(f"Saving results into {output}: {len(rows)} boxes in {len(files)} image(s)")


def _table(rows: Sequence[tuple[str, Found]], names: dict[int, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for file, each in rows:
        corners = (f"{side:.1f}" for side in each[2:])
        writer.writerow([file, each.label, names.get(each.label, ""), f"{each.confidence:.4f}", *corners])
    return text.getvalue()
