"""Layers with options as large as their fields hold: the right result, or an error of ours."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import testing
from minicaffe.errors import LayerError, ShapeError

X = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
WINDOWED = ("Convolution", "Deconvolution", "Im2col")


def run(kind, x=X, **fields):
    made = {} if kind in ("Pooling", "Im2col") else {"num_output": 4, "weight_filler": {"type": "xavier"}, "seed": 1}
    return testing.run(kind, [x], **{**made, **fields})


@pytest.mark.parametrize("stride", [12, 2**28, 2**29, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("round_mode", ["CEIL", "FLOOR"])
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_pooling_strides_beyond_the_image(pool, round_mode, stride):
    found = run("Pooling", pool=pool, round_mode=round_mode, kernel_size=3, stride=stride, pad=1)
    expected = run("Pooling", pool=pool, round_mode=round_mode, kernel_size=3, stride=11, pad=1)
    np.testing.assert_array_equal(found.tops[0], expected.tops[0])
    np.testing.assert_array_equal(found.bottom_diffs[0], expected.bottom_diffs[0])
    assert found.tops[0].shape == (2, 4, 1, 1)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_a_second_pooling_window_beyond_the_image_is_empty(pool):
    found = run("Pooling", pool=pool, kernel_size=2, stride=2**31 - 1)
    expected = run("Pooling", pool=pool, kernel_size=2, stride=9)
    np.testing.assert_array_equal(found.tops[0], expected.tops[0])
    assert found.tops[0].shape == (2, 4, 2, 2)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_pooling_kernels_beyond_the_image(pool):
    found = run("Pooling", pool=pool, kernel_size=2**31 - 1, stride=2**31 - 1).tops[0][..., 0, 0]
    expected = X.max((2, 3)) if pool == "MAX" else X.mean((2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Convolution", "Im2col"])
def test_strides_that_are_never_taken(kind):
    found, expected = (run(kind, kernel_size=3, stride=stride) for stride in (2**32 - 1, 20))
    np.testing.assert_array_equal(found.tops[0], expected.tops[0])
    np.testing.assert_array_equal(found.bottom_diffs[0], expected.bottom_diffs[0])


@pytest.mark.parametrize("kind", WINDOWED)
def test_dilations_of_a_single_tap(kind):
    found, expected = (run(kind, kernel_size=1, dilation=dilation) for dilation in (2**32 - 1, 1))
    np.testing.assert_array_equal(found.tops[0], expected.tops[0])


@pytest.mark.parametrize("kind", [*WINDOWED, "Pooling"])
@pytest.mark.parametrize(
    "fields",
    [
        {"pad": 2**31 - 1},
        {"pad": 2**31 - 1, "stride": 2**31 - 1},
        {"kernel_size": 2**32 - 1, "pad": 2**31 - 1},
        {"pad": 2**32 - 1},
        {"pad": 2**27, "kernel_size": 2**27 + 1},
    ],
)
def test_pads_that_no_memory_holds(kind, fields):
    with pytest.raises((LayerError, MemoryError), match=rf"layer '{kind}' \({kind}\)"):
        run(kind, **{"kernel_size": 3, **fields})


@pytest.mark.parametrize("dilation", [2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("kind", WINDOWED)
def test_dilations_beyond_the_image(kind, dilation):
    with pytest.raises(ShapeError, match=rf"layer '{kind}'"):
        run(kind, kernel_size=3, dilation=dilation)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((5, 6), 1), ((2, 3, 6), 2), ((2, 3, 6), -1)])
def test_a_convolution_without_spatial_axes_is_an_inner_product(layer_backend, shape, axis, group):
    x = np.random.default_rng(1).standard_normal(shape)
    options = {
        "num_output": 4, "axis": axis, "group": group, "weight_filler": {"type": "xavier"}, "bias_filler": {"value": 0.5},
    }  # fmt: skip
    result = testing.run("Convolution", [x], **options, dtype=np.float64)
    w, b = result.params
    assert w.shape == (4, 6 // group)
    full = np.zeros((4, 6))
    for g in range(group):
        rows, columns = slice(g * 4 // group, (g + 1) * 4 // group), slice(g * 6 // group, (g + 1) * 6 // group)
        full[rows, columns] = w[rows]
    np.testing.assert_allclose(result.tops[0], x @ full.T + b, rtol=1e-12, atol=1e-12)
    for kind in ("Convolution", "Deconvolution"):
        testing.check_gradient(kind, [x], **options)


def test_kernel_sizes_of_no_axis_are_accepted_as_by_caffe():
    x = np.ones((2, 3))
    assert testing.run("Convolution", [x], num_output=4, kernel_size=3, stride=2, pad=1).tops[0].shape == (2, 4)
    with pytest.raises(LayerError, match="need 2 spatial axes; found 0"):
        testing.run("Convolution", [x], num_output=4, kernel_h=3, kernel_w=3)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_images_without_pixels(kind):
    with pytest.raises(ShapeError, match=rf"layer '{kind}' .*the input has no pixels; found 2 3 0 5"):
        testing.run(kind, [np.ones((2, 3, 0, 5))], num_output=4, kernel_size=5, pad=2)


@pytest.mark.parametrize(
    ("gamma", "power", "expected"),
    [(-1, 2, np.inf), (-3, 0.5, np.nan), (1, -1e30, np.inf), (1, 1e30, 0.25), (0, 1e30, 3)],
)
def test_margins_whose_weight_overflows_as_it_does_in_c(gamma, power, expected):
    x, labels = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    options = {"num_output": 4, "base": 3, "gamma": gamma, "power": power, "lambda_min": 0.25, "tops": 2}
    found = testing.run("MarginInnerProduct", [x, labels], backward=False, **options)
    np.testing.assert_array_equal(found.tops[1], [np.float32(expected)])


@pytest.mark.parametrize(("gamma", "expected"), [(-1, -1), (1e30, 5)])
def test_margins_that_move_as_they_do_in_c(gamma, expected):
    scores = np.full((1, 2), 10, np.float32)
    options = {"bias_base": 0, "bias_gamma": gamma, "bias_power": 2.5, "bias_min": -9, "bias_max": 5, "iteration": 1}
    found = testing.run("LabelSpecificAdd", [scores, np.zeros(1, np.float32)], backward=False, **options)
    np.testing.assert_array_equal(found.tops[0], [[np.float32(10 + expected), 10]])


@pytest.mark.parametrize(
    ("field", "options"),
    [("bias_gamma", {"bias_base": 0, "bias_gamma": -3, "bias_power": 2.5, "iteration": 1}), ("bias", {"bias": np.nan})],
)
def test_a_margin_must_be_a_number(field, options):
    with pytest.raises(LayerError, match=rf"label_specific_add_param\.{field}: .*NaN"):
        testing.run("LabelSpecificAdd", [np.ones((1, 2), np.float32), np.zeros(1, np.float32)], **options)
