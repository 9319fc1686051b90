"""Every CUDA kernel, built for the CPU, agrees with ``kernels/reference``; needs g++, no GPU."""

from __future__ import annotations

import inspect
import math

import cuda_host
import numpy as np
import pytest
import strict_cupy
from strict_gpu import StrictBackend

from minicaffe.errors import ShapeError
from minicaffe.kernels import reference
from minicaffe.kernels.cuda import conv, launch
from minicaffe.kernels.cuda.launch import program
from minicaffe.kernels.window import Window

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")

REDUCTION_SIZES = (1, 2, 31, 257, 5000)
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="module")
def backend():
    return StrictBackend()


@pytest.fixture
def agrees(backend, monkeypatch):
    """Calls an op on copies of its arguments, with NumPy and with the kernels, and compares every array afterwards.

    The kernels run twice, threads first to last and last to first: a missing barrier or a race changes the result.
    """

    def check(name, *args):
        parameters = list(inspect.signature(getattr(reference, name)).parameters)[: len(args)]
        expected = [on_arrays(np.copy, arg) for arg in args]
        getattr(reference, name)(*expected)
        results = []
        for reverse in (False, True):
            monkeypatch.setattr(strict_cupy.RawModule, "reverse", reverse)
            actual = [on_arrays(strict_cupy.array, arg) for arg in args]
            with strict_cupy.no_sync():
                getattr(backend.ops, name)(*actual)
            results.append([arg.get() if isinstance(arg, strict_cupy.ndarray) else None for arg in actual])
        for parameter, want, got, again in zip(parameters, expected, *results, strict=True):
            if isinstance(want, np.ndarray) and parameter != "workspace":
                tolerance = TOLERANCE.get(want.dtype, 0)
                scale = np.abs(want[np.isfinite(want)]).max(initial=0)
                np.testing.assert_allclose(
                    got, want, rtol=tolerance, atol=tolerance * scale, err_msg=f"{name}: {parameter}"
                )
                np.testing.assert_array_equal(again, got, err_msg=f"{name}: {parameter}, threads in reverse")

    return check


def on_arrays(convert, value):
    """``convert`` applied to an array or to a list of arrays; anything else as it is."""
    if isinstance(value, list):
        return [on_arrays(convert, item) for item in value]
    return convert(value) if isinstance(value, np.ndarray) else value


def numbers(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def window(kernel, stride=1, pad=0, dilation=1, axes=2):
    sides = (side if isinstance(side, tuple) else (side,) * axes for side in (kernel, stride, pad, dilation))
    return Window(*sides)


def positions(shape, window):
    return tuple(
        (size + 2 * p - extent) // s + 1
        for size, extent, s, p in zip(shape, window.extent, window.stride, window.pad, strict=True)
    )


# --- linear algebra


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_gemm(agrees, dtype, transpose_a, transpose_b, accumulate):
    a, b = numbers((4, 3) if transpose_a else (3, 4), dtype), numbers((5, 4) if transpose_b else (4, 5), dtype)
    agrees("gemm", a, b, numbers((3, 5), dtype), transpose_a, transpose_b, accumulate)


@pytest.mark.parametrize("count", REDUCTION_SIZES)
def test_dot(agrees, dtype, count):
    agrees("dot", numbers(count, dtype), numbers(count, dtype, 1), np.array(3, dtype))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (3, 5, 1),
        (2, 40, 1),
        (300, 3, 1),
        (2, 3, 49),
        (2, 3, 5000),
        (2, 1500, 2),
        (0, 3, 4),
        (3, 5),
        (2, 3, 4, 5),
    ],
)
def test_bias(agrees, dtype, shape):
    agrees("bias_add", numbers(shape, dtype), numbers(shape[1], dtype, 1))
    agrees("bias_grad", numbers(shape, dtype), numbers(shape[1], dtype, 1))


# --- windows

