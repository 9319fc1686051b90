"""Permute, PriorBox, Normalize, SmoothL1Loss, FocalLoss, MultiBoxLoss, DetectionOutput, DetectionEvaluate."""

from __future__ import annotations

import numpy as np

from layer_errors.row import row

IMAGE = (2, 4, 5, 5)
MAPS = ((1, 2, 3, 3), (1, 3, 30, 30))
NAN, INF = float("nan"), float("inf")
SCENE = ((2, 3, 8, 8), (2, 1, 3, 16))
FOUND = ((1, 1, 1, 7), (1, 1, 1, 8))
CODES, SCORES, PRIORS, TRUTH = (2, 24), (2, 18), (1, 2, 24), (1, 1, 3, 8)


def nan(shape):
    """Zeros but for the last value."""
    values = np.zeros(shape)
    values.reshape(-1)[-1] = NAN
    return values.tolist()


def scene(*first):
    """Labels that begin with these numbers."""
    values = np.zeros(SCENE[1])
    values.reshape(-1)[: len(first)] = first
    return values.tolist()


def prior_box(field, problem, *shapes, **how):
    return row("PriorBox", field, problem, *(shapes or MAPS), **{"min_size": [10.0], **how})


def loss(kind, field, problem, *shapes, **how):
    return row(kind, field, problem, *(shapes or (CODES, SCORES, PRIORS, TRUTH)), **{"num_classes": 3, **how})


def output(field, problem, *shapes, **how):
    return row("DetectionOutput", field, problem, *(shapes or (CODES, SCORES, PRIORS)), **{"num_classes": 3, **how})


def multibox(kind):
    yield loss(kind, "num_classes", r"must be given, and positive", num_classes=0)
    yield loss(kind, "do_neg_mining", r"contradicts mining_type", do_neg_mining=False, mining_type="MAX_NEGATIVE")
    yield loss(kind, "share_location", r"must be true for mining", share_location=False)
    yield loss(kind, "sample_size", r"must be positive", mining_type="HARD_EXAMPLE", sample_size=0)
    yield loss(kind, "neg_pos_ratio", r"must be a finite number", neg_pos_ratio=INF)
    yield loss(kind, "map_object_to_agnostic", r"needs num_classes: 2", map_object_to_agnostic=True)
    yield loss(kind, "background_label_id", r"must be a class, 0 \.\. 2", background_label_id=3)
    yield loss(kind, None, r"location predictions: 24 for each item; found 2 20", (2, 20), SCORES, PRIORS, TRUTH)
    yield loss(kind, None, r"confidence predictions: 18 for each item; found 2 20", CODES, (2, 20), PRIORS, TRUTH)
    yield loss(kind, None, r"the prior boxes must be \(1, 2, 4P\)", CODES, SCORES, (1, 1, 24), TRUTH)
    yield loss(kind, None, r"the ground truth must be rows of 8", CODES, SCORES, PRIORS, (1, 1, 3, 7))
    yield loss(
        kind, "num_classes", r"found the label 7 in the ground truth", bad=(3, [0, 7, 0, 0.1, 0.1, 0.9, 0.9, 0] * 3)
    )
    for k in (0, 1, 3, 6, 7):
        truth = [0, 1, 0, 0.1, 0.1, 0.9, 0.9, 0]
        truth[k] = NAN
        yield loss(kind, None, r"ground truth must be numbers; found NaN", bad=(3, truth * 3))
    yield loss(kind, None, r"the prior boxes must be numbers; found NaN", bad=(2, [[[NAN] * 24, [0.1] * 24]]))
    yield loss(
        kind, "use_prior_for_matching", r"predicted boxes.*found NaN", use_prior_for_matching=False, bad=(0, nan(CODES))
    )


GRID, ROWS_OF_BOXES = (1, 14, 3, 3), (1, 1, 300, 5)
ANCHORS = [1.0, 2.0, 2.0, 1.0]


def region(field, problem, *shapes, **how):
    fields = {"num": 2, "num_class": 2, "biases": ANCHORS, **how}
    return row("RegionLoss", field, problem, *(shapes or (GRID, ROWS_OF_BOXES)), **fields)


def yolov3(field, problem, *shapes, **how):
    fields = {"num": 2, "num_class": 2, "biases": ANCHORS, "mask": [0, 1], **how}
    return row("Yolov3", field, problem, *(shapes or (GRID, ROWS_OF_BOXES)), **fields)


