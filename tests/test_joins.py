"""Layers that bring maps of different sizes together, and pooling of pixels that are apart, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minicaffe import proto, testing
from minicaffe.net import Net

RNG = np.random.default_rng


def test_mask_pooling_weighs_pixels():
    rng = RNG(0)
    x, mask, dy = rng.standard_normal((2, 3, 4, 5)), rng.random((2, 1, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    found = testing.run("MaskPooling", [x, mask], top_diffs=[dy])
    y, dx, dm = np.zeros_like(x), np.zeros_like(x), np.zeros_like(mask)
    for n, c, h, w in np.ndindex(*x.shape):
        y[n, c, h, w] = x[n, c, h, w] * mask[n, 0, h, w]
        dx[n, c, h, w] = dy[n, c, h, w] * mask[n, 0, h, w]
        dm[n, 0, h, w] += dy[n, c, h, w] * x[n, c, h, w]
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[0], dx, rtol=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[1], dm, rtol=1e-4, atol=1e-5)


def between(image, y: float, x: float) -> float:
    """What MNC's MaskResize takes from a place of an image."""
    height, width = image.shape
    if y > height - 0.5 or x > width - 0.5:
        return 0.0
    y, x = min(y, height - 1), min(x, width - 1)
    top, left = int(y), int(x)
    below, right, down, across = min(top + 1, height - 1), min(left + 1, width - 1), y - top, x - left
    return (
        (1 - down) * ((1 - across) * image[top, left] + across * image[top, right])
        + down * ((1 - across) * image[below, left] + across * image[below, right])
    )  # fmt: skip


@pytest.mark.parametrize("size", [(9, 7), (2, 3), (4, 5), (1, 1), (25, 4)])
def test_mask_resize_is_that_of_network_cascades(size):
    x = RNG(1).standard_normal((2, 3, 4, 5))
    found = testing.run("MaskResize", [x], output_height=size[0], output_width=size[1])
    expected = np.zeros((2, 3, *size))
    for n, c, h, w in np.ndindex(*expected.shape):
        expected[n, c, h, w] = between(x[n, c], h * 4 / size[0], w * 5 / size[1])
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-4, atol=1e-5)


def test_mask_resize_goes_by_factors():
    layer = {"output_height": 1, "output_width": 8, "factor_height": 1.6}
    assert testing.run("MaskResize", [np.zeros((1, 2, 4, 5))], **layer).tops[0].shape == (1, 2, 6, 8)


@pytest.mark.parametrize("sizes", [((4, 5), (7, 6)), ((2, 3, 4), (5, 3, 6)), ((), ())])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("said", [{}, {"forward": [True, False]}, {"backward": [False, True]}, {"forward": [False]}])
def test_merge_crop_takes_the_middle(sizes, add, said):
    rng = RNG(2)
    a, b = (
        rng.standard_normal((2, channels, *size)) for channels, size in zip((3, 3 if add else 4), sizes, strict=True)
    )
    dy = rng.standard_normal((2, 3 if add else 7, *sizes[0]))
    used, taught = [True, True], [True, False]
    used[: len(said.get("forward", []))] = said.get("forward", [])
    taught[: len(said.get("backward", []))] = said.get("backward", [])
    options = {"operation": "ADD" if add else "STACK", **said}
    found = testing.run("MergeCrop", [a, b], top_diffs=[dy], mergecrop_param=options)
    y, da, db = np.zeros_like(dy), np.zeros_like(a), np.zeros_like(b)
    skipped = [(large - small) // 2 for small, large in zip(*sizes, strict=True)]
    for n, c, *place in np.ndindex(*a.shape):
        y[(n, c, *place)] += a[(n, c, *place)] * used[0]
        da[(n, c, *place)] = dy[(n, c, *place)] * taught[0]
    for n, c, *place in np.ndindex(2, b.shape[1], *sizes[0]):
        into, out_of = (n, c + (0 if add else 3), *place), (n, c, *(p + s for p, s in zip(place, skipped, strict=True)))
        y[into] += b[out_of] * used[1]
        db[out_of] = dy[into] * taught[1]
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottom_diffs[0], da, rtol=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[1], db, rtol=1e-5)


