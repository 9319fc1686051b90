"""``minicaffe detect``: what a net says of windows of images, as R-CNN does."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import time
from collections.abc import Sequence
from typing import Any

import click

from minicaffe.tools import console, detect_boxes, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path
from minicaffe.tools.image_options import image_options, read_mean, set_channel_swap

_log = logging.getLogger(__name__)

_CORNERS = ("ymin", "xmin", "ymax", "xmax")


@click.command(
    cls=Command,
    examples=[
        "minicaffe detect windows.csv found.csv --model_def net.prototxt --pretrained_model net.caffemodel "
        "--context_pad 0",
        "minicaffe detect scene.png found.csv --model_def ssd/deploy.prototxt --pretrained_model ssd.caffemodel "
        "--draw found.png --label_map_file ssd/labels.pbtxt",
    ],
)
@click.argument("source", metavar="INPUT", type=Path())
@click.argument("output", metavar="[OUTPUT]", required=False, type=Path())
@image_options
@click.option(
    "--crop_mode", type=click.Choice(["list", "selective_search"]), default="list", show_default=True,
    help="Where windows come from: INPUT lists them.  Caffe's selective_search needs MATLAB, and is refused.",
)  # fmt: skip
@click.option(
    "--context_pad", default=16, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="Show the net so many pixels, of its input, around each window.",
)  # fmt: skip
@click.option(
    "--draw", "drawing", default="", metavar="FILE|DIR", type=Path(),
    help="Draw the boxes that a net finds, with their names.",
)  # fmt: skip
@click.option("--label_map_file", default="", metavar="FILE", type=Path(), help="The names of the labels, a prototxt.")
@click.option(
    "--threshold", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="The least confidence of a box."
)
def command(
    source: str, output: str | None, model_def: str, pretrained_model: str, gpu: bool, mean_file: str, raw_scale: float,
    input_scale: float | None, channel_swap: tuple[int, ...], crop_mode: str, context_pad: int,
    drawing: str, label_map_file: str, threshold: float,
) -> None:  # fmt: skip
    """Find things in images with a trained net.

    A net that ends in a DetectionOutput layer (SSD), or in one of YOLO's, finds boxes in the image INPUT, or in all
    images of a folder; they are written to OUTPUT, a table (.csv), or shown.

    Other nets classify windows (R-CNN).  INPUT is a table (.csv) with the columns filename, xmin, ymin, xmax, ymax.
    OUTPUT is a table, too, with the windows and a column for each class (.csv), or HDF5 with the datasets df/filename,
    df/window (ymin, xmin, ymax, xmax) and df/prediction.
    """
    import numpy as np

    from minicaffe import models
    from minicaffe.box_detector import BoxDetector, finds_boxes
    from minicaffe.detector import Detector
    from minicaffe.proto.files import read_definition

    if crop_mode == "selective_search":
        raise click.UsageError("selective_search is a MATLAB program; propose windows by other means, and give a .csv")
    options.choose_device("0" if gpu else "")
    mean = read_mean(mean_file)
    if mean is not None and mean.ndim == 3:
        mean = mean.mean(axis=(1, 2))
    definition = models.find(model_def)
    if finds_boxes(read_definition(definition)):
        finder = BoxDetector(definition, pretrained_model, mean, input_scale, raw_scale)
        color = set_channel_swap(finder, finder.transformer, channel_swap)
        detect_boxes.run(finder, color, source, output or "", drawing, label_map_file, threshold)
        return
    if drawing or label_map_file or output is None:
        raise click.UsageError("a net that classifies windows needs OUTPUT, and has no --draw and --label_map_file")
    windows = _read_windows(source)
    detector = Detector(definition, pretrained_model, mean, input_scale, raw_scale)
    with contextlib.closing(detector):
        set_channel_swap(detector, detector.transformer, channel_swap)
        detector.configure_crop(context_pad)
        start = time.perf_counter()
        found = detector.detect_windows(windows.items())
    _log.info("Processed %d windows in %.3f s.", len(found), time.perf_counter() - start)
    names = [entry["filename"] for entry in found]
    corners = np.array([entry["window"] for entry in found])
    predictions = np.array([np.ravel(entry["prediction"]) for entry in found])
    if output.lower().endswith("csv"):
        _write_csv(output, names, corners, predictions)
    else:
        from minicaffe.data import hdf5

        table = {"filename": np.array([name.encode() for name in names]), "window": corners, "prediction": predictions}
        hdf5.write(output, {f"df/{name}": values for name, values in table.items()})
    console.result(f"Saving results into {output}: {len(found)} windows of {len(windows)} images")


def _read_windows(path: str) -> dict[str, list[tuple[float, ...]]]:
    """The windows (ymin, xmin, ymax, xmax) that a table lists, by image; DataError for any other file."""
    from minicaffe.errors import DataError

    columns = ("filename", *_CORNERS)
    windows: dict[str, list[tuple[float, ...]]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in columns if name not in (table.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}: no column {', '.join(missing)}; expected a table (.csv) that begins with the line "
                    "filename,xmin,ymin,xmax,ymax"
                )
            for row in table:
                try:
                    window = tuple(float(row[name]) for name in _CORNERS)
                except (TypeError, ValueError):
                    raise DataError(f"{path}:{table.line_num}: a window takes four numbers; found {row}") from None
                windows.setdefault(row["filename"], []).append(window)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8; expected a table (.csv)") from None
    if not windows:
        raise DataError(f"{path}: lists no window")
    return windows


def _write_csv(path: str, names: Sequence[str], corners: Any, predictions: Any) -> None:
    from minicaffe.proto.atomic import write_atomic

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["filename", *_CORNERS, *(f"class{k}" for k in range(predictions.shape[1]))])
    for name, window, row in zip(names, corners, predictions, strict=True):
        writer.writerow([name, *(f"{corner:g}" for corner in window), *(f"{value:.9g}" for value in row)])
    write_atomic(path, text.getvalue().encode())
