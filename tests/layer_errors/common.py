"""Weights, broadcasts, element-wise layers and neurons."""

from __future__ import annotations

from layer_errors.row import row

BLOB = [{"shape": {"dim": [2]}, "data": [0.0, 0.0]}]


def broadcast(kind):
    yield row(kind, "axis", r"axis 3 out of range for 2-D", (2, 3), axis=3)
    yield row(kind, "num_axes", r"4 axes from axis 1 on go beyond shape 2 3 4 5", (2, 3, 4, 5), axis=1, num_axes=4)
    yield row(kind, "num_axes", r"must be -1 or more; found -2", (2, 3), num_axes=-2)
    yield row(kind, "axis", r"input's axes from 1 on must have the sizes \[4\]; found 2 3 4", (2, 3, 4), (4,))
    yield row(kind, "axis", r"must have the sizes \[2, 3, 1\]; found 2 3 ", (2, 3), (2, 3, 1), axis=0)
    yield row(kind, "axis", r"must have the sizes \[3\]; found 2 4 ", (2, 3), later=((2, 4),))


def logarithmic(kind):
    yield row(kind, "base", r"must be positive, or -1 for e; found 0", (2,), base=0.0)
    yield row(kind, "base", r"must be positive, or -1 for e; found -3", (2,), base=-3.0)
    yield row(kind, "base", r"must be positive, or -1 for e; found inf", (2,), base=float("inf"))


ROWS = [
    row("InnerProduct", "num_output", r"must be positive; found 0", (2, 3)),
    row("InnerProduct", "axis", r"axis 2 out of range for 2-D", (2, 3), num_output=4, axis=2),
    row(
        "InnerProduct",
        None,
        r"must keep 3 values a row from axis 1 on; found 2 4 ",
        (2, 3),
        num_output=4,
        later=((2, 4),),
    ),
    row("Embed", "num_output", r"must be positive; found 0", (2,), input_dim=3),
    row("Embed", "input_dim", r"must be positive; found 0", (2,), num_output=3),
    row(
        "Embed",
        None,
        r"value number 1 .* not an integer in 0 \.\. 2; check input_dim",
        (2,),
        input_dim=3,
        num_output=2,
        bad=(0, [0, 3]),
    ),
    row("Parameter", "shape", r"must not be negative; found \[2, -1\]", shape={"dim": [2, -1]}),
    row("TrainableData", "shape", r"must not be negative; found \[2, -1\]", shape=[2, -1]),
    row("EltwiseAffine", None, r"must have channels; found 3 ", (3,)),
    row("SpatialDropout", None, r"must have channels; found 3 ", (3,)),
    row("SpatialDropout", "dropout_ratio", r"must lie in \[0, 1\); found 1", (2, 3), dropout_ratio=1.0),
    row("Noise", "gaussian_std", r"must not be negative, and finite; found -1", (2,), gaussian_std=-1.0),
    row("Insanity", "lb", r"needs lb < ub, of one sign; found -1 and 2", (2,), lb=-1.0, ub=2.0),
    row("InfimumLoss", None, r"a mean needs values; found 0 3 ", (0, 3)),
    *(
        row("BatchReduction", field, problem, (4, 3), batch_reduction_param=options)
        for field, problem, options in (
            ("reduction_param", r"must be SUM, MEAN or TOPK", {"reduction_param": {"operation": "ASUM"}}),
            ("reduction_param", r"has no coeff", {"reduction_param": {"coeff": 2.0}}),
            ("reduction_param", r"axis 2 out of range", {"reduction_param": {"axis": 2}}),
            ("reduction_param", r"k must lie in 1 .. 4; found 5", {"reduction_param": {"operation": "TOPK", "k": 5}}),
            (
                "reduction_param",
                r"TOPK takes a single level",
                {"level": [1, 1], "reduction_param": {"operation": "TOPK"}},
            ),
            ("pos", r"takes a single level at most", {"level": [1, 1], "pos": True}),
            ("pos", r"axes 0 and 1 must be equally long; found 4 3", {"pos": True}),
            ("level", r"must be positive; found \[0\]", {"level": [0]}),
            ("level", r"squares of the levels must add up to 4, .* found \[2, 1\]", {"level": [2, 1]}),
        )
    ),
    row("BatchReduction", None, r"axis 0 is empty; found 0 3", (0, 3)),
    *broadcast("Bias"),
    *broadcast("Scale"),
    row("Scale", None, r"the bias has shape 3 .*, the factors 4 ", (2, 3), (3,), bias_term=True, later=((2, 4), (4,))),
    row(
        "InnerProduct", "transpose", r"does not go with normalize", (2, 3), num_output=2, transpose=True, normalize=True
    ),
    row("Eltwise", "coeff", r"must be given for each of the 2 bottoms", (2, 3), (2, 3), coeff=1.0),
    row("Eltwise", "coeff", r"only SUM takes coefficients", (2, 3), (2, 3), operation="PROD", coeff=[1.0, 1.0]),
    row("Eltwise", None, r"must have the same shape; found 2 3 .*3 2", (2, 3), (3, 2)),
    row("Softmax", "axis", r"axis 2 out of range for 2-D", (2, 3), axis=2),
    row("Softmax", "axis", r"needs at least one score along it; found 2 0 ", (2, 0)),
    row("Clip", "max", r"must be given", (2,), min=1.0),
    row("Clip", "min", r"must be given", (2,), max=1.0),
    *logarithmic("Exp"),
    *logarithmic("Log"),
    row("Log", "base", r"must not be 1", (2,), base=1.0),
    row("Dropout", "dropout_ratio", r"must lie in \[0, 1\); found 1", (2,), dropout_ratio=1.0),
    row("Dropout", "dropout_ratio", r"must lie in \[0, 1\); found -0\.5", (2,), dropout_ratio=-0.5),
    row("PReLU", None, r"at least 2 axes; found 4 ", (4,)),
    row("PReLU", "blobs", r"must hold 3 slopes; found \[\(2,\)\]", (2, 3), blobs=BLOB),
    row("PReLU", None, r"keep 3 channels; found 2 4 ", (2, 3), later=((2, 4),)),
]
