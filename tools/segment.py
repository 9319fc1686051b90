"""``minicaffe segment``: what a net says of each pixel of images."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options, pictures
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path
from minicaffe.tools.image_options import image_options, read_mean, set_channel_swap

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COLUMNS = ("filename", "label", "name", "pixels", "share")
_SCORES = ("label", "name", "pixels", "recall", "iu")
_MOST_GRAY = 255


@click.command(
    cls=Command,
    examples=[
        "minicaffe segment scene.png labels.png --model_def segmentation/deploy.prototxt "
        "--pretrained_model fcn.caffemodel --draw drawn.png --label_map_file segmentation/labels.pbtxt",
    ],
)
@click.argument("source", metavar="INPUT", type=Path())
@click.argument("output", metavar="[OUTPUT]", required=False, type=Path())
@image_options
@click.option("--blob", default="", metavar="NAME", help="The scores of the classes (default: the net's last map).")
@click.option("--keep_size", is_flag=True, help="Let the net take the size of each image, instead of warping it.")
@click.option(
    "--draw", "drawing", default="", metavar="FILE|DIR", type=Path(),
    help="Draw the labels in colours over the images.",
)  # fmt: skip
@click.option("--label_map_file", default="", metavar="FILE", type=Path(), help="The names of the labels, a prototxt.")
@click.option(
    "--truth", default="", metavar="FILE|DIR", type=Path(),
    help="Score the labels: the true ones are in this image, or in a folder of images of the same names.",
)  # fmt: skip
@click.option(
    "--ignore_label", default=_MOST_GRAY, show_default=True, metavar="L", help="True label of pixels that do not count."
)
def command(
    source: str, output: str | None, model_def: str, pretrained_model: str, gpu: bool, mean_file: str, raw_scale: float,
    input_scale: float | None, channel_swap: tuple[int, ...], blob: str, keep_size: bool, drawing: str,
    label_map_file: str, truth: str, ignore_label: int,
) -> None:  # fmt: skip
    """Label each pixel of images with a trained net.

    The net gives scores of classes for each pixel (FCN, SegNet, PSPNet), or with one channel labels, or probabilities
    of label 1 (HED).  A table of the labels in the image INPUT, or in all images of a folder, is shown; or with --truth
    the recall of each label, its intersection over union, and their means.  OUTPUT is an image whose gray values are
    the labels (.png), or a folder of them.
    """
    from minicaffe import models
    from minicaffe.data.annotations import LabelMap
    from minicaffe.io import load_image
    from minicaffe.mask_drawing import draw_labels
    from minicaffe.segmenter import Segmenter

    options.choose_device("0" if gpu else "")
    mean = read_mean(mean_file)
    if mean is not None and mean.ndim == 3:
        mean = mean.mean(axis=(1, 2))
    names = LabelMap(models.find(label_map_file)).shown if label_map_file else {}
    files = pictures.images(source)
    if output and not pictures.place(output, files[0], len(files) > 1).lower().endswith(".png"):
        raise click.UsageError(f"OUTPUT is a .png file, which keeps labels as they are; found {output}")
    found = []
    definition = models.find(model_def)
    net = Segmenter(definition, pretrained_model, mean, input_scale, raw_scale, output=blob, keep_size=keep_size)
    with contextlib.closing(net):
        color = set_channel_swap(net, net.transformer, channel_swap)
        for file in files:
            image = load_image(file, color)
            labels = net.segment(image)
            found.append((file, labels))
            if drawing:
                pictures.save(draw_labels(image, labels, names), pictures.place(drawing, file, len(files) > 1))
            if output:
                _save(labels, pictures.place(output, file, len(files) > 1))
    table = _scores(found, truth, ignore_label, names) if truth else _table(found, names)
    console.result(table.rstrip("\n"))


def _save(labels: NDArray, path: str) -> None:
    """Write labels as gray values."""
    import numpy as np
    from PIL import Image

    from minicaffe.errors import DataError

    if labels.min() < 0 or labels.max() > _MOST_GRAY:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()} do not fit into gray values of 8 bits")
    pictures.save(Image.fromarray(labels.astype(np.uint8)), path, "OUTPUT")


def _table(found: list[tuple[str, NDArray]], names: dict[int, str]) -> str:
    import numpy as np

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for file, labels in found:
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            writer.writerow([file, label, names.get(int(label), ""), count, f"{count / labels.size:.4f}"])
    return text.getvalue()


def _scores(found: list[tuple[str, NDArray]], truth: str, ignored: int, names: dict[int, str]) -> str:
    """How well the labels of all images agree with the true ones, by label."""
    import numpy as np

    from minicaffe.data.image import read_label_map
    from minicaffe.errors import DataError

    counts: NDArray = np.zeros((0, 0), np.int64)
    for file, labels in found:
        path = os.path.join(truth, _name(file)) if os.path.isdir(truth) else truth
        true = read_label_map(path)[0].astype(np.int64)
        if true.shape != labels.shape:
            raise DataError(f"{path} has {true.shape} pixels, {file} {labels.shape} (height, width)")
        kept = true != ignored
        classes = max(len(counts), int(labels.max()) + 1, int(true[kept].max(initial=0)) + 1)
        counts = np.pad(counts, (0, classes - len(counts)))
        counts += np.bincount(true[kept] * classes + labels[kept], minlength=classes**2).reshape(classes, classes)
    right, true, union = counts.diagonal(), counts.sum(1), counts.sum(0) + counts.sum(1) - counts.diagonal()
    seen = np.flatnonzero(union)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_SCORES)
    for label in seen:
        recall = f"{right[label] / true[label]:.4f}" if true[label] else ""
        share = f"{right[label] / union[label]:.4f}"
        writer.writerow([label, names.get(int(label), ""), true[label], recall, share])
    with_truth = true > 0
    mean_recall = (right[with_truth] / true[with_truth]).mean() if with_truth.any() else 0
    mean_share = (right[seen] / union[seen]).mean() if len(seen) else 0
    writer.writerow(["mean", "", true.sum(), f"{mean_recall:.4f}", f"{mean_share:.4f}"])
    return text.getvalue()


def _name(file: str) -> str:
    """The name of the image with the labels of another image."""
    return os.path.splitext(os.path.basename(file))[0] + ".png"
