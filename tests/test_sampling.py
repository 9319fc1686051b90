"""FlowNet2's layers that nobody has run on a CPU, against their definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe import Net, proto, testing
from minicaffe.proto.origin import Origin
from minicaffe.proto.text import parse

RNG = np.random.default_rng(5)


def correlated(a, b, kernel, reach, pad, stride_1, stride_2, differ):
    padding = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    a, b = np.pad(a, padding), np.pad(b, padding)
    border = reach + kernel // 2
    rows, columns = (-(-(size - 2 * border) // stride_1) for size in a.shape[2:])
    steps = range(-(reach // stride_2), reach // stride_2 + 1)
    y = np.zeros((len(a), len(steps) ** 2, rows, columns))
    for (k, (p, q)), i, j in itertools.product(enumerate(itertools.product(steps, steps)), range(rows), range(columns)):
        at, left = i * stride_1 + reach, j * stride_1 + reach
        ours = a[:, :, at : at + kernel, left : left + kernel]
        at, left = at + p * stride_2, left + q * stride_2
        theirs = b[:, :, at : at + kernel, left : left + kernel]
        y[:, k, i, j] = (abs(ours - theirs) if differ else ours * theirs).mean(axis=(1, 2, 3))
    return y


@pytest.mark.parametrize("how", [(1, 2, 2, 1, 1, False), (3, 4, 4, 2, 2, False), (3, 2, 3, 1, 1, True)])
def test_correlation(how):
    kernel, reach, pad, stride_1, stride_2, differ = how
    a, b = RNG.standard_normal((2, 2, 3, 7, 8))
    found = testing.run(
        "Correlation", [a, b], kernel_size=kernel, max_displacement=reach, pad=pad, stride_1=stride_1,
        stride_2=stride_2, correlation_type="SUBTRACT" if differ else "MULTIPLY",
    ).tops[0]  # fmt: skip
    np.testing.assert_allclose(found, correlated(a, b, *how), rtol=1e-4, atol=1e-5)


def cubic(x):
    x = abs(x)
    return x * x * (1.5 * x - 2.5) + 1 if x <= 1 else x * (x * (-0.5 * x + 2.5) - 4) + 2 if x < 2 else 0


def resampled(x, height, width, formula, antialias):
    fy, fx = x.shape[2] / height, x.shape[3] / width
    antialias = antialias and max(fx, fy) > 1
    ay, ax = (1 / fy, 1 / fx) if antialias else (1, 1)
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in itertools.product(range(height), range(width)):
        row, column = i * fy + fx / 2 - 0.5, j * fx + fy / 2 - 0.5
        weights = np.array([
            [formula(ay * (row - r)) * formula(ax * (column - c)) for c in range(x.shape[3])]
            for r in range(x.shape[2])
        ])  # fmt: skip
        y[:, :, i, j] = (x * weights).sum(axis=(2, 3)) / weights.sum() if weights.sum() else 0
    return y


@pytest.mark.parametrize("size", [(3, 4), (9, 5), (12, 16)])
@pytest.mark.parametrize("kind", ["LINEAR", "CUBIC"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resample(size, kind, antialias):
    x = RNG.standard_normal((2, 2, 6, 8))
    formula = cubic if kind == "CUBIC" else lambda x: max(0, 1 - abs(x))
    how = {"type": kind, "antialias": antialias, "height": size[0], "width": size[1]}
    found = testing.run("Resample", [x], resample_param=how).tops[0]
    np.testing.assert_allclose(found, resampled(x, *size, formula, antialias), rtol=1e-4, atol=1e-5)


def test_accum_enlarges_from_corner_to_corner():
    x, z = np.arange(6.0).reshape(1, 1, 2, 3), np.zeros((1, 2, 3, 5))
    found = testing.run("Accum", [x, z]).tops[0]
    assert found.shape == (1, 3, 3, 5)
    np.testing.assert_allclose(found[0, 0], [[0, 0.5, 1, 1.5, 2], [1.5, 2, 2.5, 3, 3.5], [3, 3.5, 4, 4.5, 5]])


def downsampled(x, height, width):
    y = np.empty((*x.shape[:2], height, width))
    scales = [(old - 1) / (new - 1) for old, new in zip(x.shape[2:], (height, width), strict=True)]
    for n, c, i, j in itertools.product(*map(range, y.shape)):
        total = known = unknown = 0.0
        for p, q in itertools.product(range(x.shape[2]), range(x.shape[3])):
            weight = max(0, 1 - abs(p - i * scales[0]) / scales[0]) * max(0, 1 - abs(q - j * scales[1]) / scales[1])
            if np.isnan(x[n, c, p, q]):
                unknown += weight
            else:
                total, known = total + weight * x[n, c, p, q], known + weight
        y[n, c, i, j] = total / known if known and unknown / known <= 0.5 else np.nan
    return y


def test_downsample_leaves_out_what_is_not_known():
    x = RNG.standard_normal((2, 2, 9, 11))
    x[0, :, 2:5, 1:4] = x[1, 1, 8, 10] = np.nan
    found = testing.run("Downsample", [x], top_height=4, top_width=5).tops[0]
    expected = downsampled(x, 4, 5)
    assert 0 < np.isnan(expected).sum() < expected.size / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    same = testing.run("Downsample", [x, np.zeros((1, 1, 9, 11))]).tops[0]
    np.testing.assert_array_equal(same, x.astype(np.float32))


def cropped(x, height, width):
    """The centre, sampled as FlowNet 2 does."""
    y = np.empty((*x.shape[:2], height, width))
    for i, j in itertools.product(range(height), range(width)):
        p = min(max(i - height / 2 + x.shape[2] / 2, 0), x.shape[2] - 1.05)
        q = min(max(j - width / 2 + x.shape[3] / 2, 0), x.shape[3] - 1.05)
        a, b = int(p), int(q)
        down, right = p - a, q - b
        above = (1 - right) * x[:, :, a, b] + right * x[:, :, a, b + 1]
        below = (1 - right) * x[:, :, a + 1, b] + right * x[:, :, a + 1, b + 1]
        y[:, :, i, j] = (1 - down) * above + down * below
    return y


@pytest.mark.parametrize("per_pixel", [True, False])
def test_data_augmentation_crops_and_learns_the_mean(per_pixel):
    net = _augmenting(f"crop_height: 4 crop_width: 7 recompute_mean: 2 mean_per_pixel: {str(per_pixel).lower()}")
    crops = []
    for n in range(3):
        x = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)
        net.blobs["x"].data[...] = x
        net.forward()
        crops.append(cropped(x, 4, 7))
        mean = np.mean(crops[:2], axis=(0, 1))  # of the first two batches
        taken = mean if per_pixel else mean.mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(net.blobs["y"].data, crops[-1] - taken, rtol=1e-4, atol=1e-5)
        assert net.params["d"][0].data.reshape(-1).tolist() == [n + 1]


def _augmenting(options, size=(5, 7)):
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [2, 3, {size[0]}, {size[1]}] }} }} }}
    layer {{ name: "d" type: "DataAugmentation" bottom: "x" top: "y" augmentation_param {{ {options} }} }}"""
    return Net.from_param(parse(text, proto.NetParameter()), Origin())


def test_a_mean_of_images_of_another_size_is_taken_by_channel(tmp_path):
    saved = _augmenting("recompute_mean: 1", (3, 4))
    saved.params["d"][0].data[...] = 5
    saved.params["d"][1].data[...] = RNG.standard_normal((1, 3, 3, 4))
    saved.params["d"][2].data[...] = saved.params["d"][1].data.mean(axis=(2, 3), keepdims=True)
    saved.save(tmp_path / "flow.caffemodel")
    net = _augmenting("recompute_mean: 1")
    net.copy_from(tmp_path / "flow.caffemodel")
    net.forward()
    expected = np.broadcast_to(-saved.params["d"][2].data, (2, 3, 5, 7))
    np.testing.assert_allclose(net.blobs["y"].data, expected, rtol=1e-5)