def yolo_output(field, problem, *shapes, **how):
    fields = {"num_box": 2, "num_classes": 2, "biases": ANCHORS, **how}
    return row("YoloDetectionOutput", field, problem, *(shapes or (GRID,)), **fields)


def yolov3_output(field, problem, *shapes, **how):
    fields = {"num_box": 2, "num_classes": 2, "biases": ANCHORS, "mask": [0, 1], "anchors_scale": [32]}
    fields |= {"mask_group_num": 1, **how}
    return row("Yolov3DetectionOutput", field, problem, *(shapes or (GRID,)), **fields)


def unknown(kind):
    """A row of ground truth that is not finite, or whose box is negative, in each column."""
    for k in range(5):
        for value in (NAN, float("inf"), *[-0.5] * (k > 0)):
            truth = [0, 0.5, 0.5, 0.2, 0.2]
            truth[k] = value
            problem = r"must not be negative; found" if value < 0 else r"must be finite"
            yield kind(None, rf"ground truth {problem}", bad=(1, [[[truth] + [[0] * 5] * 299]]))


YOLO = [
    row("Reorg", "stride", r"must be given, and positive", IMAGE, stride=0),
    row("Reorg", "stride", r"height and width must be multiples", IMAGE, stride=2),
    row("Reorg", "stride", r"the channels must be a multiple of 9", IMAGE, stride=3),
    row("Reorg", "reorg_stride", r"is OpenCV's name", IMAGE, reorg_stride=2),
    row("Reorg", None, r"the input must have 4 axes", (2, 4, 5), stride=2),
    row("Upsample", "scale", r"must be given, and positive", IMAGE, scale=0),
    row("Upsample", None, r"the input must have 4 axes", (2, 4, 5), scale=2),
    region("coords", r"must be 4; found 5", coords=5),
    region("softmax_tree", r"a tree of classes is not in minicaffe", softmax_tree="tree"),
    region("biases", r"at least 2 anchors, positive; found 2 numbers", biases=[1.0, 2.0]),
    region(None, r"2 boxes and 2 classes are \(N, 14, H, W\); found 1 15 3 3", (1, 15, 3, 3), ROWS_OF_BOXES),
    region(None, r"must be 300 rows", GRID, (1, 1, 299, 5)),
    *unknown(region),
    *unknown(yolov3),
    yolo_output(None, r"predictions must be numbers; found NaN", bad=(0, nan(GRID))),
    yolov3_output(None, r"predictions must be numbers; found NaN", bad=(0, nan(GRID))),
    region("num_class", r"found the class 7", bad=(1, [[[[7, 0.5, 0.5, 0.2, 0.2]] * 300]])),
    yolov3("biases", r"at least 1 anchors", biases=[]),
    yolov3("mask", r"must name 2 of the 2 anchors; found \[0\]", mask=[0]),
    yolov3("gaussian_box", r"is of a later version", gaussian_box=True),
    yolov3("num_class", r"found the class 7", bad=(1, [[[[7, 0.5, 0.5, 0.2, 0.2]] * 300]])),
    yolov3(None, r"2 boxes and 2 classes", (1, 15, 3, 3), ROWS_OF_BOXES),
    yolo_output("coords", r"must be 4", coords=5),
    yolo_output("biases", r"at least 2 anchors", biases=[1.0]),
    yolo_output(None, r"2 boxes and 2 classes", (1, 15, 3, 3)),
    yolov3_output("mask_group_num", r"must be positive", mask_group_num=0),
    yolov3_output("mask_group_num", r"must be the number of bottoms; found 1 for 2", GRID, GRID),
    yolov3_output("mask", r"must name 2 of 2 anchors for each of 1 grids; found \[0\]", mask=[0]),
    yolov3_output("anchors_scale", r"must be given for each of 1 grids", anchors_scale=[]),
    yolov3_output("gaussian_box", r"is not in minicaffe", gaussian_box=True),
    yolov3_output("scale_x_y", r"is not in minicaffe", scale_x_y=[1.1]),
    yolov3_output("biases", r"at least 1 anchors", biases=[]),
    yolov3_output(None, r"2 boxes and 2 classes", (1, 15, 3, 3)),
]

