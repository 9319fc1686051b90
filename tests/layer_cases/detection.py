"""Layers that find things in images: SSD's, YOLO's, FocalLoss."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Values, integers, normal, uniform


def priors(count: int) -> Values:
    """(1, 2, 4 count): boxes inside the image, and the variances that SSD uses."""

    def draw(rng, shape):
        boxes = shape[2] // 4
        centers, halves = rng.uniform(0.25, 0.75, (boxes, 2)), rng.uniform(0.1, 0.25, (boxes, 2))
        corners = np.concatenate([centers - halves, centers + halves], axis=1)
        return np.stack([corners.reshape(-1), np.tile([0.1, 0.1, 0.2, 0.2], boxes)])[None]

    return Values(draw, (1, 2, 4 * count))


def truth(count: int, classes: int = 3, items: int = 2) -> Values:
    """(1, 1, count, 8): boxes of labels 1 .. classes - 1, none of them difficult."""

    def draw(rng, shape):
        rows = np.zeros(shape[2:])
        low, size = rng.uniform(0.1, 0.4, (len(rows), 2)), rng.uniform(0.3, 0.5, (len(rows), 2))
        rows[:, 0] = np.arange(len(rows)) % items
        rows[:, 1] = rng.integers(1, classes, len(rows))
        rows[:, 3:5], rows[:, 5:7] = low, low + size
        return rows[None, None]

    return Values(draw, (1, 1, count, 8))


def scene(boxes: int, items: int = 2) -> Values:
    """(items, 1, boxes + 2, 16): boxes of DetectNet, after a row that counts them."""

    def draw(rng, shape):
        rows = np.zeros(shape)
        rows[:, 0, 0, :2] = shape[2] - 2, 16
        rows[:, 0, 1:-1, :2], rows[:, 0, 1:-1, 2:4] = rng.uniform(0, 6, (2, shape[0], shape[2] - 2, 2)) + [
            [[[0]]],
            [[[3]]],
        ]
        rows[:, 0, 1:-1, 5] = 1
        return rows

    return Values(draw, (items, 1, boxes + 2, 16))


def found(count: int) -> Values:
    """(1, 1, count, 7): detections in two items, of classes 1 and 2."""

    def draw(rng, shape):
        rows = np.zeros(shape[2:])
        low, size = rng.uniform(0.1, 0.4, (len(rows), 2)), rng.uniform(0.3, 0.5, (len(rows), 2))
        rows[:, 0], rows[:, 1] = rng.integers(0, 2, len(rows)), rng.integers(1, 3, len(rows))
        rows[:, 2] = rng.permutation(len(rows)) / len(rows)
        rows[:, 3:5], rows[:, 5:7] = low, low + size
        return rows[None, None]

    return Values(draw, (1, 1, count, 7))


def centred(items: int) -> Values:
    """(items, 1, 300, 5): two boxes of each item (class, x, y, width, height), and zeros."""

    def draw(rng, shape):
        rows = np.zeros(shape)
        rows[:, 0, :2, 0] = rng.integers(0, 2, (len(rows), 2))
        rows[:, 0, :2, 1:3], rows[:, 0, :2, 3:5] = rng.uniform(0.1, 0.9, (len(rows), 2, 2)), 0.3
        return rows

    return Values(draw, (items, 1, 300, 5))


ANCHORS = [1.0, 2.0, 2.0, 1.0]
PIXELS = [30.0, 60.0, 60.0, 30.0]
NOT_TRUE = "the fork's gradient is the differences, not the derivative of the sum of their squares"
PREDICTIONS = (normal(2, 24), normal(2, 18), priors(6), truth(3))
LARGER = (((3, 40), (3, 30), (1, 2, 40), (1, 1, 5, 8)), ((1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)))
RANKED = "which priors count depends on the confidences, so that the loss jumps"
SMOOTH = {"num_classes": 3, "mining_type": "NONE", "code_type": "CENTER_SIZE", "overlap_threshold": 0.3}
SHAPES_ONLY = "it has no gradient: its top follows from shapes alone"

CASES = [
    Case("Reorg", (normal(2, 4, 4, 6),), {"stride": 2}, sizes=(((1, 4, 2, 2),), ((3, 8, 8, 4),))),
    Case("Reorg", (normal(2, 18, 2, 3),), {"stride": 3, "reverse": True}, "reverse"),
    Case("Upsample", (normal(2, 3, 4, 5),), {"scale": 3}, sizes=(((1, 2, 2, 2),), ((3, 4, 5, 6),))),
    Case(
        "RegionLoss",
        (normal(2, 14, 3, 3), centred(2)),
        {"num": 2, "num_class": 2, "biases": ANCHORS},
        sizes=(((1, 14, 2, 2), (1, 1, 300, 5)), ((3, 14, 4, 5), (3, 1, 300, 5))),
        why_not={"gradient": NOT_TRUE},
    ),
    Case(
        "Yolov3",
        (normal(2, 14, 3, 3), centred(2)),
        {"num": 2, "num_class": 2, "biases": PIXELS, "mask": [0, 1]},
        sizes=(((1, 14, 2, 2), (1, 1, 300, 5)), ((3, 14, 4, 5), (3, 1, 300, 5))),
        why_not={"gradient": NOT_TRUE},
    ),
    Case(
        "YoloDetectionOutput",
        (normal(2, 14, 3, 3),),
        {"num_box": 2, "num_classes": 2, "biases": ANCHORS},
        phase="TEST",
        sizes=(((1, 14, 2, 2),), ((3, 14, 4, 5),)),
    ),
    Case(
        "Yolov3DetectionOutput",
        (normal(1, 14, 3, 3), normal(1, 14, 6, 6)),
        {"num_box": 2, "num_classes": 2, "biases": PIXELS, "mask": [0, 1, 0, 1], "anchors_scale": [32, 16]},
        phase="TEST",
        sizes=(((1, 14, 2, 2), (1, 14, 4, 4)), ((2, 14, 3, 4), (2, 14, 6, 8))),
    ),
    Case("Permute", (normal(2, 3, 4, 5),), {"order": [0, 2, 3, 1]}, sizes=(((1, 2, 3, 2),), ((3, 4, 5, 6),))),
    Case("Permute", (normal(2, 3, 4),), {"order": [2]}, "one axis named"),
    Case(
        "PriorBox",
        (normal(1, 2, 3, 4), normal(1, 3, 30, 40)),
        {"min_size": [10.0], "max_size": [20.0], "aspect_ratio": [2.0, 3.0], "variance": [0.1, 0.1, 0.2, 0.2]},
        sizes=(((1, 2, 2, 2), (1, 3, 20, 20)), ((2, 1, 5, 6), (2, 3, 64, 48))),
    ),
    Case("Normalize", (normal(2, 3, 4, 2),), {}, sizes=(((1, 3, 2, 2),), ((3, 3, 5, 4),))),
    Case(
        "Normalize",
        (normal(2, 3, 4, 2),),
        {"across_spatial": False, "scale_filler": {"type": "constant", "value": 20.0}},
        "at each position",
        sizes=(((1, 3, 2, 2),), ((3, 3, 5, 4),)),
    ),
    Case(
        "Normalize",
        (normal(2, 3, 4, 2),),
        {"across_spatial": False, "channel_shared": False},
        "a scale for each channel",
    ),
    Case(
        "SmoothL1Loss",
        (normal(4, 3, scale=2), normal(4, 3)),
        sizes=(((2, 5), (2, 5)), ((7, 3, 2), (7, 3, 2))),
    ),
    Case(
        "SmoothL1Loss",
        (normal(4, 3), normal(4, 3), integers(2, 4, 3), integers(3, 4, 3)),
        {"sigma": 3.0, "loss_weight": 2.0},
        "weights inside and outside",
    ),
    Case("SmoothL1Loss", (normal(4, 3), normal(4, 3), integers(2, 4, 3)), {}, "weights inside"),
    Case(
        "FocalLoss",
        (normal(4, 5), integers(5, 4)),
        {"gamma": 1.5},
        sizes=(((2, 5), (2,)), ((3, 5, 4, 2), (3, 4, 2))),
    ),
    Case(
        "FocalLoss",
        (normal(4, 5), integers(5, 4)),
        {"focal_loss_param": {"type": "ONEADDP", "gamma": 1.5}, "loss_param": {"ignore_label": 2}},
        "of happynear",
    ),
    Case("FocalLoss", (normal(2, 5, 3), integers(5, 2, 3)), {"focal_loss_param": {"type": "ORIGIN"}}, "origin"),
    Case("Normalize", (normal(2, 3, 4, 2),), {"normalize_param": {"normalize_type": "L1"}}, "positions, L1"),
    Case("Normalize", (normal(2, 3, 4, 2),), {"normalize_param": {"bp_norm": True}}, "positions", tops=2),
    Case("Normalize", (normal(4, 3),), {}, "positions, 2-D", tops=2, gradient={"check_top": [0]}),
    Case("FocalLoss", (normal(4, 5), integers(5, 4)), {"loss_param": {"ignore_label": 2}, "alpha": 1.0}, "ignored"),
    Case("MultiBoxLoss", PREDICTIONS, SMOOTH, sizes=LARGER),
    Case("MultiBoxLoss", PREDICTIONS, {**SMOOTH, "conf_loss_type": "LOGISTIC", "loc_loss_type": "L2"}, "logistic, L2"),
    Case(
        "MultiBoxLoss",
        PREDICTIONS,
        {"num_classes": 3, "code_type": "CENTER_SIZE"},
        "mined",
        sizes=LARGER,
        why_not={"gradient": RANKED},
    ),
    Case("MultiBoxFocalLoss", PREDICTIONS, SMOOTH, sizes=LARGER),
    Case(
        "DetectionOutput",
        PREDICTIONS[:3],
        {"num_classes": 3, "code_type": "CENTER_SIZE", "keep_top_k": 10, "nms_param": {"top_k": 5}},
        phase="TEST",
        sizes=tuple(shapes[:3] for shapes in LARGER),
    ),
    Case(
        "DetectionEvaluate",
        (found(6), truth(4)),
        {"num_classes": 3},
        phase="TEST",
        sizes=(((1, 1, 3, 7), (1, 1, 2, 8)), ((1, 1, 9, 7), (1, 1, 7, 8))),
    ),
    Case(
        "DetectNetTransformation",
        (uniform(0, 255, 2, 3, 12, 10), scene(2)),
        {"stride": 4, "image_size_x": 12, "image_size_y": 8, "transform_param": {"mean_value": [9]}},
        tops=2,
        phase="TEST",
        sizes=(((1, 3, 8, 12), (1, 1, 3, 16)), ((3, 3, 20, 9), (3, 1, 5, 16))),
    ),
    Case(
        "EvalDetection",
        (normal(2, 14, 3, 3), centred(2)),
        {"side": 3, "num_object": 2, "num_class": 2, "biases": ANCHORS, "nms": 0.5, "threshold": 0.3},
        phase="TEST",
        sizes=(((1, 14, 3, 3), (1, 1, 300, 5)), ((3, 14, 3, 3), (3, 1, 300, 5))),
    ),
]