CONVOLUTIONS = [  # in_shape, window, group, channels, filters
    ((5,), window(3, axes=1), 1, 2, 3),
    ((9, 8), window(3), 1, 3, 4),
    ((9, 8), window((3, 2), (2, 1), (1, 2)), 1, 3, 4),
    ((9, 11), window(3, 2, 2, 2), 1, 2, 4),
    ((7, 7), window(3, 1, 1), 2, 4, 6),
    ((6, 6), window(3, 2), 4, 4, 4),
    ((5, 6), window(1), 1, 3, 2),
    ((5, 6), window(1), 2, 4, 2),
    ((5, 6), window(1, 2), 1, 3, 2),
    ((3, 3), window(5, 1, 3), 1, 1, 1),
    ((4, 5, 6), window((2, 3, 2), (1, 2, 1), (1, 0, 1), axes=3), 1, 2, 3),
    ((2, 3, 2, 3), window(2, 1, 1, axes=4), 1, 2, 2),
]


@pytest.mark.parametrize(("in_shape", "window", "group", "channels", "filters"), CONVOLUTIONS)
@pytest.mark.parametrize("images", [1, 3])
def test_convolution(agrees, backend, dtype, in_shape, window, group, channels, filters, images):
    out_shape = positions(in_shape, window)
    x, y = numbers((images, channels, *in_shape), dtype), numbers((images, filters, *out_shape), dtype, 1)
    w = numbers((filters, channels // group, *window.kernel), dtype, 2)
    columns = numbers((images, channels * window.taps, *out_shape), dtype, 3)
    agrees("im2col", x, columns, window)
    agrees("col2im", columns, x, window)
    size = max(ops.convolution_workspace(x.shape, y.shape, window, group) for ops in (reference, backend.ops))
    workspace = np.empty(size, dtype)
    agrees("convolve", x, w, numbers(filters, dtype, 4), y, window, group, workspace)
    agrees("convolve", x, w, None, y, window, group, workspace)
    agrees("convolve_data_grad", y, w, x, window, group, workspace)
    for accumulate in (True, False):
        agrees("convolve_weight_grad", x, y, w, window, group, workspace, accumulate)
    agrees("convolve_weight_grad", x, y, w, window, group, workspace, True, numbers(filters, dtype, 5))


@pytest.mark.parametrize("accumulate", [True, False])
def test_weights_get_no_gradient_from_no_images(agrees, dtype, accumulate):
    x, y, w = numbers((0, 3, 9, 8), dtype), numbers((0, 4, 7, 6), dtype), numbers((4, 3, 3, 3), dtype)
    agrees("convolve_weight_grad", x, y, w, window(3), 1, np.empty(0, dtype), accumulate)


@pytest.mark.parametrize(("limit", "large"), [(1, 1 << 20), (400, 1 << 20), (1, 1), (400, 1)])
def test_convolution_in_chunks_and_with_large_products(agrees, backend, monkeypatch, limit, large):
    monkeypatch.setattr(conv, "_CHUNK_ELEMENTS", limit)
    monkeypatch.setattr(conv, "_LARGE_PRODUCT", large)
    three_by_three, shape = window(3, 1, 1), (5, 4, 3, 3)
    x, y, w = numbers(shape, np.float64), numbers((5, 6, 3, 3), np.float64, 1), numbers((6, 2, 3, 3), np.float64, 2)
    assert backend.ops.convolution_workspace(x.shape, y.shape, three_by_three, 2) < 5 * 4 * 9 * 9
    workspace = np.empty(5 * 4 * 9 * 9, np.float64)
    agrees("convolve", x, w, None, y, three_by_three, 2, workspace)
    agrees("convolve_data_grad", y, w, x, three_by_three, 2, workspace)
    for accumulate in (True, False):
        agrees("convolve_weight_grad", x, y, w, three_by_three, 2, workspace, accumulate)


POOLINGS = [  # in_shape, window, out_shape; Caffe rounds the number of positions up, so windows may cross the border
    ((4, 4), window(2, 2), (2, 2)),
    ((5, 7), window(3, 2), (2, 3)),
    ((6, 6), window(3, 2), (3, 3)),
    ((5, 4), window((2, 3), (1, 2), (1, 1)), (6, 3)),
    ((3, 3), window(2, 3), (2, 2)),
    ((1, 1), window(2, 2, 1), (2, 2)),
    ((4, 4), window(2, 5), (2, 2)),
    ((40, 33), window(3, 1, 1), (40, 33)),
]


@pytest.mark.parametrize(("in_shape", "window", "out_shape"), POOLINGS)
def test_pooling(agrees, dtype, in_shape, window, out_shape):
    shape, pooled = (2, 3, *in_shape), (2, 3, *out_shape)
    x, y, mask = np.round(numbers(shape, dtype)), numbers(pooled, dtype, 1), np.full(pooled, 99, np.int32)
    agrees("max_pool", x, y, mask, window)
    reference.max_pool(x, np.copy(y), mask, window)
    agrees("max_pool_grad", y, mask, x, window)
    agrees("average_pool", x, y, window)
    agrees("average_pool_grad", y, x, window)
    u = np.random.default_rng(2).uniform(0.01, 1, pooled).astype(dtype)
    x = np.maximum(np.round(2 * numbers(shape, dtype)), 0)
    agrees("stochastic_pool", x, u, y, mask, window)
    agrees("stochastic_pool_mean", x, y, window)


def test_max_pool_of_nan_and_of_very_small_numbers(agrees, dtype):
    x = np.full((1, 1, 2, 6), np.nan, dtype)
    x[0, 0, 0, 2:] = (-np.inf, np.nan, 7, -np.inf)
    agrees("max_pool", x, numbers((1, 1, 1, 3), dtype), np.zeros((1, 1, 1, 3), np.int32), window(2, 2))


# --- neurons


def polynomial(x, y, z, a, b):
    """A formula with every operator that a neuron may use."""
    return a * x**2 - y / (abs(z) + 1) + (b if x > 0 else -y) + (0 < y <= 1.5) * +z - (x == y) + (y != z)


def functions(x, y):
    return math.exp(-abs(x)) + math.log(x * x + 1) + math.sqrt(abs(y)) + math.tanh(x) + min(x, y, 0.5) - max(x, 0)


def constant(default):
    return default


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (70000,)])
def test_elementwise(agrees, dtype, shape):
    x, y, z = (numbers(shape, dtype, seed) for seed in range(3))
    agrees("elementwise", polynomial, [x, y, z], [0.5, 3], numbers(shape, dtype, 3))
    agrees("elementwise", functions, [x, y], [], numbers(shape, dtype, 3))
    agrees("elementwise", constant, [x], [], numbers(shape, dtype, 3))


