"""Convolution, Deconvolution, Im2col, Pooling, SPP."""

from __future__ import annotations

from layer_errors.row import row

IMAGE = (2, 4, 5, 5)
ONE_BLOB = [{"shape": {"dim": [3, 4, 2, 2]}, "data": [0.0] * 48}]


def windowed(kind, **more):
    def no(field, problem, *shapes, **how):
        return row(kind, field, problem, *(shapes or (IMAGE,)), **{**more, **how})

    yield no("axis", r"axis 4 out of range for 4-D", kernel_size=2, axis=4)
    yield no("axis", r"axis -5 out of range for 4-D", kernel_size=2, axis=-5)
    yield no("kernel_size", r"once for each of the 2 spatial axes; found 0 values")
    yield no("kernel_size", r"once for each of the 2 spatial axes; found 3 values", kernel_size=[2, 2, 2])
    yield no("kernel_size", r"must be positive; found \[0, 0\]", kernel_size=0)
    yield no(
        "kernel_size", r"either kernel_size or kernel_h and kernel_w, not both", kernel_size=2, kernel_h=2, kernel_w=2
    )
    yield no("kernel_w", r"kernel_h and kernel_w must be given together", kernel_h=2)
    yield no("kernel_h", r"need 2 spatial axes; found 1", (2, 4, 5), kernel_h=2, kernel_w=2)
    yield no("stride", r"must be positive; found \[0, 0\]", kernel_size=2, stride=0)
    yield no("hole", r"give either hole, or hole_h and hole_w, or dilation", kernel_size=2, hole=2, dilation=2)
    yield no("hole_h", r"give either hole, or hole_h and hole_w, or dilation", kernel_size=2, hole_h=2)
    yield no("kstride", r"is another name of dilation; give one", kernel_size=2, dilation=2, kstride=2)
    yield no("hole", r"must be positive; found \[0, 0\]", kernel_size=2, hole=0)
    yield no("hole_h", r"need 2 spatial axes; found 1", (2, 4, 5), kernel_size=2, hole_h=2, hole_w=2)
    yield no("stride", r"found 3 values", kernel_size=2, stride=[1, 1, 1])
    yield no("stride_h", r"stride_h and stride_w must be given together", kernel_size=2, stride_w=2)
    yield no("pad", r"found 3 values", kernel_size=2, pad=[1, 1, 1])
    yield no("dilation", r"must be positive; found \[1, 0\]", kernel_size=2, dilation=[1, 0])
    yield no(None, r"must keep 4 axes and 4 channels; found 2 6 5 5", kernel_size=2, later=((2, 6, 5, 5),))
    yield no(None, r"must keep 4 axes and 4 channels; found 2 4 5", kernel_size=2, later=((2, 4, 5),))


def convolution(kind):
    def no(field, problem, *shapes, **how):
        return row(kind, field, problem, *(shapes or (IMAGE,)), **{"kernel_size": 2, "num_output": 3, **how})

    yield from windowed(kind, num_output=3)
    yield no("num_output", r"must be positive; found 0", num_output=0)
    yield no("group", r"must be positive; found 0", group=0)
    yield no("group", r"must divide the input channels \(4\); found 3", group=3)
    yield no("group", r"must divide the num_output \(3\); found 2", group=2)
    yield no("kernel_size", r"found 2 values", (2, 4), kernel_size=[2, 2])
    yield no(None, r"must have the same shape; found 2 4 5 5 .*2 4 6 5", IMAGE, (2, 4, 6, 5), tops=2)
    yield no(None, r"must have the same shape", IMAGE, IMAGE, tops=2, later=(IMAGE, (3, 4, 5, 5)))
    yield no(
        "blobs",
        r"must have shapes \[\(3, 4, 2, 2\), \(3,\)\]|must have shapes \[\(4, 3, 2, 2\), \(3,\)\]",
        blobs=ONE_BLOB,
    )
    yield no(None, r"unknown filler type 'xaver'.*did you mean 'xavier'", weight_filler={"type": "xaver"})


def pooling(field, problem, *shapes, **how):
    return row("Pooling", field, problem, *(shapes or (IMAGE,)), **how)


