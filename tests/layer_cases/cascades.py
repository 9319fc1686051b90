"""Layers of MS-CNN and Cascade R-CNN."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Shape, Values, distinct, integers, normal, uniform
from layer_cases.regions import regions

CODES = {"cls_aware": False, "bbox_mean": [0.0, 0.1, 0.0, -0.1], "bbox_std": [0.1, 0.1, 0.2, 0.2]}
FIELDS = {"field_w": [24, 40], "field_h": [24, 20], "stride": 8}
FIELD = {"field_w": 24, "field_h": 20, "downsample_rate": 8}
ONLY_THE_SUM = "its second top is part of the first, and what reaches it is not handed on"


def objects(items: int, classes: int, *shape: int) -> Values:
    """Rows (item, x1, y1, x2, y2, label, ignored[, difficult]) of objects in images of 100 x 100."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        found = np.zeros(shape[:2])
        corner = rng.uniform(0, 50, (shape[0], 2))
        found[:, 0], found[:, 5] = np.arange(shape[0]) % items, rng.integers(1, classes, shape[0])
        found[:, 1:3], found[:, 3:5] = corner, corner + rng.uniform(15, 45, (shape[0], 2))
        return found.reshape(shape)

    return Values(draw, shape)


def matches(classes: int, *shape: int) -> Values:
    """Rows (label, x1, y1, x2, y2, overlap) of what regions stand for, some of them for nothing."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        corner = rng.uniform(0, 40, (shape[0], 2))
        labels = np.arange(shape[0])[:, None] % classes
        return np.hstack([labels, corner, corner + rng.uniform(20, 60, (shape[0], 2)), rng.random((shape[0], 1))])

    return Values(draw, shape)


def truth(classes: int, *shape: int) -> Values:
    """Maps (N, 6, H, W): label, middle, width and height, overlap of each cell."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        items, _, *size = shape
        maps = rng.uniform(0, 40, shape)
        maps[:, 0] = rng.integers(1, classes, (items, *size)) * (rng.random((items, *size)) < 0.4)
        maps[:, 3:5], maps[:, 5] = rng.uniform(16, 30, (items, 2, *size)), rng.random((items, *size))
        return maps

    return Values(draw, shape)


