"""Losses that compare scores or probabilities with labels, and Accuracy."""

from __future__ import annotations

from layer_cases.case import Case, integers, normal, uniform

SIZES = (((2, 3), (2,)), ((9, 3), (9,)))
DENSE = (((1, 3, 2, 2), (1, 2, 2)), ((4, 3, 5, 2), (4, 5, 2)))
PROB_TOP = {"check_top": [0]}

CASES = [
    Case("SoftmaxWithLoss", (normal(4, 3), integers(3, 4)), sizes=SIZES),
    Case(
        "SoftmaxWithLoss",
        (normal(2, 3, 4, 2), integers(3, 2, 4, 2)),
        {"loss_param": {"ignore_label": 1, "normalization": "FULL"}, "loss_weight": 2.0},
        "dense, ignored",
        sizes=DENSE,
    ),
    Case(
        "SoftmaxWithLoss",
        (normal(2, 4, 3), integers(3, 2, 4)),
        {"axis": -1, "loss_param": {"normalization": "BATCH_SIZE"}},
        "last axis",
    ),
    Case(
        "SoftmaxWithLoss",
        (normal(4, 3), integers(3, 4)),
        {"loss_param": {"normalize": False}},
        "with probabilities",
        tops=2,
        gradient=PROB_TOP,
    ),
    Case(
        "SigmoidCrossEntropyLoss",
        (normal(4, 3, scale=2), uniform(0, 1, 4, 3)),
        sizes=(((2, 3), (2, 3)), ((9, 5), (9, 5))),
    ),
    Case(
        "SigmoidCrossEntropyLoss",
        (normal(4, 3, scale=2), integers(3, 4, 3)),
        {"loss_param": {"ignore_label": 2, "normalization": "VALID"}},
        "ignored",
    ),
    Case(
        "SigmoidCrossEntropyLoss",
        (normal(2, 1, 4, 5, scale=2), integers(3, 2, 1, 4, 5)),
        {"loss_param": {"class_balance": 1.1}},
        "balanced",
        sizes=(((1, 1, 2, 2), (1, 1, 2, 2)), ((3, 1, 5, 6), (3, 1, 5, 6))),
    ),
    Case(
        "InfogainLoss",
        (normal(4, 3), integers(3, 4), uniform(0, 1, 3, 3)),
        sizes=(((2, 3), (2,), (3, 3)), ((9, 3), (9,), (3, 3))),
    ),
    Case(
        "InfogainLoss",
        (normal(2, 4, 3), integers(3, 2, 4), uniform(0, 1, 1, 1, 3, 3)),
        {"axis": 2, "loss_param": {"ignore_label": 0, "normalization": "NONE"}, "loss_weight": [2.0, 0.0]},
        "last axis, with probabilities",
        tops=2,
        gradient=PROB_TOP,
    ),
    Case("MultinomialLogisticLoss", (uniform(0.1, 1, 4, 3), integers(3, 4)), sizes=SIZES),
    Case("HingeLoss", (normal(4, 3, scale=2), integers(3, 4)), sizes=SIZES, gradient={"kink": 1.0, "kink_range": 0.01}),
    Case("HingeLoss", (normal(4, 3, scale=2), integers(3, 4)), {"norm": "L2", "loss_weight": 0.5}, "L2", sizes=SIZES),
    Case("Accuracy", (normal(4, 3), integers(3, 4)), sizes=SIZES),
    Case("Accuracy", (normal(4, 3), integers(3, 4)), {"min_is_better": True}, "of distances", sizes=SIZES),
    Case("Accuracy", (normal(4, 5, 3), integers(5, 4, 3)), {"top_k": 2, "ignore_label": 1}, "each class", tops=2),
]
