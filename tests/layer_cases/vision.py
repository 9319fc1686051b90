"""Windows over space: Convolution, Deconvolution, Im2col, Pooling, SPP."""

from __future__ import annotations

from layer_cases.case import Case, distinct, integers, normal, uniform

IMAGES = (((1, 4, 5, 4),), ((3, 4, 8, 9),))
VARIANTS = {
    "": ((2, 4, 6, 5), {"kernel_size": 3}),
    "stride, pad": ((2, 4, 6, 7), {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "pad_h": 1, "pad_w": 0}),
    "group, dilation": ((2, 4, 6, 7), {"kernel_size": [2, 3], "dilation": 2, "pad": 1, "group": 2}),
    "hole": ((2, 4, 6, 7), {"kernel_size": [2, 3], "hole_h": 2, "hole_w": 1, "pad": 1}),
    "kstride": ((2, 4, 6, 7), {"kernel_size": 2, "kstride": 2}),
    "1 x 1": ((2, 4, 3, 3), {"kernel_size": 1, "bias_term": False}),
    "1-D": ((2, 4, 7), {"kernel_size": 3, "stride": 2, "pad": 1}),
    "3-D": ((1, 2, 3, 4, 3), {"kernel_size": 2, "pad": [1, 0, 1], "stride": [1, 2, 1], "num_output": 2}),
    "channels last but one": ((2, 3, 4, 5), {"kernel_size": 2, "axis": -2}),
}


def convolutions(kind):
    for variant, (shape, fields) in VARIANTS.items():
        sizes = IMAGES if len(shape) == 4 and "axis" not in fields else ()
        yield Case(kind, (normal(*shape),), {"num_output": 6, **fields}, variant, sizes=sizes)
    yield Case(
        kind,
        (normal(2, 4, 5, 4),) * 2,
        {"num_output": 2, "kernel_size": 2},
        "two bottoms",
        sizes=tuple(s * 2 for s in IMAGES),
    )


VOLUMES = (((1, 3, 2, 4, 5),), ((2, 3, 5, 6, 4),))
DEEP = {"kernel_size": 3, "kernel_depth": 2, "pad": 1, "temporal_pad": 1, "stride": 2, "temporal_stride": 2}


def pooling(variant, x, sizes=IMAGES, **fields):
    return Case("Pooling", (x,), fields, variant, sizes=sizes)


CASES = [
    *convolutions("Convolution"),
    *convolutions("Deconvolution"),
    *(
        Case("Im2col", (normal(*shape),), {k: v for k, v in fields.items() if k not in ("group", "bias_term")}, variant)
        for variant, (shape, fields) in VARIANTS.items()
        if variant
    ),
    Case("Im2col", (normal(2, 4, 6, 5),), {"kernel_size": 3}, sizes=IMAGES),
    pooling("", distinct(2, 4, 6, 5), kernel_size=3, stride=2),
    pooling("padded", distinct(2, 4, 6, 5), kernel_size=3, stride=2, pad=1, round_mode="FLOOR"),
    pooling("floor", distinct(2, 4, 6, 5), kernel_size=2, stride=2, ceil_mode=False),
    pooling("below", distinct(2, 4, 6, 5), kernel_size=3, stride=2, round_below=True),
    pooling("oblong", distinct(2, 4, 6, 5), kernel_h=2, kernel_w=3, stride_h=1, stride_w=2, pad_h=1, pad_w=2),
    pooling("average", normal(2, 4, 6, 5), pool="AVE", kernel_size=3, stride=2, pad=1),
    pooling("global average", normal(2, 4, 6, 5), pool="AVE", global_pooling=True),
    pooling("global", distinct(2, 4, 6, 5), global_pooling=True),
    Case("Pooling", (distinct(2, 2, 4, 5),), {"kernel_size": 2}, "with mask", tops=2, gradient={"check_top": [0]}),
    Case(
        "Pooling",
        (uniform(0.1, 1, 2, 4, 6, 5),),
        {"pool": "STOCHASTIC", "kernel_size": 3, "stride": 2},
        "stochastic",
        sizes=IMAGES,
        # at a fixed random number the value is that of the drawn pixel: a smaller step draws the same one
        gradient={"step": 1e-4},
        why_not={"parity": "each backend draws pixels of its own"},
    ),
    Case(
        "Pooling",
        (uniform(0.1, 1, 2, 4, 6, 5),),
        {"pool": "STOCHASTIC", "kernel_size": 3, "stride": 2},
        "stochastic, TEST",
        phase="TEST",
        sizes=IMAGES,
        why_not={"gradient": "as in Caffe it goes backward in TRAIN phase only, and says so"},
    ),
    pooling("dilated", distinct(2, 4, 6, 5), kernel_size=2, dilation=[2]),
    pooling("dilated average", normal(2, 4, 6, 5), pool="AVE", kernel_size=2, stride=2, pad=1, dilation=[2, 1]),
    pooling("3-D", distinct(2, 3, 3, 4, 5), VOLUMES, kernel_sizes=[2, 3, 1], strides=[1, 2, 1], pads=[1, 0, 0]),
    pooling("3-D average", normal(2, 3, 3, 4, 5), VOLUMES, pool="AVE", kernel_sizes=[2, 2, 2], strides=[2]),
    *(
        Case(kind, (normal(2, 3, 3, 4, 5),), {"num_output": 2, **fields}, variant, sizes=VOLUMES)
        for kind in ("Convolution3D", "Deconvolution3D")
        for variant, fields in (("", {"kernel_size": 2, "kernel_depth": 3, "temporal_pad": 1}), ("strides", DEEP))
    ),
    Case("Pooling3D", (distinct(2, 3, 3, 4, 5),), {"kernel_size": 2, "kernel_depth": 1, "stride": 2}, sizes=VOLUMES),
    Case("Pooling3D", (distinct(2, 3, 3, 5, 5),), DEEP, "strides", sizes=VOLUMES),
    Case("Pooling3D", (normal(2, 3, 3, 4, 5),), {"pool": "AVE", **DEEP}, "average", sizes=VOLUMES),
    Case("Pooling3D", (normal(2, 3, 2, 2, 3),), {"pool": "AVE", "global_pooling": True}, "global", sizes=VOLUMES),
    Case(
        "MalisLoss",
        (uniform(0.1, 0.9, 2, 2, 3, 4), uniform(0, 1, 2, 2, 3, 4), integers(3, 2, 1, 3, 4)),
        sizes=(((1, 2, 2, 2), (1, 2, 2, 2), (1, 1, 2, 2)), ((3, 2, 4, 5), (3, 2, 4, 5), (3, 1, 4, 5))),
        why_not={"gradient": "half of it, and not of the smaller or larger affinity, as in naibaf7's Caffe"},
    ),
    Case("SPP", (distinct(2, 3, 8, 7),), {"pyramid_height": 3}, sizes=(((1, 3, 4, 4),), ((3, 3, 9, 11),))),
    Case("SPP", (normal(2, 3, 8, 6),), {"pyramid_height": 2, "pool": "AVE"}, "average"),
    Case("SPP", (distinct(2, 3, 5, 4),), {"pyramid_height": 1}, "one level", sizes=(((1, 3, 4, 4),), ((3, 3, 9, 11),))),
]
