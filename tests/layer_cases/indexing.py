"""Layers that pick, drop or repeat parts of a blob: Crop, Tile, Filter, BatchReindex."""

from __future__ import annotations

from layer_cases.case import Case, integers, normal

CASES = [
    Case(
        "Crop",
        (normal(2, 3, 6, 5), normal(2, 3, 4, 2)),
        {"offset": [1, 3]},
        sizes=(((1, 3, 5, 5), (1, 1, 2, 2)), ((3, 4, 9, 8), (1, 1, 4, 5))),
    ),
    Case("Crop", (normal(4, 3, 5), normal(4, 2, 3)), {"axis": -2, "offset": 1}, "negative axis"),
    Case(
        "AutoCrop",
        (normal(4, 3, 5), normal(4, 2, 3)),
        {"axis": 1, "offset": [1, 2]},
        sizes=(((2, 4, 4), (2, 1, 2)), ((5, 4, 6), (5, 3, 4))),
    ),
    Case("Tile", (normal(2, 3, 4),), {"tiles": 3}, sizes=(((1, 2, 2),), ((4, 5, 6),))),
    Case("Tile", (normal(2, 3, 4),), {"tiles": 2, "axis": -1}, "last axis"),
    Case(
        "Filter",
        (normal(6, 3), normal(6, 2, 2), integers(2, 6)),
        tops=2,
        sizes=(((2, 3), (2, 2, 2), (2,)), ((9, 4), (9, 1, 5), (9,))),
    ),
    Case("BatchReindex", (normal(4, 3, 2), integers(4, 7)), sizes=(((4, 2, 1), (3,)), ((5, 6, 2), (9,)))),
]
