"""Layers of two-stage detectors."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Shape, Values, distinct, integers, normal, uniform

REGIONS_SIZES = (((1, 8, 4, 5), (1, 5)), ((2, 8, 9, 7), (6, 5, 1, 1)))


def regions(items: int, size: float, *shape: int) -> Values:
    """Rows (item, x1, y1, x2, y2) of regions in images of that size, in turn, some a bit outside."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        item = np.arange(shape[0])[:, None] % items
        corner = rng.uniform(-0.1, 0.6, (shape[0], 2)) * size
        return np.hstack([item, corner, corner + rng.uniform(0.1, 0.6, (shape[0], 2)) * size]).reshape(shape)

    return Values(draw, shape)


POOLING = [
    Case(
        "ROIPooling",
        (distinct(2, 3, 6, 7), regions(2, 100, 4, 5)),
        {"pooled_h": 3, "pooled_w": 2, "spatial_scale": 0.0625},
        sizes=REGIONS_SIZES,
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ROIPooling",
        (distinct(1, 2, 6, 7), regions(1, 1, 3, 5)),
        {"pooled_h": 2, "pooled_w": 2},
        "shares of the image",
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ROIPooling",
        (distinct(1, 2, 6, 7), regions(1, 100, 3, 5)),
        {"pooled_h": 2, "pooled_w": 2, "spatial_scale": 0.0625, "pad_ratio": 0.25},
        "padded",
        gradient={"check_bottom": [0]},
    ),
    Case(
        "PSROIPooling",
        (normal(2, 8, 6, 7), regions(2, 100, 4, 5)),
        {"output_dim": 2, "group_size": 2, "spatial_scale": 0.0625},
        sizes=REGIONS_SIZES,
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ROIAlign",
        (normal(2, 3, 6, 7), regions(2, 100, 4, 5)),
        {"roi_pooling_param": {"pooled_h": 3, "pooled_w": 2, "spatial_scale": 0.0625, "pad_ratio": 0.1}},
        sizes=REGIONS_SIZES,
        gradient={"check_bottom": [0]},
    ),
]

MINING = [
    Case(
        "SoftmaxWithLossOHEM",
        (normal(6, 4), integers(4, 6)),
        sizes=(((2, 4), (2,)), ((9, 4), (9,))),
    ),
    Case(
        "SoftmaxWithLossOHEM",
        (normal(2, 4, 3, 2), integers(4, 2, 3, 2)),
        {"loss_param": {"ignore_label": 1, "normalization": "PRE_FIXED", "pre_fixed_normalizer": 2.5}},
        "three tops",
        tops=3,
        gradient={"check_top": [0]},
    ),
    Case(
        "SmoothL1LossOHEM",
        (distinct(5, 4), normal(5, 4)),
        tops=2,
        gradient={"check_top": [0]},
        sizes=(((2, 4), (2, 4)), ((7, 8, 2, 2), (7, 8, 2, 2))),
    ),
    Case(
        "SmoothL1LossOHEM",
        (distinct(5, 4), normal(5, 4), integers(2, 5, 4)),
        {"loss_param": {"normalization": "PRE_FIXED", "pre_fixed_normalizer": 2.5}},
        "weights",
        gradient={"check_bottom": [0, 1]},
    ),
    Case(
        "BoxAnnotatorOHEM",
        (regions(2, 100, 8, 5), normal(8, 1), integers(3, 8, 1), normal(8, 4)),
        {"roi_per_img": 2},
        sizes=(((2, 5), (2, 1), (2, 1), (2, 4)), ((9, 5), (9, 1), (9, 1), (9, 8))),
    ),
]

IMAGE = Values(lambda rng, size: np.array([[80.0, 100.0, 1.0]]), (1, 3))
PROPOSING = [
    Case(
        "Proposal",
        (distinct(1, 18, 4, 5), normal(1, 36, 4, 5, scale=0.2), IMAGE),
        {"post_nms_topn": 10},
        tops=2,
        sizes=(((1, 18, 2, 3), (1, 36, 2, 3), (1, 3)), ((1, 18, 6, 7), (1, 36, 6, 7), (1, 3))),
    ),
    Case(
        "Proposal",
        (distinct(1, 4, 4, 5), normal(1, 8, 4, 5, scale=0.2), IMAGE),
        {"ratio": [1.0], "scale": [1.0, 2.0], "nms_thresh": 0.3, "min_size": 8},
        "small",
    ),
]

WHOLE = Values(lambda rng, size: np.broadcast_to([3.0, 4.0], size), (2, 2))
SMOOTHING = [
    Case(
        "DomainTransform",
        (normal(2, 3, 4, 5), uniform(0.1, 1, 2, 1, 4, 5), WHOLE),
        {"spatial_sigma": 10, "range_sigma": 5},
        sizes=(((1, 2, 3, 4), (1, 1, 3, 4), (1, 2)), ((3, 2, 6, 5), (3, 1, 6, 5), (3, 2))),
        gradient={"check_bottom": [0, 1]},
    ),
]

CASES = [*POOLING, *MINING, *PROPOSING, *SMOOTHING]