def normalize(x, y, mean, variance, eps):
    return (x - mean) / math.sqrt(variance + eps) * y


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (2, 40, 1), (2, 3, 49), (2, 3, 20000), (0, 3, 4)])
def test_formulas_with_a_value_a_channel(agrees, dtype, shape):
    x, y = numbers(shape, dtype), numbers(shape, dtype, 1)
    mean, variance = numbers(shape[1], dtype, 2), np.abs(numbers(shape[1], dtype, 3))
    agrees("channelwise", normalize, [x, y], [mean, variance], [0.01], numbers(shape, dtype, 4))
    agrees("channelwise", constant, [x], [], [], numbers(shape, dtype, 4))
    agrees("channel_sum", normalize, [x, y], [mean, variance], [0.01], mean)


# --- rows, normalisation, recurrence


@pytest.mark.parametrize(("rows", "count", "size"), [(1, 1, 1), (7, 20, 3), (50, 9, 300)])
def test_rows(agrees, dtype, rows, count, size):
    x, y, index = (
        numbers((rows, size), dtype),
        numbers((count, size), dtype, 1),
        labels((count,), rows, dtype, 0, -1, 50),
    )
    agrees("gather_rows", x, index, y)
    agrees("scatter_rows", y, index, x)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 9), (3, 20, 5), (2, 7, 300)])
def test_lrn(agrees, dtype, shape, size):
    x, y, dy = (numbers(shape, dtype, seed) for seed in range(3))
    scale = 1 + np.abs(numbers(shape, dtype, 3))
    agrees("lrn", x, scale, y, size, 1.0, 0.75, 2.0)
    agrees("lrn_grad", x, y, scale, dy, numbers(shape, dtype, 4), size, 1.0, 0.75)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 1), (2, 3, 300)])
