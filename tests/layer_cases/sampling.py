"""Layers that read images between their pixels, those of optical flow; losses of forks, value by value."""

from __future__ import annotations

from layer_cases.case import Case, Values, distinct, integers, normal, uniform
from layer_cases.vision import IMAGES

COLORS = (((1, 3, 4, 5),), ((3, 3, 6, 8),))
IMAGES_4 = (((1, 2, 3),), ((3, 6, 5, 6),))
PAIRS = (((1, 2, 3, 3), (1, 2, 3, 3)), ((3, 2, 5, 6), (3, 2, 5, 6)))


def odd(*shape: int) -> Values:
    """Answers 1 and 0, and -1 for no answer."""
    return Values(lambda rng, size: rng.integers(-1, 2, size).astype(float), shape)


def nearly_still(*shape: int) -> Values:
    """Six numbers an item, which hardly turn an image."""
    still = [0.8, 0, 0, 0, 0.8, 0]
    return Values(lambda rng, size: (still + rng.uniform(-0.1, 0.1, (*size[:1], 6))).reshape(size), shape)


SAMPLING = [
    Case("FlowWarp", (normal(2, 3, 4, 5), normal(2, 2, 4, 5)), sizes=PAIRS),
    Case(
        "FlowWarp",
        (normal(1, 1, 3, 3), uniform(-0.4, 0.4, 1, 2, 3, 3)),
        {"fill_value": "NOT_A_NUMBER"},
        "NaN",
        why_not={"gradient": "NaN has none"},
    ),
    Case(
        "Transformer",
        (normal(2, 3, 5, 5), nearly_still(2, 6)),
        sizes=(((1, 2, 3, 3), (1, 6)), ((3, 2, 6, 6), (3, 6, 1, 1))),
    ),
    Case("Transformer", (normal(2, 1, 4, 6), nearly_still(2, 6)), variant="wide"),
    Case("Transformer", (normal(2, 1, 7, 2), nearly_still(2, 6)), variant="high"),
    Case("Resize", (normal(2, 3, 4, 5),), {"height": 7, "width": 3}, sizes=IMAGES),
    Case(
        "Resize",
        (normal(2, 1, 4, 5),),
        {"is_pyramid_test": True, "out_height_scale": 0.6, "out_width_scale": 1.5},
        "pyramid",
        sizes=IMAGES,
    ),
    Case("Resample", (normal(2, 3, 4, 5),), {"height": 7, "width": 3}, sizes=IMAGES),
    Case("Resample", (normal(2, 3, 6, 8), normal(1, 1, 3, 4)), {"antialias": False}, "to a reference"),
    Case("Resample", (normal(2, 3, 6, 8),), {"height": 3, "width": 4, "resample_param": {"type": "CUBIC"}}, "cubic"),
    Case(
        "Resample", (normal(2, 1, 3, 4),), {"height": 5, "width": 9, "resample_param": {"type": "NEAREST"}}, "nearest"
    ),
    Case("Downsample", (normal(2, 3, 5, 7),), {"top_height": 3, "top_width": 4}, sizes=IMAGES),
    Case("Downsample", (normal(2, 3, 5, 7), normal(1, 1, 5, 7)), {}, "to a reference"),
    Case("DataAugmentation", (normal(2, 3, 5, 7),), {"crop_height": 4, "crop_width": 7, "recompute_mean": 9}),
    Case("DataAugmentation", (normal(2, 3, 5, 7),), {"mean": [1, 2, 3], "mean_per_pixel": False}, "mean", sizes=COLORS),
    Case(
        "Accum",
        (normal(2, 3, 2, 5), normal(2, 1, 4, 3)),
        sizes=(((1, 3, 1, 2), (1, 1, 3, 2)), ((3, 3, 5, 6), (3, 1, 4, 6))),
    ),
    Case("Accum", (normal(2, 3, 2, 5),), {"size_divisible_by": 4}, "divisible"),
    Case("Accum", (normal(2, 3, 2, 5),), {"top_height": 3, "top_width": 6}, "to a size"),
    Case(
        "Accum",
        (normal(2, 3, 2, 5), normal(2, 1, 4, 3)),
        {"have_reference": True},
        "to a reference",
        sizes=(((1, 3, 1, 2), (1, 1, 1, 1)), ((3, 3, 5, 6), (3, 1, 4, 6))),
    ),
]

