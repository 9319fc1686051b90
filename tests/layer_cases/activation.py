"""Neurons that forks added."""

from __future__ import annotations

from layer_cases.case import Case, normal, uniform
from layer_cases.neuron import KINK_AT_0, neuron

CASES = [
    neuron("ReLU6", uniform(1, 9, 2, 3, 4), gradient={"kink": 6.0, "kink_range": 0.01}),
    neuron("ReLU6", variant="leaky", gradient=KINK_AT_0, negative_slope=0.3),
    neuron("ReLU6", variant="negative slope", gradient=KINK_AT_0, negative_slope=-0.3),
    Case("ReLU6", (normal(2, 3),), {"relu_param": {"negative_slope": 0.1}}, "relu_param", gradient=KINK_AT_0),
    neuron("NegReLU", gradient=KINK_AT_0),
    neuron("SeLu", uniform(0.1, 2, 2, 3, 4), variant="positive"),
    Case(
        "SeLu",
        (normal(2, 3, 4),),
        {"alpha": 1.3},
        sizes=(((1, 3, 2),), ((4, 5, 6),)),
        gradient=KINK_AT_0,
        why_not={"in_place": "the fork's backward takes y for x in place, and nets were trained with that"},
    ),
    neuron("Mish", normal(2, 3, 4, scale=3)),
    neuron("HardSigmoid", uniform(-2, 2, 2, 3, 4)),
    neuron("HardSigmoid", uniform(-3, 0, 2, 3, 4), "below", {"kink": -2.5, "kink_range": 0.01}),
    Case("HardSigmoid", (uniform(-1, 1, 2, 3),), {"hardsigmoid_param": {"alpha": 0.3}}, "hardsigmoid_param"),
    neuron("Truncation", uniform(1, 4, 2, 3, 4)),
    neuron("Truncation", variant="bounds", gradient={"kink": 0.5, "kink_range": 0.01}, lower_bound=-9, upper_bound=0.5),
    neuron("SoftTruncation", c=1.5),
    neuron("Arccos", uniform(-0.9, 0.9, 2, 3, 4)),
    neuron("Cosine"),
]