def test_standardize_and_scale(agrees, dtype, shape, keep):
    x, dy, y, kept, dx = (numbers(shape, dtype, seed) for seed in range(5))
    a, b, c, d = (1 + np.abs(numbers(shape[1:2], dtype, 5 + seed)) for seed in range(4))
    agrees("standardize", x, 0.5, a, b, c, y, kept if keep else None)
    agrees("standardize_grad", x, dy, a, b, c, d, dx)
    agrees("scale", x, a, b if keep else None, y, kept if keep else None)
    agrees("scale_grad", x, dy, a, dx if keep else None, b, c if keep else None)


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 1), (2, 3, 300)])
def test_standardize_scale_and_rectify(agrees, dtype, shape, slope):
    x, dy, y, dx = (numbers(shape, dtype, seed) for seed in range(4))
    a, b, c, d, e, f = (1 + np.abs(numbers(shape[1:2], dtype, 5 + seed)) for seed in range(6))
    signs = numbers(shape[1:2], dtype, 20)
    agrees("standardize", x, 0.5, a, b, c, y, None, d, signs, slope)
    agrees("standardize_grad", x, dy, a, b, c, d, dx, y, signs, e, f, slope)
    agrees("standardize_grad", x, dy, a, b, c, d, dx, y, signs, None, f, slope)
    agrees("scale", x, signs, b, y, None, a, slope)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 3, 7), (1, 3, 20, 17)])
def test_lrn_within(agrees, dtype, shape, size):
    x, y, dy = (numbers(shape, dtype, seed) for seed in range(3))
    scale = 1 + np.abs(numbers(shape, dtype, 3))
    agrees("lrn_within", x, scale, y, size, 1.0, 0.75)
    agrees("lrn_within_grad", x, y, scale, dy, numbers(shape, dtype, 4), size, 1.0, 0.75)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 300)])
def test_lstm(agrees, dtype, shape):
    n, size = shape
    c_before, c, h = (numbers(shape, dtype, seed) for seed in range(3))
    gates, cont = numbers((n, 4 * size), dtype, 3), labels((n,), 2, dtype, 1, 0, 0.5)
    c_before[cont == 0] = np.nan
    agrees("lstm_unit", c_before, gates, cont, c, h)
    agrees(
        "lstm_unit_grad",
        c_before,
        gates,
        cont,
        c,
        h,
        numbers(shape, dtype, 4),
        numbers(shape, dtype, 5),
        np.empty_like(gates),
    )


# --- softmax, losses, accuracy

SCORES = [(1, 1, 1), (5, 10, 1), (3, 300, 1), (2, 4, 35), (1, 1000, 3), (70, 3, 2)]


@pytest.mark.parametrize("shape", SCORES)
def test_softmax(agrees, dtype, shape):
    x, y = 10 * numbers(shape, dtype), numbers(shape, dtype, 1)
    agrees("softmax", x, y)
    agrees("softmax_grad", y, numbers(shape, dtype, 2), x)


def test_softmax_in_place(backend, dtype):
    x = numbers((2, 4, 35), dtype)
    device, expected = strict_cupy.array(x), np.empty_like(x)
    reference.softmax(x, expected)
    backend.ops.softmax(device, device)
    np.testing.assert_allclose(device.get(), expected, rtol=TOLERANCE[dtype])


def labels(shape, classes, dtype, *others):
    """Random labels, and ``others`` at the front."""
    values = np.random.default_rng(0).integers(0, classes, shape).astype(dtype)
    values.reshape(-1)[: len(others)] = others[: values.size]
    return values


@pytest.mark.parametrize("ignore_label", [None, 0, 255, -1])
@pytest.mark.parametrize("shape", SCORES)
def test_softmax_loss(agrees, dtype, shape, ignore_label):
    outer, classes, inner = shape
    prob, label = np.abs(numbers(shape, dtype)), labels((outer, inner), classes, dtype, 0, 255, -1)
    prob[0, 0, 0] = 0
    normalizer, weight = np.array(7, dtype), np.array(0.5, dtype)
    agrees("softmax_loss", prob, label, ignore_label, normalizer, np.array(9, dtype))
    agrees("softmax_loss_grad", prob, label, ignore_label, normalizer, weight, numbers(shape, dtype, 1))
    agrees("check_labels", label, classes, ignore_label, np.array(0, np.int32))
    agrees("check_labels", labels((outer, inner), classes, dtype), classes, ignore_label, np.array(0, np.int32))


