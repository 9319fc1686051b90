"""Layers of segmentation nets."""

from __future__ import annotations

import numpy as np

from layer_errors.row import row

IMAGE, MAP = (2, 3, 4, 5), (2, 1, 4, 5)
CRF = {"spatial_filter_weights_str": "1 2 3", "bilateral_filter_weights_str": "2 1 0.5"}
WEIGHED = {"weight_by_label_freqs": True}

ROWS = [
    row("BN", "scale_filler", r"is of another BN: .*PSPNet .*SegNet", IMAGE, scale_filler={}, momentum=0.9),
    row("BN", "blobs", r"needs 4 blobs of 3 values; found 1", IMAGE, blobs=[{"shape": {"dim": [3]}, "data": [1.0] * 3}]),
    row("BN", "var_eps", r"is of another BN", IMAGE, var_eps=1e-4),
    row("BN", "decay", r"is of another BN", IMAGE, decay=0.1, scale_filler={}),
    row("BN", "eps", r"must not be negative; found -1", IMAGE, eps=-1),
    row("BN", None, r"at least 2 axes; found 3 ", (3,)),
    row("BN", None, r"must keep 3 channels; found 2 4 4 5", IMAGE, later=((2, 4, 4, 5),)),
    row("BN", None, r"without values has no mean", IMAGE, later=((0, 3, 4, 5),)),
    row("BN", "bn_mode", r"it has one top", IMAGE, bn_mode="INFERENCE", tops=2),
    row("Interp", "pad_beg", r"must not be positive.* found 1", IMAGE, zoom_factor=2, pad_beg=1),
    row("Interp", "pad_end", r"must not be positive.* found 2", IMAGE, zoom_factor=2, pad_end=2),
    row("Interp", "pad_beg", r"leave nothing of 2 3 4 5", IMAGE, zoom_factor=2, pad_beg=-4),
    row("Interp", "zoom_factor", r"must be positive; found 0", IMAGE, zoom_factor=0),
    row("Interp", "shrink_factor", r"must be positive; found -1", IMAGE, shrink_factor=-1),
    row("Interp", "height", r"must be positive; found 0", IMAGE, height=0, width=3),
    row("Interp", "height", r"give height and width, or zoom_factor", IMAGE, height=3),
    row("Interp", "interp_type", r"one of bilinear, nearest_neighbor; found 'cubic'", IMAGE, zoom_factor=2,
        interp_type="cubic"),
    row("Interp", None, r"must have 4 axes; found 2 3", (2, 3), zoom_factor=2),
    row("Upsample", "upsample_h", r"must be given together", IMAGE, IMAGE, upsample_h=8),
    row("Upsample", "scale_h", r"must be given together", IMAGE, IMAGE, scale_h=2),
    row("Upsample", "scale", r"give upsample_h and upsample_w, or scale", IMAGE, IMAGE),
    row("Upsample", "scale", r"give upsample_h and upsample_w, or scale", IMAGE, IMAGE, scale=2, scale_h=2, scale_w=2),
    row("Upsample", "pad_out_h", r"needs a scale of 2; found 3", IMAGE, IMAGE, scale=3, pad_out_h=True),
    row("Upsample", None, r"a mask of that shape; found 2 3 4 5 .*2 1 4 5", IMAGE, MAP, scale=2),
    row("Upsample", None, r"the mask says pixel 80 of maps of 8 x 10", IMAGE, IMAGE, scale=2, bad=(1, [[[[80.0] * 5] * 4] * 3] * 2)),
    row("MultiStageMeanfield", "num_iterations", r"2 at least; found 1", *[(2, 3, 4, 5)] * 3, **CRF),
    row("MultiStageMeanfield", "theta_beta", r"must be positive; found 0", *[IMAGE] * 3, num_iterations=2, theta_beta=0,
        **CRF),
    row("MultiStageMeanfield", "ho_potentials_enabled", r"is of torrvision/caffe-tvg", *[IMAGE] * 3, num_iterations=2,
        ho_potentials_enabled=True, **CRF),
    row("MultiStageMeanfield", "spatial_filter_weights_str", r"each of 4 classes; found 3", *[(2, 4, 4, 5)] * 3,
        num_iterations=2, **CRF),
    row("MultiStageMeanfield", "bilateral_filter_weights_str", r"must hold numbers.*x", *[IMAGE] * 3, num_iterations=2,
        **CRF | {"bilateral_filter_weights_str": "1 x 2"}),
    row("MultiStageMeanfield", None, r"scores must be \(N, C, H, W\); found 2 3 ", (2, 3), (2, 3), IMAGE, num_iterations=2, **CRF),
    row("MultiStageMeanfield", None, r"images \(N, 3, H, W\) of their size; found 2 3 4 5 .*2 1 4 5", IMAGE, IMAGE, MAP,
        num_iterations=2, **CRF),
    row("MultiStageMeanfield", None, r"must be numbers below 1e\+08", *[IMAGE] * 3, num_iterations=2, **CRF,
        bad=(2, np.full(IMAGE, np.nan))),
    row("SegAccuracy", None, r"labels \(N, 1, H, W\); found 2 3 4 5 .*2 3 4 5", IMAGE, IMAGE),
    row("SegAccuracy", None, r"label 3 is no whole number in 0 .. 2", IMAGE, MAP, bad=(1, [[[[3.0] * 5] * 4]] * 2)),
    row("SegAccuracy", None, r"label 0.5 is no whole number in 0 .. 2", IMAGE, MAP, bad=(1, [[[[0.5] * 5] * 4]] * 2)),
    row("SpatialProduct", None, r"a map \(N, 1, H, W\); found 2 3 4 5 .*2 3 4 5", IMAGE, IMAGE),
    row("BiasChannel", "label_type", r"is not known here", IMAGE, (2, 2), label_type=1),
    row("BiasChannel", None, r"labels of N images; found 2 3 4 5 .*3 2", IMAGE, (3, 2)),
    row("BiasChannel", None, r"label 3 is no whole number in 0 .. 2", IMAGE, (2, 1), bad=(1, [[3.0], [0.0]])),
    row("UniqueLabel", "max_labels", r"must be given, and positive; found 0", MAP),
    row("UniqueLabel", None, r"needs a map for each image", (), max_labels=3),
    row("UniqueLabel", "max_labels", r"may be 1048576 at most; found 2000000", MAP, max_labels=2000000),
    row("UniqueLabel", "force_label", r"is not known here", MAP, max_labels=3, force_label=True),
    row("UniqueLabel", "max_labels", r"has 20 labels: more than 3", MAP, max_labels=3, bad=(0, [[[[float(5 * h + w) for w in range(5)] for h in range(4)]]] * 2)),
    row("DiceCoefLoss", "generalization", r"must be NONE or MULTICLASS", IMAGE, MAP,
        generalization="MULTICLASS_WEIGHTED"),
    row("DiceCoefLoss", "contour_shape", r"is not known here", IMAGE, MAP, contour_shape=True),
    *(
        row("DiceCoefLoss", None, rf"an integer in 0 \.\. 2 .*among the labels; found {label}", IMAGE, MAP, ignore_label=7,
            bad=(1, np.full(MAP, label)))
        for label in (np.nan, 0.5, 3, -1)
    ),
    row("DiceCoefLoss", None, r"or one shape; found 2 3 4 5 .*2 2 4 5", IMAGE, (2, 2, 4, 5)),
    row("SoftmaxWithLoss", "class_weighting", r"each of the 3 classes; found 1", IMAGE, MAP,
        loss_param={**WEIGHED, "class_weighting": [1.0]}),
]  # fmt: skip
