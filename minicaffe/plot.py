"""Pictures of a training: its loss curve, and the features it learned.  They need matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicaffe import compat
from minicaffe.proto.atomic import atomic_path


class Record(NamedTuple):
    """One number that a training reported."""

    iteration: int
    series: str
    value: float
    is_loss: bool


def loss_curve(records: Sequence[Record], path: str | os.PathLike[str]) -> None:
    """Plot every series of ``records`` over the iterations, losses above all other outputs, as a PNG file.

    The losses' axis is logarithmic where all are positive.  Raises MissingExtraError without matplotlib, SnapshotError
    if the file cannot be written.
    """
    panels = [chosen for is_loss in (True, False) if (chosen := [r for r in records if r.is_loss == is_loss])]
    figure = compat.require("matplotlib.figure").Figure(figsize=(8, 1 + 3.5 * len(panels)), layout="constrained")
    for axes, chosen in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for name in dict.fromkeys(record.series for record in chosen):
            points = [(record.iteration, record.value) for record in chosen if record.series == name]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 50 else None)
        if chosen[0].is_loss:
            axes.set_ylabel("loss")
            if all(record.value > 0 for record in chosen):
                axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
        axes.set_xlabel("iteration")
    _write(figure, path)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    title: str,
    labels: tuple[str, str],
    legend: str = "best",
) -> None:
    """Draw series of points (x, y) as lines, by name, as a PNG file; ``labels`` are those of both axes, ``legend`` is
    where the names stand.  Raises as ``loss_curve`` does.
    """
    figure = compat.require("matplotlib.figure").Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, found in series.items():
        axes.plot(*zip(*found, strict=True), label=name, linewidth=1, marker="." if len(found) < 100 else None)
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    axes.legend(loc=legend)
    _write(figure, path)


def embedding(features: ArrayLike, labels: ArrayLike, path: str | os.PathLike[str], title: str = "") -> None:
    """Plot features (N, D), D >= 1, as points coloured by their labels (N,), as a PNG file.

    Of more than two dimensions the two principal components are shown.  Raises as ``loss_curve`` does.
    """
    points, names = _in_two_dimensions(np.asarray(features, np.float64))
    labels = np.asarray(labels)
    figure = compat.require("matplotlib.figure").Figure(figsize=(7, 6.5), layout="constrained")
    axes = figure.subplots()
    classes = np.unique(labels)
    colours = compat.require("matplotlib").colormaps["tab10" if len(classes) <= 10 else "turbo"]
    for k, label in enumerate(classes):
        colour = colours(k if len(classes) <= 10 else k / len(classes))
        axes.scatter(*points[labels == label].T, s=6, color=colour, label=f"{label:g}", linewidths=0)
    axes.legend(title="label", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel=names[0], ylabel=names[1], title=title)
    axes.grid(alpha=0.3)
    _write(figure, path)


def _in_two_dimensions(features: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Points (N, 2) to draw, and what their axes are."""
    if features.shape[1] == 1:
        return np.column_stack([features, np.zeros(len(features))]), ("feature 0", "")
    if features.shape[1] == 2:
        return features, ("feature 0", "feature 1")
    centred = features - features.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2]
    return centred @ components[:2].T, ("first principal component", "second principal component")


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
