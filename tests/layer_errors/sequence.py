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
    row("Lstm", "num_output", r"must be positive; found 0", (2, 3, 4)),
    row("Lstm", "clipping_threshold", r"or 0 for none; found -1", (2, 3, 4), num_output=2, clipping_threshold=-1),
    row("Lstm", "steps", r"is not supported", (2, 3, 4), num_output=2, steps=3),
    row("Lstm", "batch_size", r"must divide the rows of 6 4 .*found 4", (6, 4), num_output=2, batch_size=4),
    row("Lstm", "blobs", r"must be 3; found 1", (2, 3, 4), num_output=2, blobs=[{"shape": {"dim": [1]}, "data": [1]}]),
    row("Lstm", None, r"\(T, N, I\) or \(T N, I\); found 3 ", (3,), num_output=2),
    row("Lstm", None, r"clip must hold .*2 x 3; found 5 ", (2, 3, 4), (5,), num_output=2),
]  # fmt: skip
