"""Losses and Accuracy."""

from __future__ import annotations

from layer_errors.row import row

PAIR = ((2, 3), (2,))


def scored(kind, *more, labels=True, axis=True, **fields):
    """What all layers with scores and labels refuse; ``more`` are shapes of further bottoms."""
    yield row(kind, None, r"same first dimension; found 4 3 .*3 ", (4, 3), (3,), *more, **fields)
    yield row(kind, None, r"same first dimension; found \(1\) and \(1\)", (), (), *more, **fields)
    if labels:
        yield row(kind, None, r"value number 0 .* 0 \.\. 2 among the labels", *PAIR, *more, bad=(1, [3, 0]), **fields)
        yield row(kind, None, r"value number 1 .* 0 \.\. 2 among the labels", *PAIR, *more, bad=(1, [0, -1]), **fields)
        yield row(kind, None, r"need 4 integer labels in 0 \.\. 2; found 4 2", (4, 3), (4, 2), *more, **fields)
    if axis:
        yield row(kind, "axis", r"at least one class along it; found 2 0 ", (2, 0), (2,), *more, **fields)
        yield row(kind, "axis", r"axis 2 out of range for 2-D", *PAIR, *more, **{"axis": 2, **fields})


ROWS = [
    *scored("SoftmaxWithLoss"),
    row(
        "SoftmaxWithLoss",
        None,
        r"value number 0 .*\(or 9, which is ignored\)",
        *PAIR,
        bad=(1, [4, 9]),
        loss_param={"ignore_label": 9},
    ),
    row("SoftmaxWithLoss", "loss_weight", r"once per top blob; found 1 for 2 top", *PAIR, tops=2, loss_weight=1.0),
    *scored("SigmoidCrossEntropyLoss", labels=False, axis=False),
    row(
        "SigmoidCrossEntropyLoss",
        "class_balance",
        r"must be positive; found -1",
        (2, 3),
        (2, 3),
        loss_param={"class_balance": -1},
    ),
    *(
        row(
            "SigmoidCrossEntropyLoss",
            field,
            r"no meaning together with class_balance",
            (2, 3),
            (2, 3),
            loss_param={"class_balance": 1, field: value},
        )
        for field, value in (("ignore_label", 3), ("normalization", "FULL"), ("normalize", True))
    ),
    row("SigmoidCrossEntropyLoss", None, r"same count; found 4 3 .*4 2", (4, 3), (4, 2)),
    row("InfogainLoss", "source", r"give the matrix H", *PAIR),
    row("InfogainLoss", "source", r"missing\.binaryproto", *PAIR, source="missing.binaryproto"),
    row("InfogainLoss", "source", r"H must hold 3 x 3 values; found 2 2", *PAIR, (2, 2)),
    row(
        "InfogainLoss", "normalize", r"is deprecated; use normalization", *PAIR, (3, 3), loss_param={"normalize": True}
    ),
    *scored("InfogainLoss", (3, 3)),
    *scored("MultinomialLogisticLoss", axis=False),
    *scored("HingeLoss", axis=False),
    *(one for one in scored("Accuracy") if "0 .. 2 among" in one.problem.replace("\\", "") or "axis 2" in one.problem),
    row("Accuracy", None, r"need 4 integer labels in 0 \.\. 2; found 3 ", (4, 3), (3,)),
    row("Accuracy", "top_k", r"must not exceed the number of classes; found 4", *PAIR, top_k=4),
    *scored("EuclideanLoss", labels=False, axis=False),
    *(
        row(kind, None, r"mean over the items of the batch, which has none", (0, 3), (0,))
        for kind in ("HingeLoss", "MultinomialLogisticLoss")
    ),
    row("EuclideanLoss", None, r"mean over the items of the batch, which has none; found 0 3", (0, 3), (0, 3)),
    row("ContrastiveLoss", None, r"mean over the items of the batch, which has none", (0, 3), (0, 3), (0,)),
    row("EuclideanLoss", None, r"same dimension; found 4 3 .*4 2", (4, 3), (4, 2)),
    row("ContrastiveLoss", None, r"same first dimension", (4, 3), (3, 3), (4,)),
    row("ContrastiveLoss", None, r"agree in N and C, and y in N; found 4 3 .*4 2", (4, 3), (4, 2), (4,)),
    row("ContrastiveLoss", None, r"agree in N and C, and y in N", (4, 3), (4, 3), (3,)),
    row("ContrastiveLoss", None, r"must be \(N, C\[, 1, 1\]\).*found 4 3 2 ", (4, 3, 2), (4, 3, 2), (4,)),
    row("ContrastiveLoss", None, r"y \(N\[, 1, 1, 1\]\); found .*4 2 ", (4, 3), (4, 3), (4, 2)),
]
