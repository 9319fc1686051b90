"""Neurons, PReLU and those that draw random numbers; Power, Exp and Log."""

from __future__ import annotations

from layer_cases.case import Case, normal, uniform

SIZES = (((1, 3, 2),), ((4, 5, 6),))
KINK_AT_0 = {"kink": 0.0, "kink_range": 0.01}
BATCHES = (((1, 3, 4),), ((5, 3, 7),))


def neuron(kind, x=None, variant="", gradient=None, **fields):
    return Case(kind, (x or normal(2, 3, 4),), fields, variant, sizes=SIZES, gradient=gradient or {})


DRAWS = "each backend draws numbers of its own"

CASES = [
    neuron("ReLU", gradient=KINK_AT_0),
    neuron("ReLU", variant="leaky", gradient=KINK_AT_0, negative_slope=0.3),
    neuron("ReLU", variant="negative slope", gradient=KINK_AT_0, negative_slope=-0.3),
    neuron("Sigmoid"),
    neuron("TanH"),
    neuron("ELU", gradient=KINK_AT_0, alpha=1.7),
    neuron("ELU", variant="negative alpha", gradient=KINK_AT_0, alpha=-0.7),
    neuron("BNLL"),
    neuron("AbsVal", gradient=KINK_AT_0),
    neuron("Clip", gradient={"kink": 0.5, "kink_range": 0.01}, min=-0.5, max=0.5),
    neuron("Threshold", threshold=0.2),
    neuron("Swish", beta=1.7),
    neuron("Power", variant="identity"),
    neuron("Power", variant="linear", scale=-3.0, shift=2.0),
    neuron("Power", variant="square", power=2.0, scale=3.0, shift=-1.0),
    neuron("Power", uniform(0.2, 2, 2, 3, 4), "cube of x", power=3.0, scale=2.0),
    neuron("Power", uniform(0.2, 2, 2, 3, 4), "root", power=0.5, scale=2.0, shift=0.3),
    neuron("Power", variant="constant", power=0.0, shift=2.0),
    neuron("Power", variant="scale 0", power=3.0, scale=0.0, shift=2.0),
    neuron("Exp"),
    neuron("Exp", variant="base", base=3.0, scale=0.7, shift=0.4),
    neuron("Log", uniform(0.5, 3, 2, 3, 4)),
    neuron("Log", uniform(0.5, 3, 2, 3, 4), "base", base=3.0, scale=2.0, shift=0.4),
    Case("PReLU", (normal(2, 3, 4),), sizes=BATCHES, gradient=KINK_AT_0),
    Case(
        "PReLU", (normal(2, 3),), {"channel_shared": True}, "shared", sizes=(((1, 3),), ((5, 3),)), gradient=KINK_AT_0
    ),
    Case("PReLU", (normal(2, 3, 2, 2, 2),), {}, "5-D", gradient=KINK_AT_0),
    Case(
        "Dropout",
        (normal(2, 3, 4),),
        {"dropout_ratio": 0.3},
        "TRAIN",
        sizes=SIZES,
        why_not={"parity": "each backend draws a mask of its own"},
    ),
    Case("Dropout", (normal(2, 3, 4),), {"dropout_ratio": 0.3}, "TEST", phase="TEST", sizes=SIZES),
    Case("Dropout", (normal(2, 3, 4),), {"scale_train": False}, "unscaled in TEST", phase="TEST", sizes=SIZES),
    Case("SpatialDropout", (normal(2, 3, 4),), {"dropout_ratio": 0.4}, "TRAIN", sizes=SIZES, why_not={"parity": DRAWS}),
    Case("SpatialDropout", (normal(2, 3),), {"dropout_ratio": 0.4}, "TEST", phase="TEST", sizes=(((1, 3),), ((5, 2),))),
    Case(
        "Noise",
        (normal(2, 3, 4),),
        {"gaussian_std": 0.3, "bias": 1.0},
        "normal",
        sizes=SIZES,
        why_not={"parity": DRAWS},
    ),
    Case("Noise", (normal(2, 3),), {"uniform_range": 0.5}, "uniform", why_not={"parity": DRAWS}),
    Case("Noise", (normal(2, 3),), {"uniform_range": 0.5}, "TEST", phase="TEST"),
    Case(
        "Insanity",
        (normal(2, 3, 4),),
        {"lb": 2.0, "ub": 4.0},
        "TRAIN",
        sizes=SIZES,
        gradient=KINK_AT_0,
        why_not={"parity": DRAWS},
    ),
    Case("Insanity", (normal(2, 3, 4),), {}, "TEST", phase="TEST", sizes=SIZES, gradient=KINK_AT_0),
]
