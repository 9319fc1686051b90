"""Axpy, ShuffleChannel, Flip, Slope; convolutions of single channels."""

from __future__ import annotations

from layer_cases.case import Case, normal
from layer_cases.vision import IMAGES, convolutions

CASES = [
    Case(
        "Axpy",
        (normal(2, 3, 1, 1), normal(2, 3, 4, 5), normal(2, 3, 4, 5)),
        sizes=(((1, 2, 1, 1), (1, 2, 3, 3), (1, 2, 3, 3)), ((3, 4, 1, 1), (3, 4, 5, 6), (3, 4, 5, 6))),
    ),
    Case("Axpy", (normal(2, 3), normal(2, 3), normal(2, 3)), variant="2-D"),
    Case("ShuffleChannel", (normal(2, 6, 2, 3),), {"group": 3}, sizes=(((1, 3, 2, 2),), ((3, 9, 4, 3),))),
    Case("ShuffleChannel", (normal(2, 4),), {"group": 2}, "2-D"),
    Case("Flip", (normal(2, 3, 4, 5),), sizes=IMAGES),
    Case("Flip", (normal(2, 3, 4, 5),), {"flip_width": False, "flip_height": True}, "upside down"),
    Case("Slope", (normal(2, 3, 4, 5),), sizes=IMAGES),
    Case("ConvolutionDepthwise", (normal(2, 4, 6, 5),), {"kernel_size": 3}, sizes=IMAGES),
    Case(
        "ConvolutionDepthwise",
        (normal(2, 3, 7, 6),),
        {"kernel_size": [3, 2], "stride": 2, "pad": 1, "dilation": 2, "bias_term": False, "num_output": 9},
        "stride, dilation",
    ),
    *convolutions("DepthwiseConvolution"),
]
