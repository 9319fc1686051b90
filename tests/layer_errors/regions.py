"""Layers of two-stage detectors."""

from __future__ import annotations

from layer_errors.row import row

IMAGE, ROIS = (2, 8, 5, 6), (3, 5)
GRID = {"pooled_h": 2, "pooled_w": 2}
GROUPS = {"output_dim": 2, "group_size": 2, "spatial_scale": 1}
HEADS = ((1, 18, 2, 3), (1, 36, 2, 3), (1, 3))
SMOOTHED = (IMAGE, (2, 1, 5, 6), (2, 2))
FAR = (1, [[0, 1, 1, 9, 9]] * 3)


def corners_with_nan(k):
    rois = [[0, 0, 0, 1, 1] for _ in range(3)]
    rois[1][k] = float("nan")
    return rois


ROWS = [
    *(
        row(kind, None, r"numbers; found NaN in region 1", IMAGE, ROIS, bad=(1, corners_with_nan(k)), **options)
        for kind, options in (("ROIPooling", GRID), ("PSROIPooling", GROUPS), ("ROIAlign", {"roi_pooling_param": GRID}))
        for k in range(1, 5)
    ),
    row("ROIPooling", "pooled_h", r"must be positive; found 0", IMAGE, ROIS, pooled_w=2),
    row("ROIPooling", "pooled_w", r"must be positive; found 0", IMAGE, ROIS, pooled_h=2),
    row("ROIPooling", "spatial_scale", r"must be positive; found -2", IMAGE, ROIS, spatial_scale=-2, **GRID),
    row("ROIPooling", "spatial_scale", r"shares of the image.*found others.*spatial_scale: 1", IMAGE, ROIS, bad=FAR, **GRID),
    row("ROIPooling", "ringpad", r"is not supported", IMAGE, ROIS, ringpad=True, **GRID),
    row("ROIPooling", "pad_ratio", r"must be a number; found inf", IMAGE, ROIS, pad_ratio=float("inf"), **GRID),
    row("ROIPooling", None, r"must have 4 axes.*found 2 8 ", (2, 8), ROIS, **GRID),
    row("ROIPooling", None, r"rows \(item, x1, y1, x2, y2\); found 3 4 ", IMAGE, (3, 4), **GRID),
    row("ROIPooling", None, r"value number 1 .*0 \.\. 1 among the items of regions; found 2", IMAGE, ROIS,
        bad=(1, [[0] * 5, [2] + [0] * 4, [0] * 5]), **GRID),
    row("PSROIPooling", "output_dim", r"must be positive; found 0", IMAGE, ROIS, group_size=2, spatial_scale=1),
    row("PSROIPooling", "group_size", r"must be positive; found 0", IMAGE, ROIS, output_dim=2, spatial_scale=1),
    row("PSROIPooling", "spatial_scale", r"must be positive; found 0", IMAGE, ROIS, output_dim=2, group_size=2),
    row("PSROIPooling", "output_dim", r"channels, 8; found 2 9 5 6", (2, 9, 5, 6), ROIS, **GROUPS),
    row("PSROIPooling", "trans_std", r"of DeformablePSROIPooling", IMAGE, ROIS, trans_std=0.1, **GROUPS),
    row("PSROIPooling", None, r"rows \(item, x1, y1, x2, y2\); found 3 4 ", IMAGE, (3, 4), **GROUPS),
    row("ROIAlign", "spatial_scale", r"must be positive; found -1", IMAGE, ROIS,
        roi_pooling_param={"spatial_scale": -1, **GRID}),
    row("ROIAlign", "pad_ratio", r"must be a number; found nan", IMAGE, ROIS,
        roi_pooling_param={"pad_ratio": float("nan"), **GRID}),
    row("ROIAlign", "pooled_h", r"must be positive; found 0", IMAGE, ROIS),
    row("ROIAlign", None, r"roi_align_param is of a ROIAlign that averages", IMAGE, ROIS,
        roi_align_param={"pooled_h": 2, "pooled_w": 2}),
    row("SoftmaxWithLossOHEM", "axis", r"axis 2 out of range", (2, 3), (2,), axis=2),
    row("SoftmaxWithLossOHEM", None, r"number of labels must match", (2, 3), (2, 3)),
    *(
        row(loss, "pre_fixed_normalizer", r"must be positive; found nan", (2, 3), (2,) if labels else (2, 3),
            loss_param={"normalization": "PRE_FIXED", "pre_fixed_normalizer": float("nan")})
        for loss, labels in (("SoftmaxWithLoss", True), ("SigmoidCrossEntropyLoss", False), ("InfogainLoss", True),
                             ("FocalLoss", True))
    ),
    row("SoftmaxWithLossOHEM", "pre_fixed_normalizer", r"must be positive; found 0", (2, 3), (2,),
        loss_param={"normalization": "PRE_FIXED", "pre_fixed_normalizer": 0}),
    row("SmoothL1LossOHEM", "pre_fixed_normalizer", r"must be positive; found -1", (2, 3), (2, 3),
        loss_param={"normalization": "PRE_FIXED", "pre_fixed_normalizer": -1}),
    row("SmoothL1LossOHEM", None, r"must be \(N, C, …\); found 2 ", (2,), (2,)),
    row("BoxAnnotatorOHEM", "roi_per_img", r"must be positive; found 0", (2, 5), (2, 1), (2, 1), (2, 4)),
    row("BoxAnnotatorOHEM", None, r"\(R, 5, …\).*found 2 5 .*3 1 ", (2, 5), (3, 1), (2, 1), (2, 4), roi_per_img=1),
    *(
        row("Proposal", field, problem, *HEADS, proposal_param={field: value})
        for field, value, problem in (
            ("feat_stride", 0, r"must be positive; found 0"),
            ("base_size", 0, r"must be positive; found 0"),
            ("nms_thresh", float("nan"), r"must be positive; found nan"),
            ("ratio", [1, 0], r"must be positive numbers; found \[1.0, 0.0\]"),
            ("scale", [-1], r"must be positive numbers; found \[-1.0\]"),
            ("min_size", float("inf"), r"must be a number; found inf"),
        )
    ),
    row("Proposal", None, r"max_rois: of another port", *HEADS, max_rois=3),
    row("Proposal", None, r"\(1, 18, H, W\) and the codes \(1, 36, H, W\); found 1 4 2 3 ", (1, 4, 2, 3), *HEADS[1:]),
    row("Proposal", None, r"must be \(1, 3\); found 1 2 ", *HEADS[:2], (1, 2)),
    row("DomainTransform", "num_iter", r"must lie in 1 \.\. 50; found 0", *SMOOTHED, num_iter=0),
    row("DomainTransform", "num_iter", r"must lie in 1 \.\. 50; found 1200", *SMOOTHED, num_iter=1200),
    row("DomainTransform", "spatial_sigma", r"must be positive; found 0", *SMOOTHED, spatial_sigma=0),
    row("DomainTransform", "range_sigma", r"must be positive; found -1", *SMOOTHED, range_sigma=-1),
    row("DomainTransform", "min_weight", r"must not be negative; found -1", *SMOOTHED, min_weight=-1),
    row("DomainTransform", None, r"and \(N, 1, H, W\); found 2 8 5 6 .*2 1 5 5", IMAGE, (2, 1, 5, 5), (2, 2)),
    row("DomainTransform", None, r"\(N, 2\); found 2 1 ", *SMOOTHED[:2], (2, 1)),
    row("DomainTransform", None, r"0 \.\. 5 among the heights", *SMOOTHED, bad=(2, [[6, 6], [5, 6]])),
]  # fmt: skip
