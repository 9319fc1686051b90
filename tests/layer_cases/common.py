"""InnerProduct, Embed, Parameter, Bias, Scale, Eltwise, Softmax."""

from __future__ import annotations

from layer_cases.case import Case, integers, normal, uniform

ROWS = (((1, 3, 4),), ((5, 3, 4),))
IMAGES = (((1, 3, 2, 2),), ((4, 3, 5, 6),))
TWO = (((1, 3, 2),) * 2, ((4, 5, 6),) * 2)
THREE = (((1, 3, 2),) * 3, ((4, 5, 6),) * 3)

CASES = [
    Case("InnerProduct", (normal(2, 3, 4),), {"num_output": 5}, sizes=ROWS),
    Case("InnerProduct", (normal(2, 3, 4),), {"num_output": 5, "transpose": True}, "transposed", sizes=ROWS),
    Case("InnerProduct", (normal(2, 3, 4),), {"num_output": 5, "axis": -1, "bias_term": False}, "last axis"),
    Case("InnerProduct", (normal(6),), {"num_output": 5, "axis": 0, "transpose": True}, "one row"),
    Case("Embed", (integers(4, 5),), {"input_dim": 4, "num_output": 3}, sizes=(((2,),), ((7, 2),))),
    Case("Embed", (integers(4, 3, 2),), {"input_dim": 4, "num_output": 3, "bias_term": False}, "2-D, without bias"),
    Case("Parameter", (), {"shape": {"dim": [2, 3]}}),
    Case("TrainableData", (), {"shape": [2, 3], "blob_filler": {"type": "gaussian"}}),
    Case("EltwiseAffine", (normal(2, 3, 4, 5),), {"slope_filler": {"type": "gaussian"}}, sizes=IMAGES),
    Case("EltwiseAffine", (normal(2, 3),), {"channel_shared": True}, "shared"),
    Case("Bias", (normal(2, 3, 4, 5),), sizes=IMAGES),
    Case(
        "Bias", (normal(2, 3, 4, 5),), {"axis": -2, "num_axes": 2}, "two axes", sizes=(((1, 3, 4, 5),), ((3, 7, 4, 5),))
    ),
    Case("Bias", (normal(2, 3, 4),), {"num_axes": 0}, "one number", sizes=ROWS),
    Case("Bias", (normal(2, 3, 4), normal(3, 4)), {}, "given", sizes=(((1, 2, 3), (2, 3)), ((4, 5, 6), (5, 6)))),
    Case("Scale", (normal(2, 3, 4, 5),), {"bias_term": True}, sizes=IMAGES),
    Case("Scale", (normal(2, 3, 4),), {"axis": 0, "num_axes": -1}, "all axes"),
    Case("Scale", (normal(2, 3, 4),), {"num_axes": 0}, "one number", sizes=ROWS),
    Case("Scale", (normal(2, 3, 4), normal(2)), {"axis": 0}, "given", sizes=(((1, 2, 3), (1,)), ((4, 5, 6), (4,)))),
    Case("Scale", (normal(2, 3, 4), normal(3, 4)), {"bias_term": True}, "given, with bias"),
    Case("Scale", (normal(2, 3, 4), normal()), {"axis": 5 - 4}, "given number"),
    Case("Eltwise", (normal(2, 3, 4),) * 2, sizes=TWO),
    Case("Eltwise", (normal(2, 3, 4),), {"coeff": [0.05]}, "of one", sizes=(((1, 2, 2),), ((3, 3, 5),))),
    Case("Eltwise", (normal(2, 3, 4),), {"operation": "MAX"}, "largest of one"),
    Case("Eltwise", (normal(2, 3, 4),) * 3, {"coeff": [2.0, -1.0, 0.5]}, "weighted", sizes=THREE),
    Case("Eltwise", (normal(2, 3, 4),) * 3, {"operation": "PROD"}, "product", sizes=THREE),
    Case(
        "Eltwise",
        (uniform(0.5, 2, 2, 3, 4),) * 3,
        {"operation": "PROD", "stable_prod_grad": False},
        "product, divided",
    ),
    Case("Eltwise", (normal(2, 3, 4),) * 2, {"operation": "MAX"}, "maximum", sizes=TWO),
    Case("Eltwise", (normal(2, 3, 4),) * 4, {"operation": "MAX"}, "maximum of four"),
    Case("Softmax", (normal(2, 3, 4),), sizes=(((1, 2, 5),), ((4, 5, 6),))),
    Case("Softmax", (normal(2, 3, 4),), {"axis": -1}, "last axis"),
    Case("Softmax", (normal(5),), {"axis": 0}, "1-D"),
]
