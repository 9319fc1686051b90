"""Reduction, ArgMax, BatchReduction."""

from __future__ import annotations

from layer_cases.case import Case, distinct, normal

SIZES = (((1, 2, 2),), ((4, 5, 6),))

CASES = [
    Case("Reduction", (normal(2, 3, 4),), {"coeff": 2.5}, sizes=SIZES),
    Case("Reduction", (normal(2, 3, 4),), {"operation": "ASUM", "axis": 1, "coeff": -0.5}, "ASUM", sizes=SIZES),
    Case("Reduction", (normal(2, 3, 4),), {"operation": "SUMSQ", "axis": -1}, "SUMSQ", sizes=SIZES),
    Case("Reduction", (normal(2, 3, 4),), {"operation": "MEAN", "axis": 2, "coeff": 3.0}, "MEAN", sizes=SIZES),
    Case("ArgMax", (distinct(2, 3, 4),), {"top_k": 2, "out_max_val": True}, sizes=SIZES),
    Case("ArgMax", (distinct(2, 3, 4),), {"axis": -1, "top_k": 2}, "along an axis", sizes=SIZES),
    Case("BatchReduction", (normal(4, 3, 2),), sizes=(((1, 2, 2),), ((5, 3, 4),))),
    Case(
        "BatchReduction",
        (normal(2, 6, 3),),
        {"batch_reduction_param": {"level": [1, 2, 1], "reduction_param": {"operation": "MEAN", "axis": 1}}},
        "levels",
    ),
    Case(
        "BatchReduction",
        (normal(2, 3, 3, 2),),
        {"batch_reduction_param": {"pos": True, "reduction_param": {"axis": 1}}},
        "same places",
    ),
    Case(
        "BatchReduction",
        (distinct(4, 3, 2),),
        {"batch_reduction_param": {"reduction_param": {"operation": "TOPK", "k": 2}}},
        "largest",
        sizes=(((3, 2, 2),), ((6, 1, 2),)),
    ),
]
