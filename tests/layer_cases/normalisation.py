"""LRN, BatchNorm, MVN, with terms that dominate: a large alpha, eps of the size of the variance."""

from __future__ import annotations

from layer_cases.case import Case, normal, uniform

IMAGES = (((1, 7, 3, 4),), ((3, 7, 6, 5),))
GROUPS = (((1, 3, 4, 2),), ((4, 3, 5, 5),))
STATISTICS = (normal(3), uniform(1, 2, 3), uniform(2, 3, 1))
SCALED = (*STATISTICS, uniform(1, 2, 3), normal(3))

CASES = [
    Case("LRN", (normal(2, 7, 4, 3),), {"alpha": 5.0, "beta": 0.75, "k": 2.0}, sizes=IMAGES),
    Case("LRN", (normal(2, 7, 4, 3),), {"local_size": 3, "alpha": 9.0, "beta": 1.3}, "across 3", sizes=IMAGES),
    Case("LRN", (normal(1, 3, 2, 2),), {"local_size": 9, "alpha": 9.0}, "wider than the channels"),
    Case(
        "LRN",
        (normal(2, 7, 4, 3),),
        {"norm_region": "WITHIN_CHANNEL", "local_size": 3, "alpha": 9.0, "beta": 0.6},
        "within",
        sizes=IMAGES,
    ),
    Case("BatchNorm", (normal(4, 3, 2, 5),), {"eps": 0.5}, "TRAIN", sizes=GROUPS),
    Case(
        "BatchNorm", (normal(8, 3),), {"eps": 0.5, "moving_average_fraction": 0.5}, "2-D", sizes=(((5, 3),), ((9, 3),))
    ),
    Case("BatchNorm", (normal(4, 3, 2, 5),), {"eps": 0.5}, "TEST", phase="TEST", params=STATISTICS, sizes=GROUPS),
    Case("BatchNorm", (normal(4, 3, 2),), {"use_global_stats": False}, "batch statistics in TEST", phase="TEST"),
    Case("BatchNorm", (normal(4, 3, 2, 5),), {"eps": 0.5, "scale_bias": True}, "scaled", params=SCALED, sizes=GROUPS),
    Case(
        "BatchNorm",
        (normal(4, 3, 2, 5),),
        {"eps": 0.5, "bias_filler": {"type": "gaussian"}},
        "scaled, TEST",
        phase="TEST",
        params=SCALED,
        sizes=GROUPS,
    ),
    Case(
        "MVN",
        (normal(2, 3, 4, 3),),
        {"eps": 1e-9},
        sizes=GROUPS,
        variant="",
    ),
    Case("MVN", (normal(2, 3, 4, 3),), {"across_channels": True}, "across", sizes=GROUPS),
    Case(
        "MVN", (normal(2, 3, 4),), {"normalize_variance": False}, "mean only, 3-D", sizes=(((1, 3, 2),), ((4, 3, 7),))
    ),
]