@pytest.mark.parametrize(
    "kernel, stride, pad, steps",
    [((2, 2), (1, 1), (0, 0), (2,)), ((3, 2), (2, 1), (2, 1), (2, 3)), ((2, 2), (5, 4), (0, 0), (4,)),
     ((1, 3), (2, 2), (0, 3), (7, 2))],
)  # fmt: skip
@pytest.mark.parametrize("nan", [False, True])
def test_a_dilated_maximum_is_that_of_pixels_apart(kernel, stride, pad, steps, nan):
    rng = RNG(3)
    x = rng.standard_normal((2, 3, 9, 10))
    if nan:
        x[0, 1, 4, 5] = np.nan
    down, right = steps[0], steps[-1]
    spans = down * (kernel[0] - 1) + 1, right * (kernel[1] - 1) + 1
    sizes = [
        math.ceil((size + 2 * p - span) / s) + 1 for size, p, span, s in zip((9, 10), pad, spans, stride, strict=True)
    ]
    sizes = [
        out - (any(pad) and (out - 1) * s >= size + p)
        for out, size, p, s in zip(sizes, (9, 10), pad, stride, strict=True)
    ]
    options = {"kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": stride[0], "stride_w": stride[1]}
    options |= {"pad_h": pad[0], "pad_w": pad[1], "dilation": list(steps)}
    dy = rng.standard_normal((2, 3, *sizes))
    found = testing.run("Pooling", [x], tops=2, top_diffs=[dy, np.zeros_like(dy)], **options)
    y, mask, dx = np.full(dy.shape, -np.finfo(np.float32).max), np.full(dy.shape, -1), np.zeros_like(x)
    for n, c, p, q in np.ndindex(*dy.shape):
        for i, j in np.ndindex(*kernel):
            h, w = p * stride[0] - pad[0] + i * down, q * stride[1] - pad[1] + j * right
            if 0 <= h < 9 and 0 <= w < 10 and not y[n, c, p, q] >= x[n, c, h, w] and not np.isnan(y[n, c, p, q]):
                y[n, c, p, q], mask[n, c, p, q] = x[n, c, h, w], h * 10 + w
        if mask[n, c, p, q] >= 0:
            dx[n, c, mask[n, c, p, q] // 10, mask[n, c, p, q] % 10] += dy[n, c, p, q]
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-6)
    np.testing.assert_array_equal(found.tops[1], mask)
    np.testing.assert_allclose(found.bottom_diffs[0], dx, rtol=1e-4, atol=1e-5)


def test_steps_of_one_change_nothing():
    x = RNG(4).standard_normal((1, 2, 6, 6))
    plain, stepped = (
        testing.run("Pooling", [x], pool="AVE", kernel_size=2, **said).tops[0] for said in ({}, {"dilation": [1]})
    )
    np.testing.assert_array_equal(plain, stepped)


U_NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "datai"
  memory_data_param { dim: 1 dim: 1 dim: 10 dim: 26 dim: 26 } }
layer { name: "silence" type: "Silence" bottom: "datai" }
layer { name: "down" type: "Convolution" bottom: "data" top: "down"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } dilation: 1 } }
layer { name: "small" type: "Convolution" bottom: "down" top: "small"
  convolution_param { num_output: 4 kernel_size: [1, 2, 2] stride: [1, 2, 2] weight_filler { type: "xavier" } } }
layer { name: "deep" type: "Convolution" bottom: "small" top: "deep"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "up" type: "Deconvolution" bottom: "deep" top: "up" param { lr_mult: 0 }
  convolution_param { num_output: 8 kernel_size: [1, 2, 2] stride: [1, 2, 2] group: 8 bias_term: false
    weight_filler { type: "constant" value: 1 } } }
layer { name: "join" type: "MergeCrop" bottom: "up" bottom: "down" top: "join"
  mergecrop_param { forward: true forward: true backward: true backward: true } }
layer { name: "out" type: "Convolution" bottom: "join" top: "out"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "out" top: "loss" loss_weight: 1 reduction_param { operation: SUMSQ } }
"""


def test_a_u_net_of_naibaf7_trains_on_volumes(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(U_NET)
    net = Net(path, proto.TRAIN)
    volume = RNG(5).standard_normal((2, 1, 10, 26, 26)).astype(np.float32)
    net.layer_dict["data"].reset(volume, np.zeros(2))
    net.forward()
    net.backward()
    np.testing.assert_array_equal(net.blobs["data"].data, volume[:1])
    assert net.blobs["join"].shape == (1, 12, 6, 20, 20)
    assert np.abs(net.params["down"][0].diff).sum() > 0
    np.testing.assert_array_equal(net.blobs["join"].data[:, 8:], net.blobs["down"].data[:, :, 1:7, 2:22, 2:22])
