"""Anchors of region proposal networks (Ren et al. 2015): boxes in pixels, whose corners both belong to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def anchors_of_cell(base_size: int, ratios: Sequence[float], scales: Sequence[float]) -> NDArray:
    """The boxes (A, 4) of the first cell: for each ratio (height over width), each scale of a square of ``base_size``.

    Sides are rounded before they are scaled.  Source: py-faster-rcnn.
    """
    middle, found = (base_size - 1) / 2, []
    for ratio in ratios:
        width = np.round(np.sqrt(base_size**2 / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            half = np.array([width * scale - 1, height * scale - 1]) / 2
            found.append(np.concatenate([middle - half, middle + half]))
    return np.array(found).reshape(-1, 4)


def boxes_of_map(cell: NDArray, codes: NDArray, stride: float) -> NDArray:
    """What codes (4 A, H, W) make of the anchors (A, 4) of each cell: boxes (H, W, A, 4), in the dtype of the codes.

    Codes are steps of the middle, in widths and heights, and logarithms of what these are multiplied by.
    """
    kind, (count, _), size = codes.dtype, cell.shape, codes.shape[1:]
    planes = codes.reshape(count, 4, *size)
    boxes = np.empty((*size, count, 4), kind)
    for axis, cells in ((0, np.arange(size[1])[None]), (1, np.arange(size[0])[:, None])):
        side = cell[:, 2 + axis] - cell[:, axis] + 1
        middle = (cell[:, axis] + side / 2)[:, None, None] + cells * stride
        side = side[:, None, None].astype(kind)
        centre = middle.astype(kind) + planes[:, axis] * side
        with np.errstate(over="ignore"):
            half = np.exp(planes[:, 2 + axis]) * (side / 2)
        boxes[..., axis] = (centre - half).transpose(1, 2, 0)
        boxes[..., 2 + axis] = (centre + half).transpose(1, 2, 0)
    return boxes


def anchors_of_map(cell: NDArray, height: int, width: int, stride: float) -> NDArray:
    """The anchors (H W A, 4) of all cells: rows, columns, and those of each."""
    y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
    return (np.stack([x, y, x, y], axis=-1)[:, :, None] + cell).reshape(-1, 4)


def overlaps(a: NDArray, b: NDArray) -> NDArray:
    """Intersection over union of boxes (P, 4) and (Q, 4): (P, Q)."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]) + 1
    common = np.maximum(sides, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def codes_between(boxes: NDArray, targets: NDArray) -> NDArray:
    """Codes (P, 4) of the targets (P, 4): steps of the middle of the boxes (P, 4), in widths and heights of these, and
    logarithms of what these are multiplied by."""
    size, wanted = (corners[:, 2:] - corners[:, :2] + 1 for corners in (boxes, targets))
    step = targets[:, :2] + wanted / 2 - boxes[:, :2] - size / 2
    return np.hstack([step / size, np.log(wanted / size)])
