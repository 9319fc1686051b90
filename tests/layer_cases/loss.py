"""Losses of two or three inputs: EuclideanLoss, ContrastiveLoss."""

from __future__ import annotations

from layer_cases.case import Case, integers, normal

PAIRS = (((2, 5), (2, 5), (2,)), ((9, 3), (9, 3), (9,)))

CASES = [
    Case("EuclideanLoss", (normal(4, 3), normal(4, 3)), sizes=(((2, 5), (2, 5)), ((7, 3, 2), (7, 3, 2)))),
    Case("EuclideanLoss", (normal(4, 3, 1), normal(4, 3)), {"loss_weight": 2.5}, "weighted"),
    # Caffe's gradient divides by d + 1e-4 instead of d: at distances of about 1000 that is 1e-7 of it
    Case(
        "ContrastiveLoss",
        (normal(6, 3, scale=500), normal(6, 3, scale=500), integers(2, 6)),
        {"margin": 1500.0},
        sizes=PAIRS,
    ),
    Case(
        "ContrastiveLoss",
        (normal(6, 3, 1, 1), normal(6, 3, 1, 1), integers(2, 6, 1, 1, 1)),
        {"margin": 8.0, "legacy_version": True, "loss_weight": 2.0},
        "legacy",
        sizes=(((2, 3, 1, 1), (2, 3, 1, 1), (2, 1, 1, 1)), ((9, 3, 1, 1), (9, 3, 1, 1), (9, 1, 1, 1))),
    ),
    Case(
        "InfimumLoss",
        (normal(3, 4),),
        {"loss_weight": 2.0},
        gradient={"kink": 0.25, "kink_range": 0.01},
        sizes=(((1, 2),), ((5, 3, 2),)),
    ),
]
