"""RNN, LSTM, LSTMUnit."""

from __future__ import annotations

from layer_errors.row import row

X, CONT = (4, 2, 5), (4, 2)
BLOB = [{"shape": {"dim": [2]}, "data": [0.0, 0.0]}]


def recurrent(kind, states):
    yield row(kind, "num_output", r"must be positive; found 0", X, CONT)
    yield row(kind, None, r"the input must be \(T, N, K…\); found 4 2 ", (4, 2), CONT, num_output=3)
    yield row(kind, None, r"at least one step; found 0 2 5", (0, 2, 5), (0, 2), num_output=3)
    yield row(kind, None, r"cont must be \(T, N\), here \[4, 2\]; found 2 4", X, (2, 4), num_output=3)
    yield row(kind, None, r"x_static must be \(2, 7\); found 3 7", X, CONT, (3, 7), num_output=3)
    yield row(kind, None, r"keep 4 steps of 5 values; found 3 2 5", X, CONT, num_output=3, later=((3, 2, 5), (3, 2)))
    yield row(kind, None, r"keep 4 steps of 5 values; found 4 2 6", X, CONT, num_output=3, later=((4, 2, 6), CONT))
    yield row(kind, "blobs", r"found 1 given blobs", X, CONT, num_output=3, blobs=BLOB)
    exposed = {"num_output": 3, "expose_hidden": True, "tops": 1 + states}
    yield row(kind, None, r"must have the shape \[1, 2, 3\]; found 1 2 2", X, CONT, *[(1, 2, 2)] * states, **exposed)
    yield row(kind, "bottom", r"at least [34] bottom", X, CONT, **exposed)


ROWS = [
    *recurrent("RNN", 1),
    *recurrent("LSTM", 2),
    row(
        "LSTMUnit",
        None,
        r"must be \(1, N, D\), \(1, N, 4D\) and \(1, N\); found 1 2 3",
        (1, 2, 3),
        (1, 2, 9),
        (1, 2),
        tops=2,
    ),
    row("LSTMUnit", None, r"must be \(1, N, D\)", (2, 2, 3), (2, 2, 12), (2, 2), tops=2),
]