VOLUME = (2, 4, 3, 5, 5)


def over_time(kind):
    def no(field, problem, *shapes, **how):
        given = {"num_output": 3, "kernel_size": 2, "kernel_depth": 2, **how}
        return row(kind, field, problem, *(shapes or (VOLUME,)), **given)

    yield no("axis", r"axis 5 out of range for 5-D", axis=5)
    yield no("kernel_size", r"once for each of the 2 spatial axes; found 3 values", kernel_size=[2, 2, 2])
    yield no("kernel_depth", r"must be positive, as along other axes; found \[0, 2, 2\]", kernel_depth=0)
    yield no("temporal_stride", r"must be positive, as along other axes; found \[0, 1, 1\]", temporal_stride=0)
    yield no("num_output", r"must be positive; found 0", num_output=0)
    yield no("group", r"must divide the input channels \(4\); found 3", group=3)
    yield no("pad", r"found 3 values", pad=[1, 1, 1])
    yield no("hole_h", r"give either hole, or hole_h and hole_w, or dilation", hole_h=2)
    yield no("kstride", r"is another name of dilation; give one", dilation=2, kstride=2)
    yield no(None, r"needs 3 axes after the channels: time, height, width; found 2", IMAGE)


def deep_pooling(field, problem, *shapes, **how):
    return row("Pooling3D", field, problem, *(shapes or (VOLUME,)), **{"kernel_size": 2, "kernel_depth": 2, **how})


