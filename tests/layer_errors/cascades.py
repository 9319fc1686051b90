"""Layers of MS-CNN and Cascade R-CNN."""

from __future__ import annotations

from layer_errors.row import row

CODES = {"bbox_reg_param": {"bbox_mean": [0, 0, 0, 0], "bbox_std": [1, 1, 1]}}
NOT_FOUR = r"give four bbox_mean and four bbox_std; found 4 and 3"
FIELD = {"field_w": 8, "field_h": 8, "downsample_rate": 4}
FIELDS = {"field_w": [8, 9], "field_h": [8, 9], "stride": 4}
MAPS = ((1, 7, 2, 3), (1, 6, 2, 3))
GROUPS = ((2, 3, 2, 3), (2, 4, 2, 3), (2, 6, 2, 3))
PAIR = ((2, 3, 2, 3), (2, 4, 2, 3))
BAD_LABEL = [[[[7] * 3] * 2] + [[[0] * 3] * 2] * 5]
TARGETS = ((3, 5), (2, 8))


def of_map(kind, **options):
    """Rows of what takes a map and its ground truth."""
    return [
        row(kind, "cls_num", r"must be given, 2 or more; found 0", *MAPS, **FIELD),
        row(kind, "objectness", r"needs cls_num: 2; found 3", *MAPS, cls_num=3, objectness=True, **FIELD),
        row(kind, "coord_num", r"must be 4; found 5", *MAPS, cls_num=3, coord_num=5, **FIELD),
        row(kind, "field_w", r"must be given, and positive", *MAPS, cls_num=3, field_h=8, downsample_rate=4),
        row(kind, "field_whr", r"must be at least 1; found 0", *MAPS, cls_num=3, field_whr=0, **FIELD),
        row(kind, "field_xyr", r"must be", *MAPS, cls_num=3, field_xyr=-1, **FIELD),
        row(kind, None, r"\(N, 6, H, W\) .*found 1 5 2 3 ", MAPS[0], (1, 5, 2, 3), cls_num=3, **FIELD),
        row(kind, "cls_num", r"cls_num \+ 4 channels, 6; found 1 7 2 3", *MAPS, cls_num=2, **FIELD),
        row(kind, None, NOT_FOUR, *MAPS, **CODES, **{options["param"]: {"cls_num": 3, **FIELD}}),
        row(kind, "bbox_std", r"must be positive numbers; found \[1.0, 1.0, 0.0, 1.0\]", *MAPS,
            bbox_reg_param={"bbox_mean": [0] * 4, "bbox_std": [1, 1, 0, 1]}, **{options["param"]: {"cls_num": 3, **FIELD}}),
    ]  # fmt: skip


def of_groups(kind):
    """Rows of what takes maps of groups of fields."""
    return [
        row(kind, "cls_num", r"must be given, 2 or more; found 0", *GROUPS, **FIELDS),
        row(kind, "cls_num", r"must have cls_num channels, 4; found 2 3 2 3", *GROUPS, cls_num=4, **FIELDS),
        row(kind, "objectness", r"needs cls_num: 2; found 3", *GROUPS, cls_num=3, objectness=True, **FIELDS),
        row(kind, "stride", r"must be given, and positive", *GROUPS, cls_num=3, field_w=[8, 9], field_h=[8, 9]),
        row(kind, "field_whr", r"must be at least 1; found 0", *GROUPS, cls_num=3, field_whr=0, **FIELDS),
        row(kind, "field_xyr", r"must be positive; found 0", *GROUPS, cls_num=3, field_xyr=0, **FIELDS),
        row(kind, None, r"one for each group; found \[8\] and \[8, 9\]", *GROUPS, cls_num=3,
            field_w=[8], field_h=[8, 9], stride=4),
        row(kind, None, r"codes \(N 2, 4, H, W\); found 2 3 2 3 .*2 5 2 3 ", GROUPS[0], (2, 5, 2, 3), GROUPS[2],
            cls_num=3, **FIELDS),
    ]  # fmt: skip


def selecting(kind, shapes, **options):
    """Rows of what drops boxes that overlap others."""
    return [
        row(kind, "iou_thr", r"must not be negative; found -1", *shapes, iou_thr=-1, **options),
        row(kind, "nms_type", r"must be one of IOU, IOMU, IOFU; found 'iou'", *shapes, nms_type="iou", **options),
    ]


