"""Pictures of a training: its loss curve, and the features it learned.  They need matplotlib."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minicaffe import arguments, compat
from minicaffe.proto.atomic import atomic_path
from minicaffe.solvers import history


class Record(NamedTuple):
    """One number that a training reported."""

    iteration: int
    series: str
    value: float
    is_loss: bool


def history_records(log: str | os.PathLike[str], losses: Collection[str] = ()) -> list[list[Record]]:
    """What ``loss_curve`` draws of a history (see ``minicaffe.solvers.History``): each training's records, the last's
    last.

    Those are the smoothed training loss and all outputs of test nets.  Losses are the outputs that ``losses`` names,
    and those with "loss" in their names.  SnapshotError for a file that is no history.
    """
    log = arguments.path(log, "a history")
    superseded = history.superseded_log(log)
    earlier = history.read(superseded) if os.path.exists(superseded) else []
    trainings = [*history.runs(earlier), *history.runs(history.read(log))]
    return [[_record(row, losses) for row in rows if _is_drawn(row)] for rows in trainings]


def _is_drawn(row: history.Row) -> bool:
    return row.phase == "test" or row.output == history.SMOOTHED_LOSS


def _record(row: history.Row, losses: Collection[str]) -> Record:
    if row.phase == "train":
        return Record(row.iteration, "train loss", row.value, True)
    series = f"test{f' #{row.net}' if row.net else ''} {row.output}"
    is_loss = "loss" in row.output.lower() or row.output.partition("[")[0] in losses
    return Record(row.iteration, series, row.value, is_loss)


def loss_curve(
    records: Sequence[Record], path: str | os.PathLike[str], earlier: Sequence[Sequence[Record]] = ()
) -> None:
    """Plot every series of ``records`` over the iterations, losses above all other outputs, as a PNG file.

    The records of ``earlier`` trainings are drawn paler.  The losses' axis is logarithmic where all are positive.
    Raises MissingExtraError without matplotlib, SnapshotError if the file cannot be written.
    """
    everything = [*(record for one in earlier for record in one), *records]
    panels = [is_loss for is_loss in (True, False) if any(r.is_loss == is_loss for r in everything)]
    figure = compat.require("matplotlib.figure").Figure(figsize=(8, 1 + 3.5 * len(panels)), layout="constrained")
    for axes, is_loss in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        chosen = [record for record in everything if record.is_loss == is_loss]
        colours = {name: f"C{k % 10}" for k, name in enumerate(dict.fromkeys(record.series for record in chosen))}
        named = {record.series for record in records}
        for one in earlier:
            _draw_series(axes, one, is_loss, colours, hidden=named, alpha=0.3)
            named.update(record.series for record in one)
        _draw_series(axes, records, is_loss, colours)
        if is_loss:
            axes.set_ylabel("loss")
            if all(record.value > 0 for record in chosen):
                axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(title="paler: earlier trainings" if any(earlier) else None)
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


def _draw_series(
    axes: Any,
    records: Sequence[Record],
    is_loss: bool,
    colours: dict[str, str],
    hidden: Collection[str] = (),
    **style: Any,
) -> None:
    """A line for each series of one training in a panel; the legend leaves those out that are ``hidden``."""
    for name, colour in colours.items():
        points = [(r.iteration, r.value) for r in records if r.series == name and r.is_loss == is_loss]
        if points:
            label, marker = "_" * (name in hidden) + name, "." if len(points) < 50 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, **style)


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
