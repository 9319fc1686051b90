"""What YOLO's layers have in common: predictions on a grid, and ground truth in rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.centered import iou
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer

ROWS = 300
"""Rows of ground truth of an item."""


class Grid:
    """A blob of predictions (N, B (5 + classes), H, W): at each of the H x W cells B boxes.

    ``values`` (N, B, 5 + classes, H, W): codes of x, y, width and height, objectness, classes.  ``anchors`` (B, 2) are
    widths and heights relative to the image.
    """

    def __init__(self, values: NDArray, boxes: int, anchors: NDArray) -> None:
        items, channels, self.height, self.width = values.shape
        self.values = values.reshape(items, boxes, channels // boxes, self.height, self.width)
        self.anchors = anchors.astype(values.dtype)

    def boxes(self) -> NDArray:
        """All boxes, centred, relative to the image, (N, B, H, W, 4); x and y of the codes are in cells."""
        x, y, w, h = np.moveaxis(self.values[:, :, :4], 2, 0)
        columns, rows = np.arange(self.width), np.arange(self.height)[:, None]
        anchor_w, anchor_h = self.anchors.T[:, :, None, None]
        with np.errstate(over="ignore"):
            sides = np.exp(w) * anchor_w, np.exp(h) * anchor_h
        return np.stack([(columns + x) / self.width, (rows + y) / self.height, *sides], axis=-1)

    def cell_of(self, truth: NDArray) -> tuple[int, int]:
        """Row and column of the cell that the centre of a box lies in."""
        return min(int(truth[1] * self.height), self.height - 1), min(int(truth[0] * self.width), self.width - 1)

    def targets(self, truth: NDArray, cell: tuple[int, int], box: int) -> NDArray:
        """The codes (4,) that mean the box ``truth`` (4,), of anchor ``box``."""
        row, column = cell
        with np.errstate(divide="ignore"):
            sides = np.log(truth[2:] / self.anchors[box])
        return np.array([truth[0] * self.width - column, truth[1] * self.height - row, *sides])


def sigmoid(x: NDArray) -> NDArray:
    """1 / (1 + exp(-x))."""
    return np.tanh(x / 2) / 2 + x.dtype.type(0.5)


def slope(y: NDArray) -> NDArray:
    """The derivative of ``sigmoid`` where its value is y."""
    return y * (1 - y)


def truths(rows: NDArray, column: int) -> NDArray:
    """The rows (class, x, y, width, height) of an item up to the first whose ``column`` is 0."""
    return rows[: int(np.argmax(np.append(rows[:, column], 0) == 0))]


def best_overlaps(boxes: NDArray, rows: NDArray, overlap: object = iou) -> NDArray:
    """The largest overlap of each box (…, 4) with the ground truth of its item, at least 0."""
    found = np.zeros(boxes.shape[:-1], boxes.dtype)
    for row in truths(rows, 1):
        np.maximum(found, overlap(boxes, row[1:].astype(boxes.dtype)), out=found)  # type: ignore[operator]
    return found


def anchors_of(layer: Layer, biases: Sequence[float], least: int) -> NDArray:
    """``biases`` as widths and heights (…, 2); an error unless they are pairs, and ``least`` of them."""
    pairs = np.array(biases, np.float64)
    layer.require(
        len(pairs) % 2 == 0 and len(pairs) >= 2 * least and bool((pairs > 0).all()),
        f"must be widths and heights of at least {least} anchors, positive; found {len(pairs)} numbers",
        "biases",
    )
    return pairs.reshape(-1, 2)


def expect_grid(layer: Layer, blob: Blob, boxes: int, classes: int) -> None:
    """A ShapeError unless the blob is (N, boxes (5 + classes), H, W)."""
    wanted = boxes * (5 + classes)
    layer.require(
        len(blob.shape) == 4 and blob.shape[1] == wanted and min(blob.shape[2:]) > 0,
        f"predictions of {boxes} boxes and {classes} classes are (N, {wanted}, H, W); found {blob.shape_string}",
        kind=ShapeError,
    )


def expect_truth(layer: Layer, blob: Blob, items: int) -> None:
    """A ShapeError unless the blob holds 300 rows of ground truth for each item."""
    layer.require(
        blob.count == items * ROWS * 5,
        f"the ground truth must be {ROWS} rows (class, x, y, width, height) for each of {items} items; "
        f"found {blob.shape_string}",
        kind=ShapeError,
    )


def by_item(blob: Blob, items: int) -> Iterator[NDArray]:
    """The rows (300, 5) of each item."""
    yield from blob.data.reshape(items, ROWS, 5)