FOUND = ((3, 2), (3, 8), (3, 5), (1, 2))

ROWS = [
    row("ProposalTarget", None, r"regions must be rows of 5, \(R, 5\); found 3 4 ", (3, 4), (2, 8), cls_num=2),
    row("ProposalTarget", None, r"ground truth must be rows of 7 or 8.*found 2 6 ", (3, 5), (2, 6), cls_num=2),
    row("ProposalTarget", None, r"more than 32.*found 20 and 40", *TARGETS, cls_num=2, img_width=20, img_height=40,
        bad=(1, [[-1] * 8] * 2), fg_thr=0.5, bg_thr_lw=0.1, pickup_discard=False),
    row("ProposalTarget", None, r"the ground truth must be numbers; found NaN", *TARGETS, cls_num=2,
        bad=(1, [[float("nan")] * 8] * 2)),
    row("ProposalTarget", "cls_num", r"must be given, 2 or more; found 0", *TARGETS),
    row("ProposalTarget", "cls_num", r"found the label 5 in the ground truth; expected 1 \.\. 1", *TARGETS, cls_num=2,
        bad=(1, [[0, 0, 0, 9, 9, 5, 0, 0]] * 2)),
    row("ProposalTarget", "batch_size", r"must be positive, or -1 for all; found 0", *TARGETS, cls_num=2, batch_size=0),
    row("ProposalTarget", "fg_fraction", r"lies in 0 \.\. 1; found 2", *TARGETS, cls_num=2, fg_fraction=2),
    row("ProposalTarget", "num_img_per_batch", r"must be positive", *TARGETS, cls_num=2, num_img_per_batch=0),
    row("ProposalTarget", "num_img_per_batch", r"found an item \[5\.\] beyond it", *TARGETS, cls_num=2,
        bad=(0, [[5, 0, 0, 9, 9]] * 3)),
    row("ProposalTarget", "fg_thr", r"must be at least bg_thr_hg, 0.5; found 0.4", *TARGETS, cls_num=2, fg_thr=0.4),
    row("DecodeBBox", None, r"codes must be rows of 8, \(R, 8\); found 3 4 ", (3, 4), (3, 5)),
    row("DecodeBBox", None, r"equally many rows; found 3 8 .*2 5 ", (3, 8), (2, 5)),
    row("DecodeBBox", None, r"no box is left of 3 regions", (3, 8), (3, 5), bad=(1, [[0, 9, 9, 0, 0]] * 3)),
    row("DecodeBBox", "bottom", r"in the TRAIN phase only", (3, 8), (3, 5), (3, 6), phase="TEST"),
    row("ScaleRoute", None, r"needs a region with an area; found 3 without", (3, 5), bad=(0, [[0, 9, 9, 0, 0]] * 3),
        low_scale=9, high_scale=99),
    row("ScaleRoute", "low_scale", r"must be positive", (3, 5), low_scale=0),
    row("ScaleRoute", "high_scale", r"must be at least low_scale; found 5", (3, 5), low_scale=9, high_scale=5),
    row("HardMining", None, r"losses must be rows of 1, \(R, 1\); found 3 2 ", (3, 2), (3, 5)),
    row("HardMining", "top", r"takes 2 bottoms for 1 tops; found 3", (3, 1), (3, 5), (3, 2)),
    row("HardMining", "num_image", r"must be positive", (3, 1), (3, 5), num_image=0),
    row("HardMining", "num_image", r"found an item \[2\.\] beyond it", (3, 1), (3, 5), num_image=2,
        bad=(1, [[2, 0, 0, 1, 1]] * 3)),
    row("BboxAccuracy", None, r"objects must be rows of 6, \(R, 6\); found 3 5 ", (3, 8), (3, 5), (3, 5)),
    row("BboxAccuracy", None, r"found the label 2, but no codes for it", (3, 8), (3, 5), (3, 6),
        bad=(2, [[2, 0, 0, 1, 1, 0]] * 3)),
    row("BboxAccuracy", "cls_aware", r"codes must be \(R, 8\); found 3 12 ", (3, 12), (3, 5), (3, 6),
        bbox_reg_param={"cls_aware": False}),
    *selecting("BoxOutput", MAPS[:1], **{name: [value] for name, value in FIELD.items()}),
    row("BoxOutput", "field_xyr", r"must be positive; found 0", MAPS[0], field_xyr=0),
    row("BoxOutput", "field_whr", r"must be at least 1; found 0.5", MAPS[0], field_whr=0.5),
    row("BoxOutput", "downsample_rate", r"must be positive, one for each bottom; found \[\]", MAPS[0],
        field_w=[8], field_h=[8]),
    row("BoxOutput", None, r"one for each of the 1 bottoms; found \[\] and \[\]", MAPS[0]),
    row("BoxOutput", None, r"of two classes or more; found 1 5 2 3 ", (1, 5, 2, 3),
        **{name: [value] for name, value in FIELD.items()}),
    *selecting("BoxGroupOutput", PAIR, box_group_param=[FIELDS]),
    row("BoxGroupOutput", "field_xyr", r"must be positive; found 0", *PAIR, field_xyr=0),
    row("BoxGroupOutput", "field_whr", r"must be at least 1; found 0.5", *PAIR, field_whr=0.5),
    row("BoxGroupOutput", "box_group_param", r"once for each pair of the 2 bottoms; found 0", *PAIR),
    row("BoxGroupOutput", "box_group_param", r"stride must be given", *PAIR,
        box_group_param=[{"field_w": [8], "field_h": [8]}]),
    row("BoxGroupOutput", None, r"codes \(N 2, 4, H, W\); found 3 3 2 3 .*3 4 2 3 ", (3, 3, 2, 3), (3, 4, 2, 3),
        box_group_param=[FIELDS]),
    *selecting("FrcnnOutput", FOUND),
    row("FrcnnOutput", None, r"regions must be rows of 5 or 6.*found 3 4 ", *FOUND[:2], (3, 4), (1, 2)),
    row("FrcnnOutput", None, r"height and width must be \(1, 2\).*found 2 2 ", *FOUND[:3], (2, 2)),
    row("FrcnnOutput", None, r"regions of one image, item 0", *FOUND, bad=(2, [[1, 0, 0, 1, 1]] * 3)),
    row("FrcnnOutput", None, r"a region that is turned inside out", *FOUND, bad=(2, [[0, 5, 0, 1, 1]] * 3)),
    *of_map("DetectionLoss", param="detection_loss_param"),
    *of_map("Detection", param="detection_param"),
    *of_map("DetectionAccuracy", param="detection_accuracy_param"),
    *(
        row(kind, "cls_num", r"found the label 7 in the ground truth; expected 0 \.\. 2", *MAPS, bad=(1, BAD_LABEL),
            cls_num=3, **FIELD)
        for kind in ("DetectionLoss", "Detection")
    ),
    row("DetectionAccuracy", "top_k", r"lies in 1 \.\. cls_num; found 4", *MAPS, cls_num=3, top_k=4, **FIELD),
    *of_groups("DetectionGroupLoss"),
    *of_groups("DetectionGroupAccuracy"),
    row("DetectionGroupLoss", "batch_size", r"must be positive, or -1; found 0", *GROUPS, cls_num=3, batch_size=0,
        **FIELDS),
    *(
        row("DetectionGroupLoss", field, r"must be one of .*; found 'other'", *GROUPS, cls_num=3, **{field: "other"}, **FIELDS)
        for field in ("neg_mining_type", "neg_ranking_type", "bbox_loss_type")
    ),
    row("SoftmaxWithWeightedLoss", None, r"as many weights as labels; found 3 .*2 ", (2, 3), (2,), (3,)),
    row("SoftmaxWithWeightedLoss", "axis", r"axis 2 out of range", (2, 3), (2,), axis=2),
    row("SoftmaxWithWeightedLoss", "pre_fixed_normalizer", r"must be positive; found 0", (2, 3), (2,),
        loss_param={"normalization": "PRE_FIXED", "pre_fixed_normalizer": 0}),
    row("SmoothL1Loss", None, r"must be \(N, C, …\); found 2 ", (2,), (2,), tops=2),
    row("DetectionEvaluate", "name_size_file", r"must be given, with the sizes", (1, 7), (1, 8), (1, 2), num_classes=2),
]  # fmt: skip
