"""Layers of sequences, which come from forks: of order, of connectionist temporal classification."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Values, integers, normal

ORDER = [
    Case(
        "Transpose",
        (normal(2, 3, 4, 5),),
        {"dim": [3, 0, 1, 2]},
        sizes=(((1, 2, 3, 3),), ((3, 6, 5, 6),)),
    ),
    Case("Reverse", (normal(3, 4, 5),), {"axis": 1}, sizes=(((2, 2, 3),), ((5, 6, 7),))),
    Case("Reverse", (normal(3, 4),), {"axis": -1}, "from the end"),
    Case(
        "ReverseTime",
        (normal(4, 3, 2, 2), integers(5, 3)),
        sizes=(((4, 1, 1, 1), (1,)), ((6, 4, 3, 2), (4,))),
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ReverseTime",
        (normal(4, 3, 2), integers(5, 3)),
        {"copy_remaining": True},
        "copied",
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ContinuationIndicator",
        (normal(3, 4),),
        {"time_step": 5},
        sizes=(((1, 4),), ((7, 2),)),
    ),
    Case(
        "ContinuationIndicator",
        (),
        {"time_step": 2, "batch_size": 3},
        "without a bottom",
    ),
]

FILLED = {"num_output": 3, "weight_filler": {"type": "gaussian", "std": 0.5}}


def begun(*shape: int) -> Values:
    """Where sequences go on; all begin at the first step."""
    return Values(lambda rng, size: (rng.random(size) > 0.3) * (np.arange(size[0])[:, None] > 0) * 1.0, shape)


LSTM = [
    Case("Lstm", (normal(4, 2, 3),), FILLED, sizes=(((3, 1, 3),), ((6, 4, 3),))),
    Case("Lstm", (normal(8, 3),), {"batch_size": 2, **FILLED}, "rows"),
    Case(
        "Lstm",
        (normal(4, 2, 3), begun(4, 2)),
        FILLED,
        "clip",
        sizes=(((3, 1, 3), (3, 1)), ((6, 4, 3), (6, 4))),
        why_not={"gradient": "that of U counts the steps where sequences begin, in the fork too"},
    ),
]

SUM = {"gradient": "that of the sum over the batch, in the fork too"}
CTC = [
    Case(
        "CtcLoss",
        (normal(6, 1, 4), integers(4, 1, 2)),
        {"alphabet_size": 4, "loss_weight": 2},
        sizes=(((3, 2, 4), (2, 1)), ((9, 3, 4), (3, 4))),
        gradient={"check_bottom": [0]},
    ),
    Case("CtcLoss", (normal(6, 3, 4), integers(4, 3, 4)), {"blank_label": 3, "time_step": 5}, "batch", why_not=SUM),
    Case(
        "WarpCTCLoss",
        (normal(5, 1, 3), integers(3, 1, 2)),
        sizes=(((3, 2, 3), (2, 1)), ((9, 3, 3), (3, 4))),
        gradient={"check_bottom": [0]},
    ),
    Case("CTCGreedyDecoder", (normal(6, 2, 3),), sizes=(((2, 1, 3),), ((9, 4, 5),))),
    Case("CTCGreedyDecoder", (normal(6, 2, 3), integers(3, 2, 4)), variant="labels"),
    Case(
        "LabelsequenceAccuracy",
        (normal(3, 4, 3), integers(3, 3, 2)),
        sizes=(((2, 3, 3), (2, 1)), ((5, 6, 4), (5, 3))),
    ),
]

CASES = [*ORDER, *LSTM, *CTC]
