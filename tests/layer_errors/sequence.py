"""Layers of sequences, which come from forks."""

from __future__ import annotations

from layer_errors.row import row

CTC = ((4, 2, 3), (2, 2))


def ctc(loss):
    """What both losses refuse."""
    yield row(loss, None, r"\(T, N, C\) and \(N, L\); found 4 2 3 .*3 2 ", (4, 2, 3), (3, 2))
    yield row(loss, None, r"has no scores; found 0 2 3 ", (0, 2, 3), (2, 2))
    yield row(loss, None, r"value number 1 .*0 \.\. 2 among the labels; found 3", *CTC, bad=(1, [[0, 3], [0, 0]]))
    for field, value, problem in (
        ("time_step", 5, r"more than there are, 4; found 5"),
        ("alphabet_size", 4, r"must be the scores' 3; found 4"),
        ("blank_label", 3, r"one of 3 classes; found 3"),
        ("blank_index", 2, r"is of ChWick's CTCLoss"),
        ("ctc_merge_repeated", False, r"is of ChWick's CTCLoss"),
    ):
        yield row(loss, field, problem, *CTC, ctc_loss_param={field: value})


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
    *ctc("CtcLoss"),
    *ctc("WarpCTCLoss"),
    row("CTCGreedyDecoder", None, r"\(T, N, C\); found 4 2 ", (4, 2)),
    row("CTCGreedyDecoder", None, r"\(N, L\), N = 2; found 4 2 .*ChWick", (4, 2, 3), (4, 2)),
    row("CTCGreedyDecoder", None, r"no sequences; found 4 0 3 ", (4, 0, 3), (0, 2)),
    row("LabelsequenceAccuracy", None, r"\(N, T, C\) and \(N, L\); found 4 2 3 .*3 2 ", (4, 2, 3), (3, 2)),
]  # fmt: skip
