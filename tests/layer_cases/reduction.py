"""Reduction, ArgMax."""

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
]
