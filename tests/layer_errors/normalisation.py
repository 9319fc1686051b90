"""LRN, BatchNorm, MVN."""

from __future__ import annotations

from layer_errors.row import row

BLOB = [{"shape": {"dim": [2]}, "data": [0.0, 0.0]}]

ROWS = [
    row("LRN", "local_size", r"must be odd; found 4", (2, 3, 4, 5), local_size=4),
    row("LRN", None, r"must have 4 axes \(N, C, H, W\); found 2 3 ", (2, 3)),
    row("BatchNorm", None, r"at least 2 axes; found 4 ", (4,)),
    row("BatchNorm", None, r"a batch without values has no mean and variance; found 0 3 ", (0, 3)),
    row("BatchNorm", "param", r"set lr_mult: 0 in each", (2, 3), param={"lr_mult": 1.0}),
    row("BatchNorm", "blobs", r"needs the blobs mean \(3\), variance \(3\) and factor \(1\)", (2, 3), blobs=BLOB),
    row("BatchNorm", None, r"keep 3 channels; found 2 4 ", (2, 3), later=((2, 4),)),
    row("MVN", None, r"at most 4 axes; found 1 1 1 1 1", (1, 1, 1, 1, 1)),
]