@pytest.mark.parametrize("normalization", [reference.FULL, reference.VALID, reference.BATCH_SIZE, reference.NONE])
@pytest.mark.parametrize("ignore_label", [None, 1])
@pytest.mark.parametrize("count", [1, 3, 4000])
def test_loss_normalizer(agrees, dtype, normalization, ignore_label, count):
    agrees("loss_normalizer", labels((1, count), 2, dtype, 1), 1, ignore_label, normalization, np.array(0, dtype))


def test_a_loss_that_is_not_a_number_stays_visible(agrees, dtype):
    prob = np.full((2, 3, 1), np.nan, dtype)
    agrees("softmax_loss", prob, np.zeros((2, 1), dtype), None, np.array(2, dtype), np.array(0, dtype))


@pytest.mark.parametrize("ignore_label", [None, 0])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("shape", SCORES)
def test_accuracy(agrees, dtype, shape, top_k, ignore_label):
    outer, classes, inner = shape
    score, label = np.round(2 * numbers(shape, dtype)), labels((outer, inner), classes, dtype, 0, 2000, -1)
    per_class, seen = numbers(classes, dtype), numbers(classes, dtype)
    agrees("accuracy", score, label, top_k, ignore_label, np.array(9, dtype), per_class, seen)


@pytest.mark.parametrize("ignore_label", [None, 1])
@pytest.mark.parametrize("count", REDUCTION_SIZES)
def test_sigmoid_loss(agrees, dtype, count, ignore_label):
    x, target = 10 * numbers(count, dtype), labels((count,), 2, dtype, 0.3)
    normalizer, weight = np.array(7, dtype), np.array(0.5, dtype)
    agrees("sigmoid_loss", x, target, ignore_label, normalizer, np.array(9, dtype))
    agrees("sigmoid_loss_grad", x, target, ignore_label, normalizer, weight, numbers(count, dtype, 1))


@pytest.mark.parametrize("ignore_label", [None, 0])
@pytest.mark.parametrize("shape", SCORES)
def test_infogain_loss(agrees, dtype, shape, ignore_label):
    outer, classes, inner = shape
    prob, label = np.abs(numbers(shape, dtype)), labels((outer, inner), classes, dtype, 0, 2000, -1)
    prob[0, 0, 0] = 0
    gain, normalizer, weight = numbers((classes, classes), dtype, 1), np.array(7, dtype), np.array(0.5, dtype)
    agrees("infogain_loss", prob, label, gain, ignore_label, normalizer, np.array(9, dtype))
    agrees("infogain_loss_grad", prob, label, gain, ignore_label, normalizer, weight, numbers(shape, dtype, 2))


@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (300, 20)])
def test_multinomial_and_hinge_loss(agrees, dtype, shape):
    x, label, weight = numbers(shape, dtype), labels(shape[:1], shape[1], dtype, 0, -1, 2000), np.array(0.5, dtype)
    agrees("multinomial_loss", np.maximum(x, 0), label, np.array(9, dtype))
    agrees("multinomial_loss_grad", np.maximum(x, 0), label, weight, numbers(shape, dtype, 1))
    for squared in (False, True):
        agrees("hinge_loss", x, label, squared, numbers(shape, dtype, 2), np.array(9, dtype))
        agrees("hinge_loss_grad", np.maximum(x, 0), label, squared, weight, numbers(shape, dtype, 3))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 2000)])
def test_euclidean_loss(agrees, dtype, shape):
    a, b, difference = numbers(shape, dtype), numbers(shape, dtype, 1), numbers(shape, dtype, 2)
    agrees("euclidean_loss", a, b, difference, np.array(9, dtype))
    agrees("euclidean_loss_grad", difference, np.array(0.3, dtype), -1.0, a)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (64, 2), (300, 3), (5, 700)])
