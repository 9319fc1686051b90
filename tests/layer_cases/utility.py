"""Layers that move data about without computing: Slice, Concat, Split, Flatten, Reshape, Silence."""

from __future__ import annotations

from layer_cases.case import Case, normal

CASES = [
    Case("Slice", (normal(2, 6, 3),), tops=3, sizes=(((1, 3, 3),), ((4, 9, 5),))),
    Case("Slice", (normal(2, 3, 7),), {"axis": -1, "slice_point": [2, 3]}, "points", tops=3),
    Case("Slice", (normal(4, 3),), {"slice_dim": 0}, "slice_dim", tops=2),
    Case("Slice", (normal(2, 3),), {}, "one top", sizes=(((1, 2),), ((5, 7),))),
    Case("Concat", (normal(2, 3, 4), normal(2, 1, 4)), sizes=(((1, 2, 2), (1, 3, 2)), ((4, 5, 6), (4, 2, 6)))),
    Case("Concat", (normal(2, 3), normal(1, 3), normal(4, 3)), {"concat_dim": 0}, "concat_dim"),
    Case("Concat", (normal(2, 3), normal(2, 2)), {"axis": -1}, "last axis"),
    Case("Concat", (normal(2, 3),), {}, "one bottom", sizes=(((1, 2),), ((5, 7),))),
    Case("Split", (normal(2, 3, 4),), tops=3, sizes=(((1, 2),), ((4, 5, 6),))),
    Case("Split", (normal(2, 3),), {}, "one top"),
    Case("Flatten", (normal(2, 3, 4, 2),), sizes=(((1, 2, 2, 2),), ((4, 5, 6, 3),))),
    Case("Flatten", (normal(2, 3, 4, 2),), {"axis": -3, "end_axis": -2}, "middle"),
    Case("Reshape", (normal(2, 3, 4),), {"shape": {"dim": [0, -1, 2]}}, sizes=(((1, 2, 2),), ((4, 5, 6),))),
    Case("Reshape", (normal(2, 3, 4),), {"shape": {"dim": [2, 2, 1]}, "axis": -1, "num_axes": 1}, "appended"),
    Case("Silence", (normal(2, 3), normal(4)), sizes=(((1, 2), (3,)), ((4, 5), (9,)))),
]
CASES[13] = Case("Reshape", (normal(2, 3, 4),), {"shape": {"dim": [2, 2, 1]}, "axis": -2}, "last axis")
