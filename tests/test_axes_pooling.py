"""Pooling of naibaf7's Caffe, over axes and with gaps, against loops over the windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe import Net, proto, testing
from minicaffe.proto import text

RNG = np.random.default_rng(0)


def pooled(x, kernel, stride, pad, dilation, reduce):
    sizes = [
        -(-(n + 2 * p - d * (k - 1) - 1) // s) + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation, strict=True)
    ]
    y = np.empty((*x.shape[:2], *sizes))
    for place in itertools.product(*map(range, sizes)):
        taps = [
            [i * s - p + d * t for t in range(k) if i * s - p + d * t < n + p]
            for i, k, s, p, d, n in zip(place, kernel, stride, pad, dilation, x.shape[2:], strict=True)
        ]
        inside = [[t for t in axis if 0 <= t < n] for axis, n in zip(taps, x.shape[2:], strict=True)]
        values = x[np.ix_(range(len(x)), range(x.shape[1]), *inside)].reshape(*x.shape[:2], -1)
        y[(..., *place)] = reduce(values, np.prod([len(axis) for axis in taps]))
    return y


CASES = [
    ((3, 3, 1), (2, 2, 1), (1, 1, 0), (1, 1, 1)),
    ((2, 2, 2), (1, 1, 1), (0, 0, 0), (2, 1, 3)),
    ((2, 2), (1, 1), (0, 0), (4, 4)),
    ((3,), (2,), (1,), (2,)),
]


@pytest.mark.parametrize(("kernel", "stride", "pad", "dilation"), CASES)
def test_windows_over_axes(kernel, stride, pad, dilation):
    x = RNG.standard_normal((2, 3, *(7, 6, 8)[: len(kernel)])).astype(np.float32)
    options = {"kernel_sizes": kernel, "strides": stride, "pads": pad, "dilation": dilation}
    largest = testing.run("Pooling", [x], **options).tops[0]
    np.testing.assert_array_equal(
        largest, pooled(x, kernel, stride, pad, dilation, lambda v, _: v.max(-1)).astype(np.float32)
    )
    mean = testing.run("Pooling", [x], pool="AVE", **options).tops[0]
    expected = pooled(x, kernel, stride, pad, dilation, lambda v, area: v.sum(-1) / area)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_without_gaps_it_is_caffes_pooling(pool):
    x = RNG.integers(0, 4, (2, 3, 7, 6)).astype(np.float32)  # many equal values
    x[0, 0, 2, 2] = np.nan
    options = {"pool": pool, "kernel_size": 3, "stride": 2, "pad": 1}
    ours, caffes = (testing.run("Pooling", [x], **options, **more) for more in ({"dilation": [1]}, {}))
    np.testing.assert_allclose(ours.tops[0], caffes.tops[0], rtol=1e-6)
    np.testing.assert_allclose(ours.bottom_diffs[0], caffes.bottom_diffs[0], rtol=1e-5, atol=1e-6)


DEFINITION = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 4, 6, 6] } } }
layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { pool: MAX
  kernel_size: 1 kernel_size: 2 kernel_size: 2  # of one image each }
  stride: [1, 2, 2] pad: 0 dilation: 1 } }
"""


def test_sizes_that_are_given_once_an_axis(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(DEFINITION)
    net = Net(path, proto.TEST)
    assert tuple(net.blobs["p"].shape) == (1, 2, 4, 3, 3)
    message = text.parse(DEFINITION, proto.NetParameter())
    printed = text.format(message)
    assert printed.count(" kernel_size: ") == printed.count(" stride: ") == 3 and "kernel_sizes" not in printed
    assert text.parse(printed, proto.NetParameter()) == message