def test_contrastive_loss(agrees, dtype, shape, legacy):
    a, b = numbers(shape, dtype) / shape[1], numbers(shape, dtype, 1) / shape[1]
    b[0] = a[0]  # distance 0
    difference, distance = a - b, ((a - b) ** 2).sum(axis=1)
    similar, scalar = labels(shape[:1], 2, dtype, 0), np.array(0.3, dtype)
    agrees("contrastive_loss", a, b, similar, 0.9, legacy, numbers(shape, dtype, 2), distance, scalar)
    agrees("contrastive_loss_grad", difference, distance, similar, 0.9, legacy, scalar, -1.0, numbers(shape, dtype, 3))


# --- solver updates


@pytest.mark.parametrize("limit", [0.01, 1e6])
@pytest.mark.parametrize("count", REDUCTION_SIZES)
def test_clip_by_norm(agrees, dtype, count, limit):
    agrees("clip_by_norm", numbers(count, dtype), limit, np.array(0, dtype))


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5000])
@pytest.mark.parametrize(
    ("name", "numbers_before"),
    [
        ("sgd_update", (0.1, 0.9)),
        ("nesterov_update", (0.1, 0.9)),
        ("adagrad_update", (0.1, 1e-3)),
        ("rmsprop_update", (0.1, 0.9, 1e-3)),
        ("adadelta_update", (0.1, 0.9, 1e-3)),
        ("adam_update", (0.1, 0.9, 0.99, 1e-3)),
    ],
)
def test_updates(agrees, dtype, name, numbers_before, count, l1):
    w, g, *histories = (
        numbers(count, dtype, seed) for seed in range(4 if name in ("adadelta_update", "adam_update") else 3)
    )
    histories = [np.abs(h) for h in histories]
    w[:1] = 0
    agrees(name, w, g, *histories, *numbers_before, 0.5, 0.01, l1)


# --- grids and memory


def test_grids_smaller_than_the_arrays(agrees, monkeypatch, dtype):
    monkeypatch.setattr(launch, "_MAX_BLOCKS", 2)
    monkeypatch.setattr(launch, "_MAX_GRID_Y", 2)
    scores = [numbers((7, 5, 3), dtype, seed) for seed in range(3)]
    agrees("softmax", *scores[:2])
    agrees("softmax_grad", *scores)
    agrees("bias_add", numbers((3, 5, 700), dtype), numbers(5, dtype))
    agrees("bias_add", numbers((300, 5, 1), dtype), numbers(5, dtype))
    agrees("sgd_update", *(numbers(3000, dtype, seed) for seed in range(3)), 0.1, 0.9, 0.5, 0.01, False)


def test_ops_do_not_allocate_the_second_time(backend, dtype):
    x, dbias, workspace = (strict_cupy.zeros(shape, dtype) for shape in ((8, 3000, 2), (3000,), (8 * 3000 * 2,)))
    loss, image, w = (strict_cupy.zeros(shape, dtype) for shape in ((), (2, 3, 6, 6), (4, 3, 3, 3)))
    y = strict_cupy.zeros((2, 4, 4, 4), dtype)

    def calls():
        backend.ops.bias_grad(x, dbias)
        backend.ops.dot(x, x, loss)
        backend.ops.clip_by_norm(x, 1.0, loss)
        backend.ops.convolve(image, w, None, y, window(3), 1, workspace)
        backend.ops.convolve_weight_grad(image, y, w, window(3), 1, workspace, False)

    calls()
    before = strict_cupy.allocations()
    calls()
    assert strict_cupy.allocations() == before


def test_a_row_too_long_for_a_kernel_is_refused(backend):
    y = strict_cupy.zeros((1, 1, 1), np.float32)
    with pytest.raises(ShapeError, match="2147483648 elements"):
        backend.ops.launch.planes(program("linear", np.float32), "bias_add", 1, 1 << 31, y, y, 1)


def test_half_precision_is_refused(backend):
    with pytest.raises(TypeError, match="float16"):
        backend.ops.bias_add(strict_cupy.zeros((1, 1, 1), np.float16), strict_cupy.zeros((1,), np.float16))