EVALUATED = {"side": 3, "num_object": 2, "num_class": 2, "biases": [1.0, 2.0, 2.0, 1.0]}

ROWS = [
    *YOLO,
    row("Permute", "order", r"each once, in 0 \.\. 3; found \[0, 0\]", IMAGE, order=[0, 0]),
    row("Permute", "order", r"each once, in 0 \.\. 3; found \[4\]", IMAGE, order=[4]),
    prior_box("min_size", r"must be given, in pixels", min_size=[]),
    prior_box("min_size", r"must be positive", min_size=[0.0]),
    *(
        prior_box(field, r"must be finite", **{field: [bad]})
        for field in ("min_size", "variance")
        for bad in (NAN, INF)
    ),
    prior_box("max_size", r"must be finite", max_size=[INF]),
    prior_box("aspect_ratio", r"must be finite", aspect_ratio=[2.0, INF]),
    *(prior_box(field, r"must be a finite number", **{field: INF}) for field in ("offset", "step")),
    prior_box("max_size", r"once for each of the 1 min_size", max_size=[20.0, 30.0]),
    prior_box("max_size", r"must be larger than its min_size; found 5 for 10", max_size=[5.0]),
    prior_box("aspect_ratio", r"must be positive", aspect_ratio=[0.0]),
    prior_box("variance", r"must be one or four; found 2", variance=[0.1, 0.2]),
    prior_box("variance", r"must be positive", variance=[0.0]),
    prior_box("img_size", r"either img_size or img_h and img_w, not both", img_size=30, img_h=30, img_w=30),
    prior_box("img_h", r"img_h and img_w must be given together", img_h=30),
    prior_box("step", r"must be positive", step=-1.0),
    prior_box("density", r"is of another fork than SSD's", density=[1.0]),
    prior_box(None, r"the inputs must have 4 axes", (1, 2, 3), (1, 3, 30, 30)),
    row("Normalize", None, r"needs channels", (4,)),
    row("Normalize", None, r"needs channels", IMAGE, later=((4,),)),
    row(
        "Normalize",
        "blobs",
        r"must hold 4 value\(s\); found 3",
        IMAGE,
        channel_shared=False,
        blobs=[{"shape": {"dim": [3]}, "data": [1.0] * 3}],
    ),
    row(
        "Normalize",
        "normalize_param",
        r"is happynear's dialect .* give one",
        IMAGE,
        eps=1.0,
        normalize_param={"bp_norm": True},
    ),
    row("Normalize", "norm_param", r"is SSD's dialect .* give one", IMAGE, eps=1.0, tops=2),
    row(
        "Normalize",
        "normalize_param.normalize_type",
        r'must be "L1" or "L2"; found .L3',
        IMAGE,
        normalize_param={"normalize_type": "L3"},
    ),
    row(
        "Normalize",
        "normalize_param.fix_gradient",
        r"is not in minicaffe",
        IMAGE,
        normalize_param={"fix_gradient": True},
    ),
    row("SmoothL1Loss", "sigma", r"must be positive", (2, 3), (2, 3), sigma=0.0),
    row("SmoothL1Loss", None, r"must have the same count", (2, 3), (2, 4)),
    row("FocalLoss", "gamma", r"must not be negative", (2, 3), (2,), gamma=-1.0),
    row("FocalLoss", "beta", r"is of another fork's FocalLoss", (2, 3), (2,), beta=2.0),
    row("FocalLoss", "type", r"LINEAR is not in minicaffe", (2, 3), (2,), focal_loss_param={"type": "LINEAR"}),
    row("FocalLoss", None, r"number of labels must match", (2, 3), (2, 2)),
    row("FocalLoss", "axis", r"axis 2 out of range", (2, 3), (2,), axis=2),
    *multibox("MultiBoxLoss"),
    *multibox("MultiBoxFocalLoss"),
    output("num_classes", r"must be given, and positive", num_classes=0),
    output("use_polygon", r"needs code_type: CENTER_SIZE", use_polygon=True),
    output("normalized_bbox", r"boxes in pixels are not in minicaffe", normalized_bbox=False),
    output("nms_param", r"nms_threshold must not be negative", nms_param={"nms_threshold": -1.0}),
    output("nms_param", r"eta must lie above 0", nms_param={"eta": 0.0}),
    output(None, r"confidences must be numbers; found NaN", bad=(1, nan(SCORES))),
    output(None, r"of equally many items", CODES, (3, 18), PRIORS),
    output(None, r"location predictions: 24", (2, 28), SCORES, PRIORS),
    output(None, r"confidence predictions: 18", CODES, (2, 21), PRIORS),
    output(None, r"the prior boxes must be \(1, 2, 4P\)", CODES, SCORES, (2, 2, 24)),
    row("DetectNetTransformation", "stride", r"must be positive; found 0", *SCENE, stride=0),
    row(
        "DetectNetTransformation",
        "mean_value",
        r"must be 1 or 3 values; found 2",
        *SCENE,
        transform_param={"mean_value": [1, 2]},
    ),
    row(
        "DetectNetTransformation",
        "mean_file",
        r"missing.* cannot be read",
        *SCENE,
        transform_param={"mean_file": "missing"},
    ),
    row("DetectNetTransformation", None, r"images must be \(N, 3, H, W\); found 2 4", IMAGE, SCENE[1], tops=2),
    row("DetectNetTransformation", None, r"labels must be \(N, 1, boxes \+ 1, 16\)", SCENE[0], (2, 1, 3, 8), tops=2),
    row(
        "DetectNetTransformation",
        None,
        r"must begin with the number of its boxes.*found 3 and 16",
        *SCENE,
        tops=2,
        bad=(1, scene(3, 16)),
    ),
    row(
        "DetectNetTransformation",
        None,
        r"boxes that are no numbers",
        *SCENE,
        tops=2,
        bad=(1, scene(1, 16, *[0] * 14, NAN)),
    ),
    row("DetectionEvaluate", "num_classes", r"must be given", (1, 1, 2, 7), (1, 1, 2, 8)),
    row(
        "DetectionEvaluate",
        "overlap_threshold",
        r"must be positive",
        (1, 1, 2, 7),
        (1, 1, 2, 8),
        num_classes=2,
        overlap_threshold=0.0,
    ),
    row("DetectionEvaluate", None, r"the detections must be rows of 7", (1, 1, 2, 8), (1, 1, 2, 8), num_classes=2),
    *(
        row("DetectionEvaluate", None, r"must be numbers; found NaN", *FOUND, num_classes=2, bad=bad)
        for bad in ((0, [[[[0, 1, NAN, 0, 0, 1, 1]]]]), (1, [[[[0, 1, 0, 0, 0, NAN, 1, 0]]]]))
    ),
    row("DetectionEvaluate", None, r"the ground truth must be rows of 8", (1, 1, 2, 7), (1, 1, 2, 7), num_classes=2),
    row(
        "DetectionEvaluate",
        "background_label_id",
        r"found the background label 0 in the detections",
        (1, 1, 1, 7),
        (1, 1, 1, 8),
        num_classes=2,
        bad=(0, [0] * 7),
    ),
    row(
        "DetectionEvaluate",
        "name_size_file",
        r"No such file",
        (1, 1, 1, 7),
        (1, 1, 1, 8),
        num_classes=2,
        name_size_file="missing.txt",
    ),
    *(
        row("EvalDetection", field, problem, (1, 14, 3, 3), (1, 2, 5), **{**EVALUATED, **options})
        for field, problem, options in (
            ("side", r"must be positive; found 0", {"side": 0}),
            ("biases", r"without anchors it is that of YOLO's first version", {"biases": []}),
            ("biases", r"at least 2 anchors, positive; found 2 numbers", {"biases": [1.0, 1.0]}),
            (None, r"predictions must be \(N, 14, 4, 4\); found 1 14 3 3", {"side": 4}),
        )
    ),
    row(
        "EvalDetection", None, r"rows of 5 numbers for each of 1 items; found 1 4 ", (1, 14, 3, 3), (1, 4), **EVALUATED
    ),
    row(
        "EvalDetection",
        None,
        r"its classes lie in 0 .. 1",
        (1, 14, 3, 3),
        (1, 5),
        bad=(1, [[2, 0.5, 0.5, 0.1, 0.1]]),
        **EVALUATED,
    ),
    row(
        "EvalDetection",
        None,
        r"the classes of the ground truth must be whole numbers; found 0.5",
        (1, 14, 3, 3),
        (1, 5),
        bad=(1, [[0.5, 0.5, 0.5, 0.1, 0.1]]),
        **EVALUATED,
    ),
]
