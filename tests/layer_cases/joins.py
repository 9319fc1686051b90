"""MaskPooling, MaskResize, MergeCrop; MAX pooling of pixels that are apart."""

from __future__ import annotations

from layer_cases.case import Case, distinct, normal
from layer_cases.vision import IMAGES

MAPS = (normal(2, 3, 4, 5), normal(2, 3, 7, 6))
HALF = "bottom 1 gets no gradient"

CASES = [
    Case(
        "MaskPooling",
        (normal(2, 3, 4, 5), normal(2, 1, 4, 5)),
        sizes=(((1, 2, 3, 3), (1, 1, 3, 3)), ((3, 4, 5, 6), (3, 1, 5, 6))),
    ),
    Case("MaskResize", (normal(2, 3, 4, 5),), {"output_height": 7, "output_width": 3}, sizes=IMAGES),
    Case(
        "MaskResize",
        (normal(2, 3, 4, 5),),
        {"output_height": 1, "output_width": 1, "factor_height": 3.0, "factor_width": 0.5},
        "factors",
        sizes=IMAGES,
    ),
    Case("MergeCrop", MAPS, {"mergecrop_param": {"backward": [True, True]}}, sizes=(((1, 2, 3, 3), (1, 4, 4, 3)),)),
    Case("MergeCrop", MAPS, variant="one gradient", why_not={"gradient": HALF}),
    Case("MergeCrop", MAPS, {"mergecrop_param": {"operation": "ADD", "backward": [True, True]}}, "sum"),
    Case(
        "MergeCrop",
        (normal(2, 3, 2, 3, 4), normal(2, 2, 4, 3, 5)),
        {"mergecrop_param": {"forward": [False, True], "backward": [False, True]}},
        "3-D, one side",
    ),
    Case("Pooling", (distinct(2, 3, 7, 6),), {"kernel_size": 2, "dilation": [2]}, "dilation"),
    Case(
        "Pooling",
        (distinct(2, 3, 9, 8),),
        {"kernel_h": 3, "kernel_w": 2, "stride": 2, "pad": 1, "dilation": [2, 3]},
        "dilation, stride and pad",
        tops=2,
        why_not={"gradient": "the second top is the place of the maximum"},
    ),
]
