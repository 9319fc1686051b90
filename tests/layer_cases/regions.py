"""Layers of two-stage detectors."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Shape, Values, distinct, normal

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

CASES = [*POOLING]
