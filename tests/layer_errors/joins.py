"""MaskPooling, MaskResize, MergeCrop; MAX pooling of pixels that are apart."""

from __future__ import annotations

from layer_errors.row import row

IMAGE, LARGER = (2, 3, 4, 5), (2, 3, 9, 9)

ROWS = [
    row("MaskPooling", None, r"a map \(N, 1, H, W\); found 2 3 .*2 1", (2, 3), (2, 1)),
    row("MaskResize", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3), output_height=2, output_width=2),
    row("MaskResize", None, r"the input has no pixels", (2, 3, 0, 4), output_height=2, output_width=2),
    row("MaskResize", "output_height", r"must be positive; found 0", IMAGE, output_width=3),
    row(
        "MaskResize",
        "factor_width",
        r"must be a finite number",
        IMAGE,
        output_width=3,
        output_height=3,
        factor_width=float("inf"),
    ),
    row("MaskResize", "output_width", r"must be positive; found 0", IMAGE, output_height=3),
    row(
        "MaskResize",
        "factor_height",
        r"leaves nothing of 4 pixels",
        IMAGE,
        output_height=1,
        output_width=1,
        factor_height=0.1,
    ),
    row(
        "MaskResize",
        "factor_width",
        r"leaves nothing of 5 pixels",
        IMAGE,
        output_height=1,
        output_width=1,
        factor_width=0.1,
    ),
    row("MergeCrop", "forward", r"two bottoms; found 3 values", IMAGE, LARGER, mergecrop_param={"forward": [True] * 3}),
    row(
        "MergeCrop", "backward", r"two bottoms; found 3 values", IMAGE, LARGER, mergecrop_param={"backward": [True] * 3}
    ),
    row("MergeCrop", None, r"same number of axes and items; found 2 3 4 5 .*3 3 9 9", IMAGE, (3, 3, 9, 9)),
    row("MergeCrop", None, r"at least as large as bottom 0; found 2 3 9 9 .*2 3 4 5", LARGER, IMAGE),
    row("MergeCrop", "operation", r"ADD needs the same number of channels", IMAGE, (2, 2, 9, 9), operation="ADD"),
    row("Pooling", "dilation", r"must be positive; found \[0\]", IMAGE, kernel_size=2, dilation=[0]),
]
