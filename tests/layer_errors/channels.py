"""Axpy, ShuffleChannel, Flip, Slope; convolutions of single channels."""

from __future__ import annotations

from layer_errors.row import row
from layer_errors.vision import IMAGE, convolution, windowed

X = (2, 3, 4, 5)

ROWS = [
    row("Axpy", None, r"must have the same shape; found 2 3 4 5 .*2 3 4 4", (2, 3, 1, 1), X, (2, 3, 4, 4)),
    row("Axpy", None, r"one weight for each item and channel of bottom 1; found 2 4 1 1", (2, 4, 1, 1), X, X),
    row("Axpy", None, r"one weight for each item and channel of bottom 1; found 2 3 2 1", (2, 3, 2, 1), X, X),
    row("ShuffleChannel", None, r"must have channels; found 3 ", (3,)),
    row("ShuffleChannel", "group", r"must be positive; found 0", X, group=0),
    row("ShuffleChannel", "group", r"must divide the channels \(3\); found 2", X, group=2),
    row("Flip", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3)),
    row("Slope", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3)),
    *windowed("ConvolutionDepthwise"),
    *convolution("DepthwiseConvolution"),
    row("Pooling", "round_mode", r"says the opposite", IMAGE, kernel_size=2, round_mode="CEIL", ceil_mode=False),
    row("Convolution", "relu", r"only a fork of Caffe: Intel", IMAGE, kernel_size=2, num_output=2, relu=True),
]
