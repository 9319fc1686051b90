"""Layers of sequences, which come from forks."""

from __future__ import annotations

from layer_errors.row import row

ROWS = [
    row("Transpose", "dim", r"all 3 axes of the input, each once, from 0; found \[0, 1\]", (2, 3, 4), dim=[0, 1]),
    row("Transpose", "dim", r"all 2 axes .*found \[0, -1\]", (2, 3), dim=[0, -1]),
    row("Reverse", "axis", r"axis", (2, 3), axis=2),
    row("ReverseTime", None, r"\(T, N, …\) and \(N\); found 4 3 2 .*2 \(2\)", (4, 3, 2), (2,)),
    row("ReverseTime", None, r"value number 1 .*0 \.\. 4 among the lengths of sequences; found 5", (4, 3, 2), (3,),
        bad=(1, [1, 5, 0])),
    row("ContinuationIndicator", "time_step", r"must be positive; found 0", (2, 3)),
    row("ContinuationIndicator", "batch_size", r"must be given, and positive", time_step=2),
    row("ContinuationIndicator", "axis", r"axis", (2, 3), time_step=2, axis=2),
]  # fmt: skip
