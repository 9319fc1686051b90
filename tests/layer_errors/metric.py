"""Layers of forks that learn to measure, losses of distances to classes, softmax with a margin."""

from __future__ import annotations

from math import inf, nan

from layer_errors.row import row

X = (4, 3)
LABELS = (4,)

ROWS = [
    row("CenterLoss", "num_output", r"must be positive; found 0", X, LABELS),
    row("CenterLoss", "distance_type", r"must be L1 or L2; found L3", X, LABELS, num_output=2, distance_type="L3"),
    row("CenterLoss", "axis", r"axis 2 out of range for 2-D", X, LABELS, num_output=2, axis=2),
    row("CenterLoss", None, r"must keep 3 values a row; found 4 5", X, LABELS, num_output=2, later=((4, 5), (4,))),
    row("CenterLoss", None, r"one label for each of 4 rows; found 3 ", X, (3,), num_output=2),
    row("TripletLoss", None, r"must have the same shape", X, X, (4, 2)),
    row("InnerDistance", "transpose", r"is not in minicaffe for distances", X, num_output=2, transpose=True),
    row("InnerDistance", "distance_type", r"must be L1 or L2; found L3", X, num_output=2, distance_type="L3"),
    row("InnerDistance", "bottom", r"labels only with update_center_only; found 3 bottoms", X, X, LABELS),
    row("InnerDistance", "num_output", r"must be positive; found 0", X),
    row("InnerDistance", "axis", r"axis 2 out of range for 2-D", X, num_output=2, axis=2),
    row("InnerDistance", None, r"must have 3 values a row; found 4 3 .*and 2 5", X, (2, 5)),
    row("InnerDistance", None, r"one label for each of 4 rows; found 3", X, (3,), num_output=2,
        update_center_only=True),
    row("Pairwise", "coeff", r"takes two values, and those only for SUM; found 1", X, X, coeff=[1.0]),
    row("Pairwise", "coeff", r"takes two values, and those only for SUM; found 2", X, X, coeff=[1.0, 2.0],
        operation="MAX"),
    row("Pairwise", None, r"must be \(M, K\) and \(N, K\); found 4 3 .*and 4 2", X, (4, 2)),
    row("GeneralContrastiveLoss", None, r"at least two classes; found 4 1", (4, 1), LABELS),
    row("GeneralContrastiveLoss", "normalize_negative", r"must be positive; found 0", X, LABELS, normalize_negative=0),
    row("GeneralContrastiveLoss", None, r"must have the same shape", X, LABELS, (4, 2)),
    row("GeneralTripletLoss", None, r"bottom 2 must hold one weight a row; found 3 ", X, LABELS, (3,)),
    row("NCALoss", None, r"bottom 2 must hold one weight a row; found 3 ", X, LABELS, (3,)),
    row("LabelSpecificAdd", None, r"one label for each row of the scores; found 4 3 .*and 3 ", X, (3,)),
    row("LabelSpecificAdd", "bias", r"must be a number; found NaN", X, LABELS, bias=nan, bad=(1, [0, 1, 2, 0])),
    row("LabelSpecificAdd", "bias_gamma", r"makes a margin of NaN in pass 0", X, LABELS, bias_base=0.1, bias_gamma=inf,
        bad=(1, [0, 1, 2, 0])),
    row("MarginInnerProduct", "num_output", r"must be positive; found 0", X, LABELS),
    row("MarginInnerProduct", "axis", r"axis 2 out of range for 2-D", X, LABELS, num_output=2, axis=2),
    row("MarginInnerProduct", None, r"one label for each of 4 rows; found 4 3 .*and 3 ", X, (3,), num_output=2),
    row("MarginInnerProduct", None, r"value number 2 .* 0 \.\. 1 among the labels", X, LABELS, num_output=2, bad=(1, [0, 1, 5, 0])),
]  # fmt: skip