def chances(*shape: int) -> Values:
    """Probabilities along axis 1."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        powers = np.exp(rng.standard_normal(shape))
        return powers / powers.sum(axis=1, keepdims=True)

    return Values(draw, shape)


def scored(*shape: int) -> Values:
    """Rows (0, x1, y1, x2, y2, score) of regions."""
    return Values(
        lambda rng, size: np.hstack([regions(1, 90).draw(rng, (size[0], 5)), rng.random((size[0], 1))]), shape
    )


SIZE = Values(lambda rng, size: np.broadcast_to([80.0, 100.0], size), (1, 2))
MAPS = (distinct(2, 7, 4, 5), truth(3, 2, 6, 4, 5))
GROUPS = (distinct(4, 3, 4, 5), normal(4, 4, 4, 5, scale=0.1), truth(3, 4, 6, 4, 5))
SMALL, LARGE = ((2, 3, 2, 3), (2, 4, 2, 3), (2, 6, 2, 3)), ((6, 3, 5, 6), (6, 4, 5, 6), (6, 6, 5, 6))

REGIONS = [
    Case(
        "ProposalTarget",
        (regions(2, 90, 12, 5), objects(2, 3, 4, 8)),
        {
            "proposal_target_param": {"cls_num": 3, "batch_size": 8, "num_img_per_batch": 2, "iou_weighted": True},
            "bbox_reg_param": CODES,
        },
        tops=7,
        sizes=(((3, 5), (1, 8)), ((20, 5), (6, 8))),
    ),
    Case(
        "ProposalTarget",
        (regions(1, 90, 5, 5), objects(1, 3, 2, 7, 1, 1)),
        {
            "cls_num": 3,
            "batch_size": 12,
            "num_img_per_batch": 1,
            "img_width": 90,
            "img_height": 80,
            "pickup_discard": False,
        },
        "of MS-CNN",
        tops=6,
    ),
    Case(
        "DecodeBBox",
        (normal(6, 8, scale=0.3), regions(2, 90, 6, 5), matches(3, 6, 6)),
        {"bbox_reg_param": CODES},
        sizes=(((2, 8), (2, 5), (2, 6)), ((9, 8), (9, 5, 1, 1), (9, 6))),
    ),
    Case("DecodeBBox", (normal(6, 8, scale=0.3), regions(2, 90, 6, 5)), {}, "deployed", phase="TEST"),
    Case(
        "ScaleRoute",
        (regions(2, 90, 8, 5), normal(8, 2, 3)),
        {"low_scale": 20, "high_scale": 40},
        tops=2,
        sizes=(((2, 5), (2, 2, 3)), ((11, 5), (11, 2, 4))),
    ),
    Case(
        "HardMining",
        (distinct(9, 1), regions(2, 90, 9, 5), normal(9, 3)),
        {"num_image": 2, "num_roi_per_image": 3},
        tops=2,
        sizes=(((4, 1), (4, 5), (4, 3)), ((12, 1), (12, 5), (12, 3))),
    ),
    Case(
        "BboxAccuracy",
        (normal(6, 12, scale=0.3), regions(2, 90, 6, 5), matches(3, 6, 6)),
        tops=2,
        sizes=(((2, 12), (2, 5), (2, 6)), ((9, 12), (9, 5), (9, 6))),
    ),
    Case(
        "FrcnnOutput",
        (chances(8, 3), normal(8, 12, scale=0.3), scored(8, 6), SIZE),
        {"conf_thr": 0.2, "max_det_num": 5},
        sizes=(((2, 3), (2, 12), (2, 6), (1, 2)), ((11, 3), (11, 12), (11, 6), (1, 2))),
    ),
    Case(
        "FrcnnOutput",
        (chances(8, 3), normal(8, 8, 1, 1, scale=0.3), regions(1, 90, 8, 5), SIZE),
        {"bbox_reg_param": CODES, "nms_type": "IOMU"},
        "one box for all classes",
    ),
    Case(
        "DetectionEvaluate",
        (
            Values(lambda rng, shape: np.insert(objects(1, 3, 5, 6).draw(rng), 6, rng.random(5), axis=1), (5, 7)),
            objects(1, 3, 4, 8),
            SIZE,
        ),
        {"num_classes": 3},
        "of Cascade R-CNN",
        files=lambda folder: {"name_size_file": sizes(folder)},
    ),
]


def sizes(folder) -> str:
    (folder / "sizes.txt").write_text("one 160 150\n")
    return str(folder / "sizes.txt")


PROPOSING = [
    Case(
        "BoxOutput",
        (distinct(2, 7, 4, 5), distinct(2, 7, 2, 3)),
        {"field_w": [24, 40], "field_h": [20, 40], "downsample_rate": [8, 16], "iou_thr": 0.3, "min_size": 4},
        tops=2,
        sizes=(((1, 7, 2, 2), (1, 7, 1, 1)), ((3, 7, 6, 5), (3, 7, 3, 3))),
    ),
    Case(
        "BoxGroupOutput",
        (chances(4, 3, 4, 5), normal(4, 4, 4, 5, scale=0.3)),
        {"box_group_output_param": {"box_group_param": [FIELDS], "fg_thr": 0.3, "max_nms_num": 20, "min_size": 4}},
        tops=2,
        sizes=(((2, 3, 2, 3), (2, 4, 2, 3)), ((6, 3, 5, 6), (6, 4, 5, 6))),
    ),
]

LOSSES = [
    *(
        Case(
            kind,
            MAPS,
            {"cls_num": 3, "sample_mode": "bootstrap", **FIELD, "pos_neg_weighted": True, "iou_weighted": True},
            sizes=(((1, 7, 2, 3), (1, 6, 2, 3)), ((3, 7, 5, 6), (3, 6, 5, 6))),
            why_not={"gradient": ONLY_THE_SUM},
        )
        for kind in ("DetectionLoss", "Detection")
    ),
    Case("DetectionAccuracy", MAPS, {"cls_num": 3, "top_k": 2, **FIELD}, tops=2, sizes=(((1, 7, 2, 3), (1, 6, 2, 3)),)),
    Case(
        "DetectionGroupLoss",
        GROUPS,
        {"cls_num": 3, "neg_mining_type": "mixture", **FIELDS, "field_xyr": 1, "field_whr": 4},
        sizes=(SMALL, LARGE),
        why_not={"gradient": ONLY_THE_SUM},
    ),
    Case("DetectionGroupAccuracy", GROUPS, {"cls_num": 3, **FIELDS}, tops=2, sizes=(SMALL, LARGE)),
    Case(
        "SoftmaxWithWeightedLoss",
        (normal(4, 3, 2), integers(3, 4, 2), uniform(0.5, 2, 4, 2)),
        {"loss_param": {"ignore_label": 1}},
        sizes=(((2, 3), (2,), (2,)), ((5, 3, 3), (5, 3), (5, 3))),
    ),
    Case("SoftmaxWithWeightedLoss", (normal(4, 3), integers(3, 4)), {}, "without weights"),
    Case(
        "SoftmaxWithLoss",
        (normal(4, 3, 2), integers(3, 4, 2)),
        {"loss_param": {"ignore_label": 1}},
        "three tops",
        tops=3,
        gradient={"check_top": [0]},
    ),
    Case(
        "SmoothL1Loss",
        (normal(4, 3, 2, 1), normal(4, 3, 2, 1), integers(2, 4, 3, 2, 1), uniform(0.5, 1, 4, 3, 2, 1)),
        {},
        "two tops",
        tops=2,
        gradient={"check_top": [0]},
    ),
]

CASES = [*REGIONS, *PROPOSING, *LOSSES]
