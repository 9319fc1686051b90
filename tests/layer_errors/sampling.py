"""Layers that read images between their pixels, those of optical flow; losses of forks, value by value."""

from __future__ import annotations

from layer_errors.row import row

IMAGE = (2, 3, 4, 5)
CORRELATED = {"kernel_size": 1, "max_displacement": 1}

ROWS = [
    row("FlowWarp", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3), (2, 2)),
    row("FlowWarp", None, r"2 channels and the size of the image; found 2 3 4 5 .*2 3 4 5", IMAGE, IMAGE),
    row("Transformer", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3), (2, 6)),
    row("Transformer", None, r"must hold 6 values for each image; found 2 3 4 5 .*2 5", IMAGE, (2, 5)),
    row("Resize", "height", r"must be positive; found 0", IMAGE, width=3),
    row("Resize", "width", r"must be positive; found 0", IMAGE, height=3),
    row("Resize", "out_height_scale", r"must be positive; found 0", IMAGE, is_pyramid_test=True),
    row("Resize", "out_height_scale", r"found inf", IMAGE, is_pyramid_test=True, out_height_scale=float("inf")),
    row("Resize", "out_width_scale", r"must be positive; found -1", IMAGE, is_pyramid_test=True, out_height_scale=1,
        out_width_scale=-1),
    row("Resize", None, r"must have 4 axes \(N, C, H, W\); found 2 3", (2, 3), height=3, width=3),
    row("Resample", "type", r"AREA is not in FlowNet2", IMAGE, resample_param={"type": "AREA"}),
    row("Resample", "height", r"must be positive without a second bottom; found 0", IMAGE, width=3),
    row("Resample", "width", r"must be positive without a second bottom; found 0", IMAGE, height=3),
    row("Resample", None, r"bottom 1 must have 4 axes; found 2 3", IMAGE, (2, 3)),
    row("Accum", "have_reference", r"needs another bottom", IMAGE, have_reference=True),
    row("Accum", "size_divisible_by", r"must be positive; found 0", IMAGE, size_divisible_by=0),
    row("Accum", None, r"must be \(N, C, H, W\) with one N; found 2 3 4 5 .*1 3 4 5", IMAGE, (1, 3, 4, 5)),
    row("ChannelNorm", None, r"must have channels; found 3 ", (3,)),
    row("Mean", "top", r"as many tops as bottoms; found 2", IMAGE, tops=2, value=[1.0]),
    row("Mean", "value", r"one number for each channel, or a file", IMAGE),
    row("Mean", "value", r"the mean does not fit into 2 3 4 5", IMAGE, value=[1.0, 2.0]),
    row("Mean", "file", r"missing\.binaryproto", IMAGE, file="missing.binaryproto"),
    row("Mean", None, r"must have channels; found 3 ", (3,), value=[1.0]),
    row("Correlation", "kernel_size", r"must be odd; found 2", IMAGE, IMAGE, kernel_size=2, max_displacement=1),
    row("Correlation", "max_displacement", r"must be given", IMAGE, IMAGE, kernel_size=1),
    row("Correlation", "stride_1", r"must be positive; found 0", IMAGE, IMAGE, stride_1=0, **CORRELATED),
    row("Correlation", "stride_2", r"must be positive; found 0", IMAGE, IMAGE, stride_2=0, **CORRELATED),
    row("Correlation", "single_direction", r"is of Correlation1D only", IMAGE, IMAGE, single_direction=1, **CORRELATED),
    row("Correlation", None, r"one shape \(N, C, H, W\); found 2 3 4 5 .*2 3 4 4", IMAGE, (2, 3, 4, 4), **CORRELATED),
    row("Correlation", "max_displacement", r"do not fit into 2 3 4 5 .*with pad 0", IMAGE, IMAGE, kernel_size=1,
        max_displacement=2),
    row("ChannelScale", "global_scale", r"gives a second top only if it is on; found 2", IMAGE, (2, 1, 4, 5), tops=2),
    row("ChannelScale", "param", r"must have lr_mult 0", IMAGE, (2, 1, 4, 5), global_scale=True, param=[{}]),
    row("ChannelScale", None, r"one weight for each item and position; found 2 3 4 5", IMAGE, IMAGE),
    row("BroadcastMul", None, r"one weight for each item and channel; found 2 3 4 5", IMAGE, (2, 4)),
    row("Gram", None, r"must have channels; found 3 ", (3,)),
    row("ConfidencePenaltyLoss", None, r"at least two items; found 1 3 ", (1, 3), (1,)),
    row("ConfidencePenaltyLoss", None, r"value number 1 .* 0 \.\. 2 among the labels", (2, 3), (2,), bad=(1, [0, 3])),
    row("CorrelationLoss", None, r"must have the same shape", (2, 3), (2, 2)),
    row("MultiLabelSigmoidLoss", None, r"same count; found 4 3 .*4 2", (4, 3), (4, 2)),
    row("L1Loss", None, r"same count; found 4 3 .*4 2", (4, 3), (4, 2)),
]  # fmt: skip