FLOW = [
    Case("ChannelNorm", (normal(2, 3, 4, 5),), sizes=IMAGES),
    Case(
        "Mean",
        (normal(2, 4, 3, 2),),
        {"value": [1.0, 2.0], "operation": "SUBTRACT", "input_scale": 0.5},
        sizes=IMAGES_4,
    ),
    Case("Mean", (normal(2, 2), normal(3, 4, 2)), {"value": [1.0, 2.0], "output_scale": 3.0}, "two", tops=2),
    Case(
        "Correlation",
        (normal(2, 3, 5, 6), normal(2, 3, 5, 6)),
        {"kernel_size": 1, "max_displacement": 2, "pad": 2},
        sizes=(((1, 2, 3, 3),) * 2, ((3, 2, 6, 7),) * 2),
    ),
    Case(
        "Correlation",
        (normal(1, 2, 6, 7), normal(1, 2, 6, 7)),
        {"kernel_size": 3, "max_displacement": 3, "pad": 3, "stride_1": 2, "stride_2": 2},
        "strides",
    ),
    Case(
        "Correlation",
        (distinct(1, 2, 4, 3), normal(1, 2, 4, 3)),
        {"kernel_size": 1, "max_displacement": 1, "pad": 1, "correlation_type": "SUBTRACT"},
        "differences",
    ),
]

CHANNELS = [
    Case(
        "ChannelScale",
        (normal(2, 3, 4, 5), normal(2, 1, 4, 5)),
        sizes=(((1, 2, 3, 3), (1, 1, 3, 3)), ((3, 4, 5, 6), (3, 1, 5, 6))),
    ),
    Case(
        "ChannelScale",
        (normal(2, 3, 4), normal(2, 4)),
        {"do_backward_scale": False, "do_forward": False, "do_backward_feature": False},
        "not at all",
        gradient={"check_bottom": [0]},
    ),
    Case(
        "ChannelScale",
        (normal(2, 3, 4), normal(2, 4)),
        {"global_scale": True, "init_global_scale": 5, "max_global_scale": 2.5},
        "global",
        tops=2,
        why_not={"gradient": "backward does not know the global scale, in the fork too"},
    ),
    Case(
        "BroadcastMul",
        (normal(2, 3, 4, 5), normal(2, 3, 1, 1)),
        sizes=(((1, 2, 3, 3), (1, 2, 1, 1)), ((3, 4, 5, 6), (3, 4))),
    ),
    Case("Gram", (normal(2, 3, 4, 5),), sizes=IMAGES),
    Case("Covariance", (normal(2, 3, 4, 5),), sizes=IMAGES),
]

LOSSES = [
    Case(
        "ConfidencePenaltyLoss",
        (uniform(0.1, 0.9, 4, 3), integers(3, 4)),
        sizes=(((2, 4), (2,)), ((7, 3), (7,))),
    ),
    Case("ConfidencePenaltyLoss", (uniform(0.1, 0.9, 4, 3), integers(3, 4)), {"beta": 0.4, "loss_weight": 2}, "more"),
    Case("CorrelationLoss", (normal(4, 1), normal(4, 1)), sizes=(((2, 5), (2, 5)), ((7, 3, 2), (7, 3, 2)))),
    Case(
        "MultiLabelSigmoidLoss",
        (normal(1, 5), integers(2, 1, 5)),
        {"loss_weight": 3},
        "of one item",
        sizes=(((1, 3), (1, 3)), ((4, 6), (4, 6))),
        why_not={
            "gradient": "the gradient is over the batch size, the loss over the number of answers, in the fork too"
        },
    ),
    Case("MultiLabelSigmoidLoss", (normal(4, 1), integers(2, 4, 1)), sizes=(((2, 5), (2, 5)), ((7, 3), (7, 3)))),
    Case(
        "MultiLabelSigmoidLoss",
        (normal(4, 3), odd(4, 3)),
        variant="unanswered",
        why_not={
            "gradient": "the gradient is over the batch size, the loss over the number of answers, in the fork too"
        },
    ),
    Case("L1Loss", (normal(4, 3), normal(4, 3)), sizes=(((2, 5), (2, 5)), ((7, 3, 2), (7, 2, 3)))),
    Case("L1Loss", (distinct(4, 4),), {"normalize_by_num_entries": True, "plateau": 0.25}, "of FlowNet2"),
    Case(
        "L1Loss",
        (normal(2, 3, 4, 5), normal(2, 3, 4, 5)),
        {"l2_per_location": True, "l2_prescale_by_channels": True, "loss_weight": 0.5},
        "lengths",
        sizes=PAIRS,
    ),
    Case(
        "L1Loss",
        (normal(2, 2, 4, 5), normal(2, 2, 4, 5)),
        {"l2_per_location": True, "normalize_by_num_entries": True, "plateau": 0.7},
        "lengths beyond a plateau",
    ),
]

CASES = [*SAMPLING, *FLOW, *CHANNELS, *LOSSES]
