"""Boxes as YOLO writes them: x and y of the centre, width, height; and how alike two of them are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

L2, IOU, GIOU, DIOU, CIOU = range(5)
"""Values of Yolov3Parameter.IOULoss."""


def corners(boxes: NDArray) -> NDArray:
    """Boxes (…, 4) by their corners: xmin, ymin, xmax, ymax."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def _sides(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    """Sides (…, 2) of what two boxes have in common, and of the smallest box around both."""
    a, b = corners(a), corners(b)
    common = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    around = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    return common, around


def iou(a: NDArray, b: NDArray) -> NDArray:
    """Intersection over union of boxes (…, 4), the shapes broadcast against each other."""
    common, _ = _sides(a, b)
    shared = np.where((common < 0).any(-1), 0, common.prod(-1))
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return np.divide(shared, union, out=np.zeros(np.shape(union), np.result_type(union)), where=union != 0)


def likeness(a: NDArray, b: NDArray, kind: int) -> NDArray:
    """``iou``, for GIOU (Rezatofighi et al. 2019) less the empty share of the box around both, for DIOU and CIOU (Zheng
    et al. 2020) less a term that grows with the distance of the centres; CIOU also looks at the proportions.

    Darknet's DIOU takes that term to the power of 0.6.
    """
    plain = iou(a, b)
    if kind in (L2, IOU):
        return plain
    _, around = _sides(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == GIOU:
            common, _ = _sides(a, b)
            shared = np.where((common < 0).any(-1), 0, common.prod(-1))
            union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
            return np.where(around.prod(-1) == 0, plain, plain - (around.prod(-1) - union) / around.prod(-1))
        distance = ((a[..., :2] - b[..., :2]) ** 2).sum(-1) / (around**2).sum(-1)
        if kind == DIOU:
            return np.where(np.isfinite(distance), plain - distance**0.6, plain)
        _, weighted = _proportions(a, b, plain)
        return np.where(np.isfinite(distance), plain - distance - weighted, plain)


def _proportions(a: NDArray, b: NDArray, plain: NDArray) -> tuple[NDArray, NDArray]:
    """CIOU's weight of the difference of two boxes' proportions, and that difference weighted."""
    v = 4 / np.pi**2 * (np.arctan(b[..., 2] / b[..., 3]) - np.arctan(a[..., 2] / a[..., 3])) ** 2
    alpha = v / (1 - plain + v + 1e-6)
    return alpha, alpha * v


def likeness_gradient(box: NDArray, truth: NDArray, kind: int) -> NDArray:
    """How the ``likeness`` to ``truth`` (4,) grows with x, y, width and height of ``box`` (4,), as Darknet has it: not
    halved along the sides, and without the power in DIOU's term."""
    (left, top, right, bottom), (x0, y0, x1, y1) = corners(box), corners(truth)
    width, height = right - left, bottom - top
    common_w, common_h = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
    shared = common_w * common_h
    union = width * height + (x1 - x0) * (y1 - y0) - shared
    area = np.array([-height, -width, height, width])  # by left, top, right, bottom
    overlap = np.array(
        [
            -common_h if left > x0 else 0,
            -common_w if top > y0 else 0,
            common_h if right < x1 else 0,
            common_w if bottom < y1 else 0,
        ]
    )
    joined = area - overlap
    slope = (union * overlap - shared * joined) / union**2 if union > 0 else np.zeros(4)
    apart = common_w <= 0 or common_h <= 0
    around_w, around_h = max(right, x1) - min(left, x0), max(bottom, y1) - min(top, y0)
    if kind == GIOU:
        around = around_w * around_h
        grown = np.array(
            [
                -around_h if left < x0 else 0,
                -around_w if top < y0 else 0,
                around_h if right > x1 else 0,
                around_w if bottom > y1 else 0,
            ]
        )
        term = (around * joined - union * grown) / around**2
        slope = term if apart else slope + term
    result = np.array([slope[0] + slope[2], slope[1] + slope[3], slope[2] - slope[0], slope[3] - slope[1]])
    if kind in (DIOU, CIOU):
        term = _distance_gradient(box, truth, around_w, around_h)
        if kind == CIOU:
            alpha, _ = _proportions(box, truth, np.asarray(shared / union))
            angle = 8 / np.pi**2 * (np.arctan(truth[2] / truth[3]) - np.arctan(box[2] / box[3]))
            term[2:] += alpha * angle * np.array([box[3], -box[2]])
        result = term if apart else result + term
    return result


def _distance_gradient(box: NDArray, truth: NDArray, around_w: float, around_h: float) -> NDArray:
    """How the negative of distance over diagonal, both squared, grows with x, y, width and height."""
    (left, top, right, bottom), (x0, y0, x1, y1) = corners(box), corners(truth)
    diagonal = around_w**2 + around_h**2
    distance = ((box[:2] - truth[:2]) ** 2).sum()
    outside_x, outside_y = (left < x0, right > x1), (top < y0, bottom > y1)
    by_center = np.array([outside_x[1] - outside_x[0] * 1.0, outside_y[1] - outside_y[0] * 1.0])
    by_side = np.array([0.5 * outside_x[1] + 0.5 * outside_x[0], 0.5 * outside_y[1] + 0.5 * outside_y[0]])
    around = np.array([around_w, around_h])
    center = (2 * (truth[:2] - box[:2]) * diagonal - 2 * around * by_center * distance) / diagonal**2
    side = 2 * around * by_side * distance / diagonal**2
    return np.concatenate([center, side])