ROWS = [
    *over_time("Convolution3D"),
    *over_time("Deconvolution3D"),
    row("Pooling3D", "kernel_size", r"give kernel_size", VOLUME, kernel_depth=2),
    row("Pooling3D", "kernel_depth", r"must be given, and positive", VOLUME, kernel_size=2),
    row("Pooling3D", "kernel_depth", r"give none with global_pooling", VOLUME, global_pooling=True, kernel_depth=2),
    deep_pooling("temporal_pad", r"must be smaller than kernel_depth, 2; found 2", temporal_pad=2),
    deep_pooling("temporal_stride", r"must be positive; found 0", temporal_stride=0),
    deep_pooling("stride", r"must be positive; found \(0, 0\)", stride=0),
    deep_pooling("pad", r"must be smaller than the kernel", pad=2),
    deep_pooling("pool", r"must be MAX or AVE", pool="STOCHASTIC"),
    deep_pooling("round_mode", r"says the opposite", round_mode="CEIL", ceil_mode=False),
    deep_pooling(None, r"must have 5 axes \(N, C, length, H, W\)", IMAGE),
    pooling("pool", r"must be MAX or AVE", pool="STOCHASTIC", kernel_size=2, dilation=2),
    pooling("dilation", r"must be positive; found \[0\]", kernel_size=2, dilation=0),
    pooling("dilation", r"once for each of the 2 axes; found 3 values", kernel_size=2, dilation=[1, 2, 1]),
    pooling("kernel_size", r"once for each of the 2 axes; found 3 values", kernel_sizes=[2, 2, 2]),
    pooling("kernel_size", r"must be positive; found \[0, 0\]", dilation=2),
    pooling("kstride", r"is another name of dilation; give one", kernel_size=2, dilation=2, kstride=2),
    pooling("stride", r"must be positive; found \[1, 0\]", kernel_size=2, strides=[1, 0]),
    pooling("pad", r"must be smaller than a window, \[3, 3\]; found \[3, 3\]", kernel_size=2, pad=3, dilation=2),
    pooling("kernel_size", r"larger than the input", kernel_size=3, dilation=3),
    pooling(None, r"needs axes after its channels", (2, 3), kernel_size=2, dilation=2),
    row("MalisLoss", None, r"affinities must be \(N, edges", (2, 3), (2, 3), (2, 1)),
    row("MalisLoss", None, r"must have the same shape", (1, 2, 3, 3), (1, 2, 3, 4), (1, 1, 3, 3)),
    row("MalisLoss", None, r"one channel and the size of the affinities", (1, 2, 3, 3), (1, 2, 3, 3), (1, 2, 3, 3)),
    row("MalisLoss", None, r"3 edges along 2 axes: a fourth bottom", (1, 3, 3, 3), (1, 3, 3, 3), (1, 1, 3, 3)),
    row("MalisLoss", None, r"steps must be 3 for each", (1, 2, 3, 3), (1, 2, 3, 3), (1, 1, 3, 3), (1, 1, 2, 2)),
    row(
        "MalisLoss",
        None,
        r"true affinities must be numbers",
        (1, 1, 2),
        (1, 1, 2),
        (1, 1, 2),
        bad=(1, [[[float("nan"), 1]]]),
    ),
    row(
        "MalisLoss",
        None,
        r"segments must be whole numbers",
        (1, 1, 2),
        (1, 1, 2),
        (1, 1, 2),
        bad=(2, [[[float("inf"), 1]]]),
    ),
    *convolution("Convolution"),
    row(
        "Convolution",
        "kernel_size",
        r"extent \[9, 9\]\) is larger than the input \[5, 5\]",
        IMAGE,
        kernel_size=9,
        num_output=3,
    ),
    row(
        "Convolution",
        "kernel_size",
        r"larger than the input \[5, 1\]",
        IMAGE,
        kernel_size=3,
        num_output=3,
        later=((2, 4, 5, 1),),
    ),
    *convolution("Deconvolution"),
    row("Deconvolution", "pad", r"\[9, 9\] leaves nothing", IMAGE, kernel_size=1, num_output=3, pad=9),
    *windowed("Im2col"),
    row("Im2col", "axis", r"needs an axis after it", (2, 4), kernel_size=2, axis=1),
    row(
        "Im2col",
        "kernel_size",
        r"extent \[7, 7\]\) is larger than the input \[5, 5\]",
        IMAGE,
        kernel_size=3,
        dilation=3,
    ),
    pooling(None, r"must have 4 axes \(N, C, H, W\); found 2 4 5 ", (2, 4, 5), kernel_size=2),
    pooling("kernel_size", r"give kernel_size, or kernel_h and kernel_w"),
    pooling("kernel_size", r"must be positive; found \(0, 0\)", kernel_size=0),
    pooling(
        "kernel_size", r"either kernel_size or kernel_h and kernel_w, not both", kernel_size=2, kernel_h=2, kernel_w=2
    ),
    pooling("kernel_size", r"the kernel \(9\) is larger than the input \(5\)", kernel_size=9),
    pooling("kernel_size", r"give no kernel size", global_pooling=True, kernel_size=5),
    pooling("kernel_h", r"kernel_h and kernel_w must be given together", kernel_w=2),
    pooling("stride", r"must be positive; found \(0, 0\)", kernel_size=2, stride=0),
    pooling(
        "stride", r"either stride or stride_h and stride_w, not both", kernel_size=2, stride=1, stride_h=1, stride_w=1
    ),
    pooling("stride_h", r"must be given together", kernel_size=2, stride_h=2),
    pooling("stride", r"global_pooling needs stride 1 and pad 0; found stride \(2, 2\)", global_pooling=True, stride=2),
    pooling("stride", r"global_pooling needs stride 1 and pad 0.*pad \(1, 1\)", global_pooling=True, pad=1),
    pooling("pad", r"must be smaller than the kernel \(2, 2\); found \(2, 2\)", kernel_size=2, pad=2),
    pooling("pad", r"STOCHASTIC pooling takes no pad", kernel_size=2, pad=1, pool="STOCHASTIC"),
    pooling("pad_h", r"must be given together", kernel_size=2, pad_w=1),
    pooling("top", r"only MAX pooling makes a second top", kernel_size=2, pool="AVE", tops=2),
    pooling(
        "pool", r"goes backward in TRAIN phase only", kernel_size=2, pool="STOCHASTIC", phase="TEST", backward=True
    ),
    row("SPP", "pyramid_height", r"must be positive; found 0", IMAGE),
    row("SPP", None, r"must have 4 axes \(N, C, H, W\); found 2 3 ", (2, 3), pyramid_height=1),
    row("SPP", None, r"layer 'SPP \(2 x 2 bins\)' \(Pooling\), pooling_param\.pad", (2, 3, 1, 4), pyramid_height=2),
]
