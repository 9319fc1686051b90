"""RNN, LSTM, LSTMUnit."""

from __future__ import annotations

from layer_cases.case import Case, integers, normal

SIZES = (((4, 1, 5), (4, 1)), ((4, 6, 5), (4, 6)))


def recurrent(kind, states):
    weights = {"num_output": 3, "weight_filler": {"type": "uniform", "min": -1, "max": 1}}
    yield Case(kind, (normal(4, 2, 5), integers(2, 4, 2)), weights, sizes=SIZES)
    yield Case(
        kind,
        (normal(4, 2, 5), integers(2, 4, 2), normal(2, 3, 2)),
        weights,
        "static input",
        sizes=(((4, 1, 5), (4, 1), (1, 3, 2)), ((4, 6, 5), (4, 6), (6, 3, 2))),
    )
    # no gradient flows into exposed states nor out of the last ones (Caffe), so these are not checked
    yield Case(
        kind,
        (normal(4, 2, 5), integers(2, 4, 2), *[normal(1, 2, 3)] * states),
        {**weights, "expose_hidden": True},
        "exposed",
        tops=1 + states,
        gradient={"check_bottom": [0], "check_top": [0]},
    )


CASES = [
    *recurrent("RNN", 1),
    *recurrent("LSTM", 2),
    Case(
        "LSTMUnit",
        (normal(1, 4, 3), normal(1, 4, 12), integers(2, 1, 4)),
        sizes=(((1, 2, 3), (1, 2, 12), (1, 2)), ((1, 7, 2), (1, 7, 8), (1, 7))),
    ),
]
