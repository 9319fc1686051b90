"""Layers of forks that learn to measure, losses of distances to classes, softmax with a margin."""

from __future__ import annotations

from layer_cases.case import Case, Values, distinct, integers, normal, uniform

FIXED = {"param": [{"lr_mult": 0}]}
NOT_THE_GRADIENT = {"gradient": "backward is not the gradient of the loss, in the fork too"}
LOSS = {"check_top": [0]}
LABELLED = (((2, 4), (2,)), ((7, 4), (7,)))


def directions(*shape: int) -> Values:
    """Rows of length 1."""
    plain = normal(*shape)

    def draw(rng, size):
        rows = plain.draw(rng, size)
        return rows / (rows**2).sum(axis=-1, keepdims=True) ** 0.5

    return Values(draw, shape)


METRIC = [
    Case(
        "CenterLoss",
        (normal(5, 4), integers(3, 5)),
        {"num_output": 3, "center_filler": {"type": "xavier"}, "loss_weight": 1.5, **FIXED},
        sizes=LABELLED,
    ),
    Case(
        "CenterLoss",
        (normal(5, 2, 2), integers(3, 5)),
        {"num_output": 3, "center_filler": {"type": "xavier"}},
        "moving",
        why_not={"gradient": "the step of the centres is not the gradient, in the paper too"},
    ),
    Case(
        "CenterLoss",
        (normal(5, 4), integers(3, 5)),
        {"num_output": 4, "center_filler": {"type": "xavier"}, "distance_type": "L1", **FIXED},
        "L1",
    ),
    Case(
        "TripletLoss",
        (normal(4, 3), normal(4, 3), normal(4, 3)),
        sizes=(((2, 5),) * 3, ((6, 3, 1, 1),) * 3),
    ),
    Case("TripletLoss", (normal(4, 3),) * 3, {"margin": 3.0, "loss_weight": 2.0}, "weighted"),
    Case(
        "InnerDistance",
        (normal(4, 3),),
        {"num_output": 5, "weight_filler": {"type": "xavier"}},
        sizes=(((2, 3),), ((7, 3),)),
    ),
    Case(
        "InnerDistance",
        (distinct(4, 3, 2), normal(3, 6)),
        {"distance_type": "L1"},
        "given points, L1",
        sizes=(((2, 6), (2, 6)), ((6, 3, 2), (5, 6))),
    ),
    Case(
        "InnerDistance",
        (normal(2, 4, 3),),
        {"num_output": 2, "normalize": True, "axis": 2},
        "normalized",
        params=(normal(2, 3),),
        why_not={"gradient": "backward holds for the points as they are, but forward scales them"},
    ),
    Case(
        "InnerDistance",
        (normal(4, 3), integers(2, 4)),
        {"num_output": 2, "update_center_only": True, "weight_filler": {"type": "xavier"}, **FIXED},
        "right points only",
    ),
    Case(
        "InnerDistance",
        (normal(4, 3), integers(2, 4)),
        {"num_output": 2, "update_center_only": True, "weight_filler": {"type": "xavier"}},
        "right points learn",
        why_not={"gradient": "the points of other classes get none, in the fork too"},
    ),
    Case("Pairwise", (normal(2, 3), normal(4, 3)), sizes=(((1, 2), (2, 2)), ((3, 5), (6, 5)))),
    Case("Pairwise", (normal(2, 3), normal(4, 3)), {"coeff": [0.5, -2.0]}, "weighted"),
    Case("Pairwise", (normal(2, 3), normal(4, 3)), {"operation": "PROD"}, "product"),
    Case("Pairwise", (normal(2, 3), normal(4, 3)), {"operation": "MAX"}, "larger"),
]

DISTANCES = [
    Case("GeneralContrastiveLoss", (uniform(0, 2, 4, 3), integers(3, 4)), sizes=LABELLED),
    Case(
        "GeneralContrastiveLoss",
        (distinct(4, 3), integers(3, 4)),
        {"positive_weight": 2.0, "negative_weight": 0.5, "negative_margin": 0.4, "loss_weight": [1.5, 0]},
        "weighted",
        tops=2,
        gradient=LOSS,
    ),
    Case(
        "GeneralContrastiveLoss",
        (distinct(4, 3), integers(3, 4)),
        {"exp_negative_weight": True, "max_positive_only": True, "negative_margin": 3.0},
        "exponential",
    ),
    Case(
        "GeneralContrastiveLoss",
        (distinct(4, 3), integers(3, 4), uniform(0, 2, 4, 3)),
        variant="distances elsewhere",
        why_not={"gradient": "it goes to the first bottom, and the distances are those of the third"},
    ),
    Case(
        "GeneralTripletLoss",
        (distinct(5, 2), integers(2, 5)),
        {"add_center_loss": False},
        sizes=(((2, 2), (2,)), ((7, 2), (7,))),
    ),
    Case(
        "GeneralTripletLoss",
        (distinct(5, 4), integers(4, 5)),
        {"add_center_loss": False, "hardest_only": True, "margin": 0.5, "loss_weight": 2.0},
        "hardest",
    ),
    Case(
        "GeneralTripletLoss",
        (distinct(5, 4), integers(4, 5), normal(5)),
        {"positive_first": True},
        "as in happynear",
        tops=2,
        why_not=NOT_THE_GRADIENT,
    ),
    Case("NCALoss", (distinct(4, 3), integers(3, 4)), sizes=LABELLED),
    Case(
        "NCALoss",
        (distinct(4, 3), integers(3, 4), uniform(0.5, 2, 4)),
        variant="weights",
        why_not={"gradient": "the gradient is weighed and the loss is not, in the fork too"},
    ),
    Case("NCALoss", (distinct(4, 3), integers(3, 4)), {"min_negative_only": True}, "nearest", tops=2, gradient=LOSS),
]

MARGINS = [
    Case(
        "LabelSpecificAdd",
        (normal(4, 3), integers(3, 4)),
        {"bias": -0.35},
        sizes=(((2, 5), (2,)), ((6, 3, 1, 1), (6,))),
    ),
    Case("LabelSpecificAdd", (normal(4, 3), integers(3, 4)), {"bias": -0.35}, "test", phase="TEST"),
    Case(
        "MarginInnerProduct",
        (normal(5, 4), integers(3, 5)),
        {"num_output": 3, "type": "SINGLE", **FIXED},
        params=(directions(3, 4),),
        sizes=LABELLED,
    ),
    *(
        Case(
            "MarginInnerProduct",
            (normal(5, 2, 2), integers(3, 5)),
            {"num_output": 3, "type": type, "base": 2.0, "gamma": 0.5, "power": 1.0, "lambda_min": 0.1},
            type.lower(),
            tops=2,
            params=(directions(3, 4),),
            why_not={"gradient": "the gradient of a right class's score by x is scaled, in the fork too"},
        )
        for type in ("DOUBLE", "TRIPLE", "QUADRUPLE")
    ),
]

CASES = [*METRIC, *DISTANCES, *MARGINS]
