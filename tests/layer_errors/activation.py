"""Neurons that forks added."""

from __future__ import annotations

from layer_errors.row import row

ROWS = [
    row("SeLu", "alpha", r"must be positive; found -1", (2, 3), alpha=-1),
    row("SeLu", "lambda", r"must be positive; found 0", (2, 3), **{"lambda": 0}),
    row("Truncation", "upper_bound", r"greater than lower_bound, which is 5; found 5", (2, 3), lower_bound=5),
    row("SoftTruncation", "c", r"must not be 0", (2, 3), c=0),
    row("Softmax", "scaling_temperature", r"must be positive; found -1", (2, 3), scaling_temperature=-1),
    row("Softmax", "normalize_type", r"only a fork of Caffe: happynear/caffe-windows has", (2, 3), normalize_type="L1"),
]
