"""Every compiled kernel against the plain NumPy version of the same name."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import os

import numba
import numpy as np
import pytest

from minicaffe.kernels import cpu, fast_paths, reference
from minicaffe.kernels.cpu.conv import depthwise, implicit_gemm, select, whole_image, winograd, winograd_transforms
from minicaffe.kernels.cpu.conv.problem import FORWARD, KINDS, WEIGHT_GRAD, Problem
from minicaffe.kernels.cpu.conv.select import candidates
from minicaffe.kernels.cpu.matmul import gemm, streamed
from minicaffe.kernels.cpu.runtime import threads as shares
from minicaffe.kernels.cpu.simd.memory import WIDTH
from minicaffe.kernels.window import Window

DTYPES = [np.float32, np.float64]
WITHOUT_FMA = "fma" not in os.environ.get("NUMBA_CPU_FEATURES", "fma")
"""Whether kernels are compiled for a processor without it; see ``targets.py``."""
FLT_MAX = np.finfo(np.float32).max


def tolerance(dtype) -> dict:
    return dict(rtol=2e-5, atol=2e-5) if dtype == np.float32 else dict(rtol=1e-11, atol=1e-11)


class Case:
    """Random arrays of one dtype, the same in every run."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.random = np.random.default_rng(1701)

    def normal(self, *shape):
        return self.random.standard_normal(shape).astype(self.dtype)

    def uniform(self, *shape):
        return 1 - self.random.random(shape).astype(self.dtype)

    def labels(self, classes, *shape):
        return self.random.integers(0, classes, shape).astype(self.dtype)

    def scalar(self, value):
        return np.array(value, self.dtype)

    def garbage(self, *shape):
        """Room for a result: what a kernel forgets to write shows."""
        return np.full(shape, 7e5, self.dtype)

    def check(self, name, inputs, outputs, of_largest=False):
        """Call the kernel both ways; ``inputs`` is a function of the outputs that lists all arguments in order.

        ``of_largest``: results are sums of much larger numbers, so that each may be off as the largest may.
        """
        expected, actual = [a.copy() for a in outputs], [a.copy() for a in outputs]
        getattr(reference, name)(*inputs(*expected))
        getattr(cpu, name)(*inputs(*actual))
        for e, a in zip(expected, actual, strict=True):
            assert a.dtype == e.dtype
            limits = tolerance(self.dtype)
            if of_largest:
                limits["atol"] += limits["rtol"] * abs(e).max()
            np.testing.assert_allclose(a, e, **limits)


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def case(request) -> Case:
    return Case(request.param)


@contextlib.contextmanager
def use(threads):
    """Run the kernels with at most so many threads, products too that are not worth waking one."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "_LEAST_PRODUCTS", 0)
        yield
    numba.set_num_threads(before)


@contextlib.contextmanager
def always():
    """Take an algorithm wherever it can be taken, be it the fastest on this processor or not."""
    caches = select.solver, select._most_workspace, select._candidates
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "_MARGIN", 0)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


def window(kernel, stride=1, pad=0, dilation=1) -> Window:
    axes = len(kernel)
    return Window(kernel, *((v,) * axes if isinstance(v, int) else v for v in (stride, pad, dilation)))


def test_every_name_of_the_reference_is_there_with_its_signature():
    for name in cpu.__all__:
        if hasattr(reference, name):
            assert inspect.signature(getattr(cpu, name)) == inspect.signature(getattr(reference, name)), name
    public = {n for n in reference.__all__ if inspect.isfunction(getattr(reference, n))}
    assert public <= set(cpu.__all__)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 7, 1), (3, 4, 9), (2, 3, 3000), (64, 500), (0, 3, 4), (3, 4, 5, 2), (6, 4, 1, 1)]
)
def test_bias(case, shape):
    bias = case.normal(shape[1])
    case.check("bias_add", lambda y: (y, bias), [case.normal(*shape)])
    dy = case.normal(*shape) + 1
    case.check("bias_grad", lambda db: (dy, db), [case.normal(shape[1])])


@pytest.mark.parametrize("size", [1, 3, 100, 40_000])
def test_dot(case, size):
    a, b = case.normal(size), case.normal(size)
    case.check("dot", lambda out: (a, b, out), [case.scalar(2)])


IM2COL = [
    ((1, 1, 5), window((3,))),
    ((2, 3, 7, 9), window((3, 2), stride=(2, 1), pad=(1, 2))),
    ((2, 3, 7, 9), window((3, 3), stride=3, pad=2, dilation=2)),
    ((1, 2, 4, 4), window((1, 1), pad=1)),
    ((1, 2, 3, 3), window((5, 5), pad=4)),
    ((2, 2, 4, 5, 6), window((2, 3, 2), stride=(1, 2, 3), pad=(0, 1, 1))),
    ((1, 2, 3, 3, 3, 3), window((2, 2, 2, 2))),
]


def positions(shape, w: Window) -> tuple[int, ...]:
    return tuple((n + 2 * p - e) // s + 1 for n, p, e, s in zip(shape, w.pad, w.extent, w.stride, strict=True))


@pytest.mark.parametrize("shape, w", IM2COL)
def test_im2col_and_back(case, shape, w):
    x = case.normal(*shape)
    columns = case.garbage(shape[0], shape[1] * w.taps, *positions(shape[2:], w))
    case.check("im2col", lambda c: (x, c, w), [columns])
    columns = case.normal(*columns.shape)
    case.check("col2im", lambda x: (columns, x, w), [case.garbage(*shape)])


POOLING = [
    ((1, 1, 1, 1), window((1, 1)), (1, 1)),
    ((2, 3, 8, 8), window((2, 2), stride=2), (4, 4)),
    ((3, 2, 24, 24), window((2, 2), stride=2), (12, 12)),
    ((2, 1, 6, 40), window((2, 2), stride=2), (3, 20)),
    ((2, 3, 7, 9), window((2, 2), stride=2), (4, 5)),
    ((2, 3, 13, 13), window((3, 3), stride=2), (6, 6)),
    ((2, 2, 16, 16), window((3, 3), stride=2), (8, 8)),
    ((1, 2, 9, 7), window((3, 2), stride=(1, 3), pad=(1, 0)), (9, 3)),
    ((1, 2, 5, 5), window((3, 3), stride=3, pad=2), (3, 3)),
    ((1, 2, 6, 5), window((6, 5)), (1, 1)),
    ((1, 2, 9, 40), window((7, 6), stride=(2, 1), pad=(3, 2)), (5, 39)),
    ((1, 2, 6, 75), window((2, 7), stride=2, pad=(0, 3)), (3, 38)),
    ((1, 1, 3, 3), window((1, 1), stride=2, pad=2), (4, 4)),  # windows that hold padding only
    ((1, 1, 3, 3), window((2, 2), stride=1, pad=1), (6, 5)),  # windows beyond the padding, too
    ((1, 1, 5, 29), window((2, 2), stride=2, pad=1), (5, 17)),
]


@pytest.mark.parametrize("shape, w, pooled", POOLING)
def test_pooling(case, shape, w, pooled):
    x, out = case.normal(*shape), (*shape[:2], *pooled)
    mask = np.full(out, 99, np.int32)
    case.check("max_pool", lambda y, m: (x, y, m, w), [case.garbage(*out), mask])
    case.check("max_pool", lambda y: (x, y, None, w), [case.garbage(*out)])
    reference.max_pool(x, case.garbage(*out), mask, w)
    dy = case.normal(*out)
    case.check("max_pool_grad", lambda dx: (dy, mask, dx, w), [case.garbage(*shape)])
    case.check("average_pool", lambda y: (x, y, w), [case.garbage(*out)])
    case.check("average_pool_grad", lambda dx: (dy, dx, w), [case.garbage(*shape)])
    positive, u = np.maximum(x, 0), case.uniform(*out)
    case.check("stochastic_pool", lambda y, m: (positive, u, y, m, w), [case.garbage(*out), mask])
    case.check("stochastic_pool_mean", lambda y: (positive, y, w), [case.garbage(*out)])


@pytest.mark.parametrize("shape, w, pooled", [POOLING[1], POOLING[5]])
@pytest.mark.parametrize(
    "values", [(0, 1), (np.nan, 1, 2), (np.nan, *range(40)), (np.nan, -np.inf), (-np.inf, np.inf, 0)], ids=str
)
def test_max_pool_takes_the_first_of_equals_and_nan_before_all(case, shape, w, pooled, values):
    x = case.random.choice(np.array(values, case.dtype), shape)
    case.check(
        "max_pool",
        lambda y, m: (x, y, m, w),
        [case.garbage(*shape[:2], *pooled), np.full((*shape[:2], *pooled), 99, np.int32)],
    )
    case.check("max_pool", lambda y: (x, y, None, w), [case.garbage(*shape[:2], *pooled)])


BY_ONE_PIXEL = [window((2, 2)), window((3, 3), pad=1), window((3, 3), pad=(2, 0))]
BY_TWO_COLUMNS = [window((2, 2), stride=2, pad=1), window((3, 3), stride=2, pad=(1, 2)), window((3, 3), stride=(1, 2))]


@pytest.mark.parametrize("size", [(14, 14), (40, 150)], ids=str)
@pytest.mark.parametrize("w", BY_ONE_PIXEL + BY_TWO_COLUMNS, ids=str)
def test_max_pool_of_small_squares(case, size, w):
    x, out = case.normal(2, 3, *size), case.garbage(2, 3, *positions(size, w))
    x[0, 1] = -np.abs(x[0, 1])  # padding must not be taken for zeros
    case.check("max_pool", lambda y: (x, y, None, w), [out])
    x[0, 0, -1, 3], x[0, 2, 5, 0], x[1, 0, 0, -1], x[1, 2] = np.nan, np.inf, -np.inf, -np.inf
    case.check("max_pool", lambda y: (x, y, None, w), [out])


@pytest.mark.parametrize("shape, w, pooled", [POOLING[1], POOLING[5]])
def test_stochastic_pooling_keeps_nan(case, shape, w, pooled):
    x, u = case.random.choice(np.array((np.nan, *range(30)), case.dtype), shape), case.uniform(*shape[:2], *pooled)
    out = (*shape[:2], *pooled)
    case.check("stochastic_pool", lambda y, m: (x, u, y, m, w), [case.garbage(*out), np.full(out, 99, np.int32)])
    case.check("stochastic_pool_mean", lambda y: (x, y, w), [case.garbage(*out)])


def leaky(x, slope):
    return x if x > 0 else slope * x


def logistic_grad(y, dy):
    return dy * y * (1 - y)


def three(a, b, c, power, shift):
    return math.tanh(a) ** power + max(b, 0) * math.exp(min(c, 1)) - abs(shift) * math.sqrt(b * b) + math.log(c * c + 1)


@pytest.mark.parametrize("function, scalars", [(leaky, [0.25]), (logistic_grad, []), (three, [2.0, -3])])
@pytest.mark.parametrize("shape", [(1,), (2, 3, 4), (40_000,), (0,)])
def test_elementwise(case, function, scalars, shape):
    arrays = [case.normal(*shape) for _ in range(function.__code__.co_argcount - len(scalars))]
    case.check("elementwise", lambda out: (function, arrays, scalars, out), [case.garbage(*shape)])


def test_elementwise_in_place_and_with_nan(case):
    x = np.array([np.nan, np.inf, -np.inf, 1], case.dtype)
    cpu.elementwise(leaky, [x], [0.5], x)
    np.testing.assert_array_equal(x, [np.nan, np.inf, -np.inf, 1])


def test_elementwise_tells_formulas_of_one_name_apart(case):
    def formula(x):
        return x + 1

    first = formula

    def formula(x):
        return x + 2

    x, y = case.normal(10), case.garbage(10)
    for f, step in ((first, 1), (formula, 2)):
        cpu.elementwise(f, [x], [], y)
        np.testing.assert_allclose(y, x + step, **tolerance(case.dtype))


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 10, 1), (2, 3, 5), (3, 4, 700), (1, 21, 513)])
def test_softmax(case, shape):
    x = case.normal(*shape) * 20
    case.check("softmax", lambda y: (x, y), [case.garbage(*shape)])
    y, dy = case.uniform(*shape), case.normal(*shape)
    case.check("softmax_grad", lambda dx: (y, dy, dx), [case.garbage(*shape)])


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (64, 10, 1), (2, 3000, 1), (2, 3, 5), (3, 4, 700), (1, 21, 129), (0, 3, 2)]
)
@pytest.mark.parametrize("power", [1, 2])
def test_unit_norm(case, shape, power):
    x, sums = case.normal(*shape), shape[::2]
    x[:, 0] *= 0  # whose sign is 0
    case.check("unit_norm", lambda norm, z: (x, 0.5, power, norm, z), [case.garbage(*sums), case.garbage(*shape)])
    z, norm, dz, dnorm = case.normal(*shape), 1 + case.uniform(*sums), case.normal(*shape), case.normal(*sums)
    z[:, -1] *= 0
    for weights in (dnorm, None):
        case.check("unit_norm_grad", lambda dx, w=weights: (z, norm, dz, power, w, dx), [case.garbage(*shape)])


def test_unit_norm_of_nan(case):
    x = case.normal(2, 3, 4)
    x[0, 1, 2] = np.nan
    for power in (1, 2):
        norm, z = case.garbage(2, 4), case.garbage(2, 3, 4)
        cpu.unit_norm(x, 0.5, power, norm, z)
        assert np.argwhere(np.isnan(norm)).tolist() == [[0, 2]]
        assert np.isnan(z[0, :, 2]).all() and np.isnan(z).sum() == 3
        dx = case.garbage(2, 3, 4)
        cpu.unit_norm_grad(z, norm, x, power, None, dx)
        assert np.isnan(dx[0, :, 2]).all() and np.isnan(dx).sum() == 3


def test_softmax_in_place(case):
    x = case.normal(4, 5, 6)
    expected = case.garbage(4, 5, 6)
    reference.softmax(x, expected)
    cpu.softmax(x, x)
    np.testing.assert_allclose(x, expected, **tolerance(case.dtype))


@pytest.mark.parametrize("outer, classes, inner", [(1, 1, 1), (64, 10, 1), (3, 4, 5)])
@pytest.mark.parametrize("ignore", [None, 0, 2, 255, -1])
def test_labels_and_softmax_loss(case, outer, classes, inner, ignore):
    label = case.labels(classes, outer, inner)
    if ignore is not None:
        label[case.random.random(label.shape) < 0.3] = ignore
    prob = case.uniform(outer, classes, inner)
    prob[0] = 0  # its logarithm is taken of FLT_MIN
    case.check("check_labels", lambda bad: (label, classes, ignore, bad), [np.array(-1, np.int32)])
    for normalization in range(4):
        case.check("loss_normalizer", lambda n, m=normalization: (label, outer, ignore, m, n), [case.scalar(9)])
    normalizer, weight = case.scalar(3), case.scalar(0.5)
    case.check("softmax_loss", lambda loss: (prob, label, ignore, normalizer, loss), [case.scalar(9)])
    case.check(
        "softmax_loss_grad", lambda dx: (prob, label, ignore, normalizer, weight, dx), [case.garbage(*prob.shape)]
    )
    for top_k in (1, 3):
        outputs = [case.scalar(9), case.garbage(classes), case.garbage(classes)]
        case.check("accuracy", lambda *out, k=top_k: (prob, label, k, ignore, *out), outputs)


@pytest.mark.parametrize("bad", [0.5, -0.5, 9.5, -np.inf, np.inf, np.nan, -1, 10, 1e30])
@pytest.mark.parametrize("ignore", [None, 0, -1])
@pytest.mark.parametrize("classes", [10, None])
def test_labels_must_be_integers(case, bad, ignore, classes):
    label = np.array([3, 1, bad, 0, bad], case.dtype)
    case.check("check_labels", lambda out: (label, classes, ignore, out), [np.array(-1, np.int32)])
    expected = np.array(-1, np.int32)
    cpu.check_labels(label, classes, ignore, expected)
    fine = bad == ignore or (classes is None and float(bad).is_integer())
    assert expected == (-1 if fine else 2)


def test_only_the_label_to_ignore_is_ignored(case):
    """Not what would be that when it is truncated."""
    target, normalizer = np.array([0, 0.5, 0.9, 1, np.nan], case.dtype), case.scalar(2)
    x = case.normal(5)
    case.check("sigmoid_loss", lambda out: (x[:4], target[:4], 0, normalizer, out), [case.scalar(9)])
    case.check("sigmoid_loss_grad", lambda out: (x, target, 0, normalizer, case.scalar(1), out), [case.garbage(5)])
    case.check("loss_normalizer", lambda out: (target, 5, 0, reference.VALID, out), [case.scalar(9)])


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_score_that_is_nan_is_never_right(case, top_k):
    score = np.array([[np.nan, 1, 2], [1, np.nan, 2], [np.nan] * 3, [3, 2, np.nan], [3, 1, 2]], case.dtype)[:, :, None]
    label = np.array([[0], [0], [1], [0], [0]], case.dtype)
    outputs = [case.scalar(9), case.garbage(3), case.garbage(3)]
    case.check("accuracy", lambda *out: (score, label, top_k, None, *out), outputs)
    correct = case.scalar(0)
    cpu.accuracy(score, label, top_k, None, correct, case.garbage(3), case.garbage(3))
    np.testing.assert_allclose(correct, {1: 1, 2: 2, 3: 3}[top_k] / 5)


@pytest.mark.parametrize("bad", [-1, 10, 1e9, np.nan])
def test_a_bad_label_is_found_and_adds_nothing(case, bad):
    label = case.labels(10, 6, 1)
    label[4] = bad
    prob = case.uniform(6, 10, 1)
    case.check("check_labels", lambda out: (label, 10, None, out), [np.array(-1, np.int32)])
    case.check("softmax_loss", lambda loss: (prob, label, None, case.scalar(1), loss), [case.scalar(9)])
    case.check(
        "softmax_loss_grad",
        lambda dx: (prob, label, None, case.scalar(1), case.scalar(1), dx),
        [case.garbage(*prob.shape)],
    )


def test_accuracy_counts_ties_against_the_label(case):
    score, label = np.zeros((1, 3, 1), case.dtype), case.labels(3, 1, 1)
    for top_k in (1, 2, 3):
        outputs = [case.scalar(9), case.garbage(3), case.garbage(3)]
        case.check("accuracy", lambda *out, k=top_k: (score, label, k, None, *out), outputs)


@pytest.mark.parametrize("shape", [(1, 1), (64, 2), (5, 300)])
def test_euclidean_loss(case, shape):
    a, b = case.normal(*shape), case.normal(*shape)
    case.check("euclidean_loss", lambda d, loss: (a, b, d, loss), [case.garbage(*shape), case.scalar(9)])
    case.check("euclidean_loss_grad", lambda dx: (a, case.scalar(2), -1.0, dx), [case.garbage(*shape)])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (64, 2), (5, 300)])
def test_contrastive_loss(case, shape, legacy):
    a, b, similar = case.normal(*shape), case.normal(*shape), case.labels(2, shape[0])
    b[0] = a[0]  # no distance at all
    outputs = [case.garbage(*shape), case.garbage(shape[0]), case.scalar(9)]
    case.check("contrastive_loss", lambda *out: (a, b, similar, 1.5, legacy, *out), outputs)
    reference.contrastive_loss(a, b, similar, 1.5, legacy, *outputs)
    difference, distance, _ = outputs
    for sign in (1.0, -1.0):
        arguments = (difference, distance, similar, 1.5, legacy, case.scalar(0.7), sign)
        case.check("contrastive_loss_grad", lambda dx, args=arguments: (*args, dx), [case.garbage(*shape)])


@pytest.mark.parametrize("size, limit", [(1, 0.1), (1000, 5.0), (1000, 500.0)])
def test_gradient_scale(case, size, limit):
    g = case.normal(size)
    case.check("gradient_scale", lambda *out: (g, limit, 0.5, None, *out), [case.scalar(9), np.array(9.0)])


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1000, 30_001])
def test_sgd_update(case, size, l1):
    state = [case.normal(size), case.normal(size), case.normal(size)]
    state[0][::3] = 0
    case.check("sgd_update", lambda w, g, h: (w, g, h, 0.1, 0.9, 0.5, 0.01, l1), state)


GEMM = [
    (1, 1, 1),
    (64, 500, 800),  # siamese ip1
    (64, 10, 500),
    (64, 2, 10),
    (500, 800, 64),
    (131, 1100, 30),  # a few rows for several panels, then the next rows
    (70, 520, 128),
    (100, 1, 300),
    (1, 1000, 50),
    (7, 16, 600),
    (13, 33, 5),
    (65, 129, 257),
    (500, 70, 33),
    (3, 4, 0),
    (0, 3, 4),
]


@pytest.mark.parametrize("m, n, k", GEMM)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_gemm(case, m, n, k, transpose_a, transpose_b, accumulate):
    a = case.normal(*((k, m) if transpose_a else (m, k)))
    b = case.normal(*((n, k) if transpose_b else (k, n))) / max(1, math.sqrt(k))
    case.check("gemm", lambda out: (a, b, out, transpose_a, transpose_b, accumulate), [case.normal(m, n)])


@pytest.mark.parametrize("m, n, k", [(5, 140, 20000), (17, 530, 1100), (70, 530, 1100), (130, 530, 1100)])
def test_products_with_a_large_matrix_are_those_with_any(case, m, n, k, monkeypatch):
    monkeypatch.setattr(streamed, "_FAR", 0)
    a, b = case.normal(m, k), case.normal(n, k) / math.sqrt(k)
    gemm._config.cache_clear()
    case.check("gemm", lambda out: (a, b, out, False, True), [case.garbage(m, n)])
    actual, usual = case.garbage(m, n), case.garbage(m, n)
    cpu.gemm(a, b, actual, False, True)
    monkeypatch.setattr(streamed, "_FAR", math.inf)
    gemm._config.cache_clear()
    cpu.gemm(a, b, usual, False, True)
    np.testing.assert_array_equal(actual, usual)
    gemm._config.cache_clear()


def test_gemm_keeps_nan_and_infinity_where_they_belong():
    a, b = np.ones((9, 5), np.float32), np.ones((5, 7), np.float32)
    a[2, 3], b[1, 4] = np.nan, np.inf
    expected, actual = np.empty((9, 7), np.float32), np.empty((9, 7), np.float32)
    reference.gemm(a, b, expected)
    cpu.gemm(a, b, actual)
    np.testing.assert_array_equal(actual, expected)


CONVOLUTION = [  # x (N, C, *in), output channels, window, groups
    ((1, 1, 5, 5), 1, window((3, 3)), 1),
    ((3, 1, 28, 28), 20, window((5, 5)), 1),  # siamese conv1
    ((5, 20, 12, 12), 50, window((5, 5)), 1),  # siamese conv2
    ((7, 4, 13, 13), 6, window((3, 3), pad=1), 2),
    ((9, 3, 4, 4), 5, window((3, 3), pad=1), 1),  # several images a panel
    ((9, 3, 9, 11), 5, window((3, 2), stride=(2, 3), pad=(1, 2), dilation=(2, 1)), 1),
    ((2, 8, 6, 7), 8, window((3, 3), stride=2, pad=1), 8),  # depthwise
    ((1, 2, 90, 70), 2, window((3, 3), pad=1), 2),  # depthwise, in bands of rows
    ((2, 3, 5, 3), 3, window((2, 2), stride=2), 3),  # depthwise: pixels behind the last window
    ((2, 3, 5, 1), 6, window((3, 3), stride=2, pad=1), 3),  # depthwise: taps that reach no pixel
    ((1, 2, 231, 40), 4, window((5, 3), stride=(3, 2), pad=(2, 0), dilation=(1, 2)), 2),
    ((1, 24, 23, 21), 40, window((3, 3), stride=2, pad=1), 2),  # padded once for all threads
    ((1, 3, 70, 66), 16, window((3, 3), stride=2, pad=1), 1),  # by each thread the lines that it reads
    ((1, 2, 104, 40), 7, window((4, 3), stride=(2, 1), pad=(5, 2), dilation=(1, 3)), 1),  # likewise, some all padding
    ((1, 130, 15, 9), 70, window((1, 1)), 1),  # read in place
    ((3, 40, 9, 8), 20, window((1, 1)), 2),  # likewise, of several images and groups
    ((1, 20, 32, 32), 5, window((1, 1)), 1),  # not: rows would lie in the same sets of the L1 cache
    ((2, 3, 30, 30), 16, window((11, 11), stride=4), 1),
    ((2, 6, 10), 8, window((3,), stride=2, pad=1), 1),
    ((2, 3, 5, 6, 7), 4, window((2, 3, 2), stride=(1, 2, 2), pad=(0, 1, 1)), 1),
    ((17, 70, 7, 7), 130, window((1, 1)), 1),
    ((2, 70, 8, 8), 12, window((1, 1), stride=2), 1),
    ((1, 140, 9, 9), 140, window((3, 3), pad=1), 1),  # fewer images than threads
    ((2, 2, 3, 3), 3, window((3, 3), stride=5, pad=2), 1),  # pixels that no window sees
    ((2, 2, 3, 3, 3, 3), 3, window((2, 2, 2, 2)), 1),  # more axes than are compiled
    ((3, 9, 5, 7), 6, window((1, 1), stride=(2, 3)), 3),
    ((2, 5, 6, 7, 8), 6, window((1, 1, 1), stride=(3, 2, 1)), 1),
]

TILED = [  # done by Winograd's transforms
    ((5, 64, 30, 28), 64, window((3, 3), pad=1), 1),
    ((9, 96, 14, 14), 100, window((3, 3), pad=1), 1),  # several images together
    ((3, 40, 17, 13), 72, window((5, 5), pad=2), 1),
    ((4, 64, 13, 13), 96, window((3, 3), pad=(1, 0)), 2),
    ((1, 64, 57, 41), 64, window((3, 3)), 1),  # one image, shared out by rows of tiles
    ((1, 64, 24, 24), 128, window((3, 3), pad=1), 1),  # shared out by panels of the weights
    ((9, 130, 14, 14), 70, window((5, 5), pad=(3, 1)), 1),  # more channels than a panel has
]

ROW_DOT = [  # gradients of weights that are inner products of rows
    ((5, 1, 28, 28), 20, window((5, 5)), 1),
    ((3, 2, 9, 33), 10, window((3, 3), pad=1), 2),
    ((9, 1, 1, 40), 7, window((1, 3), pad=(0, 2)), 1),
    ((2, 1, 20, 22), 9, window((7, 7), pad=(3, 1)), 1),
    ((1, 3, 6, 50), 3, window((2, 2)), 1),
]

WHOLE = [  # a window that is the whole image: inner products
    ((1, 70, 1, 1), 33, window((1, 1)), 1),
    ((3, 5, 4, 6), 7, window((4, 6)), 1),
    ((20, 2, 3, 3), 70, window((3, 3), stride=2), 1),
    ((2, 9, 17), 5, window((17,)), 1),
    ((4, 3, 2, 3, 2), 18, window((2, 3, 2)), 1),
]


def scratch(case, x_shape, y_shape, w, group):
    """Memory for both versions, full of NaN so that what is read before it is written shows."""
    count = max(m.convolution_workspace(x_shape, y_shape, w, group) for m in (reference, cpu))
    return np.full(count, np.nan, case.dtype)


def check_convolution(case, shape, outputs, w, group, **limits):
    y_shape = (shape[0], outputs, *positions(shape[2:], w))
    x, bias = case.normal(*shape), case.normal(outputs)
    weights = case.normal(outputs, shape[1] // group, *w.kernel) / math.sqrt(w.taps * shape[1])
    dy = case.normal(*y_shape) / math.sqrt(shape[0] * math.prod(y_shape[2:]))
    memory = scratch(case, shape, y_shape, w, group)
    for b in (bias, None):
        case.check("convolve", lambda y, b=b: (x, weights, b, y, w, group, memory), [case.garbage(*y_shape)], **limits)
    case.check("convolve_data_grad", lambda dx: (dy, weights, dx, w, group, memory), [case.garbage(*shape)], **limits)
    start = case.normal(*weights.shape)
    case.check("convolve_weight_grad", lambda dw: (x, dy, dw, w, group, memory, True), [start], **limits)
    for ops in (reference, cpu):
        added, written = np.zeros_like(weights), np.full_like(weights, np.nan)
        ops.convolve_weight_grad(x, dy, added, w, group, memory, True)
        ops.convolve_weight_grad(x, dy, written, w, group, memory, False)
        np.testing.assert_array_equal(written, added)


@pytest.mark.parametrize("shape, outputs, w, group", CONVOLUTION + TILED + ROW_DOT + WHOLE)
@pytest.mark.parametrize("threads", [1, 2])
def test_convolution(case, shape, outputs, w, group, threads):
    """Winograd's transforms round once more where a processor cannot multiply and add at once."""
    of_largest = WITHOUT_FMA and (shape, outputs, w, group) in TILED
    with use(threads):
        check_convolution(case, shape, outputs, w, group, of_largest=of_largest)


@pytest.mark.parametrize("threads", [1, 2])
def test_panels_that_lie_in_an_image_give_the_same_bits_as_gathered_ones(case, monkeypatch, threads):
    shape, outputs, w, results = (3, 135, 15, 9), 130, window((1, 1)), []
    problem = Problem(FORWARD, shape, (3, outputs, 15, 9), w, 1, np.dtype(case.dtype), threads)
    x, weights, bias = case.normal(*shape), case.normal(outputs, 135, 1, 1), case.normal(outputs)
    for near in (True, False):
        monkeypatch.setattr(implicit_gemm, "_stay_near", lambda *_, near=near: near)
        y, memory = case.garbage(*problem.y_shape), np.full(implicit_gemm.workspace(problem), np.nan, case.dtype)
        implicit_gemm.bind(problem)(x, weights, bias, y, memory, 0.5)
        results.append(y)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("shape, outputs, w, group", WHOLE)
@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_a_window_that_is_the_whole_image_is_an_inner_product(case, shape, outputs, w, group, slope):
    """Of which nothing is kept for weights that stay the same; any margin, stride beside, or group makes it another."""
    y_shape = (shape[0], outputs, *(1 for _ in w.kernel))
    problem = Problem(FORWARD, shape, y_shape, w, group, case.dtype, 2, packed=True)
    for kind in KINDS:
        assert next(iter(dict(candidates(problem._replace(kind=kind))))) == "whole_image"
    padded = w._replace(pad=(1, *w.pad[1:]))
    assert whole_image.cycles(problem._replace(window=padded)) is None
    assert whole_image.cycles(problem._replace(x_shape=(*shape[:2], 1 + shape[2], *shape[3:]))) is None
    assert whole_image.cycles(problem._replace(accumulate=True)) is None
    x, weights, bias = case.normal(*shape), case.normal(outputs, shape[1], *w.kernel), case.normal(outputs)
    memory, results, packed = scratch(case, shape, y_shape, w, group), [], {}
    for ops, more in ((reference, ()), (cpu, (packed,))):
        results.append(case.garbage(*y_shape))
        ops.convolve(x, weights, bias, results[-1], w, group, memory, slope, *more)
    assert not packed
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape, outputs, w, group", TILED)
@pytest.mark.parametrize("threads", [1, 2])
def test_convolution_in_tiles(case, shape, outputs, w, group, threads):
    with use(threads), always():
        check_convolution(case, shape, outputs, w, group, of_largest=True)


@pytest.mark.parametrize("shape, outputs, w, group", ROW_DOT)
@pytest.mark.parametrize("threads", [1, 2])
def test_convolution_whose_gradient_is_of_inner_products(case, shape, outputs, w, group, threads):
    with use(threads), always(), fast_paths.without("winograd"):
        check_convolution(case, shape, outputs, w, group)


@pytest.mark.parametrize("kernel, stride, dilation", [((3, 3), 2, 2), ((5, 2), 3, 1), ((2, 2), 2, 4)])
@pytest.mark.parametrize("group", [1, 4])
def test_a_window_that_reaches_beyond_the_image(case, kernel, stride, dilation, group):
    """Caffe's number of positions is at least 1 where less than a stride is missing: pixels that are not there are 0."""
    w, shape = window(kernel, stride=stride, dilation=dilation), (3, 4, 4, 4)
    y_shape = (3, 4, 1, 1)
    x, weights = case.normal(*shape), case.normal(4, 4 // group, *kernel)
    memory = np.full(1 << 16, np.nan, case.dtype)
    for _ in range(2):
        case.check("convolve", lambda y: (x, weights, None, y, w, group, memory), [case.garbage(*y_shape)])
        dy = case.normal(*y_shape)
        case.check("convolve_data_grad", lambda dx, dy=dy: (dy, weights, dx, w, group, memory), [case.garbage(*shape)])
        start = case.normal(*weights.shape)
        case.check("convolve_weight_grad", lambda dw, dy=dy: (x, dy, dw, w, group, memory, True), [start])


@pytest.mark.parametrize("path", ["depthwise", "rotated", "row_dot", "strided_1x1", "whole_image", "winograd"])
def test_a_convolution_does_without_a_fast_path(case, path):
    with fast_paths.without(path):
        for shape, outputs, w, group in CONVOLUTION + TILED[:2] + ROW_DOT[:1] + WHOLE:
            check_convolution(case, shape, outputs, w, group)


@pytest.mark.parametrize("shape, outputs, w, group", TILED)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_what_these_convolutions_are_made_of(shape, outputs, w, group, kind):
    y_shape = (shape[0], outputs, *positions(shape[2:], w))
    problem = Problem(kind, shape, y_shape, w, group, np.dtype(np.float32), 1)
    with always():
        assert "winograd" in dict(candidates(problem))
        assert "winograd" not in dict(candidates(problem._replace(dtype=np.dtype(np.float64))))


@pytest.mark.parametrize("shape, outputs, w, group", ROW_DOT)
def test_inner_products_are_what_these_gradients_are_made_of(shape, outputs, w, group):
    y_shape = (shape[0], outputs, *positions(shape[2:], w))
    problem = Problem(WEIGHT_GRAD, shape, y_shape, w, group, np.dtype(np.float32), 2)
    with always():
        assert "row_dot" in dict(candidates(problem))
        assert "row_dot" not in dict(candidates(problem._replace(kind=FORWARD)))


@pytest.mark.parametrize(
    "shape, outputs, w, group",
    [
        CONVOLUTION[2],
        CONVOLUTION[3],
        CONVOLUTION[6],
        CONVOLUTION[11],
        CONVOLUTION[14],
        TILED[0],
        ROW_DOT[0],
        ROW_DOT[1],
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_bias_gradient_comes_with_that_of_the_weights(case, shape, outputs, w, group, threads):
    y_shape = (shape[0], outputs, *positions(shape[2:], w))
    x, dy = case.normal(*shape), case.normal(*y_shape)
    dw, begun = case.normal(outputs, shape[1] // group, *w.kernel), case.normal(outputs)
    alone, dbias = dw.copy(), begun.copy()
    memory = scratch(case, shape, y_shape, w, group)
    with use(threads):
        cpu.convolve_weight_grad(x, dy, alone, w, group, memory, True)
        cpu.convolve_weight_grad(x, dy, dw, w, group, memory, True, dbias)
    np.testing.assert_array_equal(dw, alone)
    exact = begun.astype(np.float64) + dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64)
    np.testing.assert_allclose(
        dbias, exact, rtol=1e-5 if case.dtype == np.float32 else 1e-13, atol=abs(dy).sum() * np.finfo(case.dtype).eps
    )


@pytest.mark.parametrize("outputs, taps", [(2, 3), (4, 3), (2, 5)])
def test_transformed_tiles_multiply_to_a_correlation(outputs, taps):
    a, g, b = winograd_transforms.matrices(outputs, taps)
    random = np.random.default_rng(0)
    window_, tile = random.standard_normal((taps, taps)), random.standard_normal((outputs + taps - 1,) * 2)
    products = (g @ window_ @ g.T) * (b @ tile @ b.T)
    expected = [[(tile[i : i + taps, j : j + taps] * window_).sum() for j in range(outputs)] for i in range(outputs)]
    np.testing.assert_allclose(a.T @ products @ a, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("outputs, taps", [(2, 3), (4, 3), (2, 5)])
@pytest.mark.parametrize("kind", range(6))
def test_a_compiled_transform_is_its_matrix_on_both_sides(outputs, taps, kind):
    a, g, b = winograd_transforms.matrices(outputs, taps)
    matrix = (b, g, a.T, b.T, g.T, a)[kind]
    random = np.random.default_rng(0)
    width = 3 * WIDTH // 4
    source, start = (
        random.standard_normal((*shape, width)).astype(np.float32) for shape in ((matrix.shape[1],) * 2, ())
    )
    target = random.standard_normal((matrix.shape[0], matrix.shape[0], width)).astype(np.float32)
    expected = np.einsum("ij,jkv,lk->ilv", matrix, source, matrix)
    expected += {winograd_transforms.OUTPUT: start, winograd_transforms.INPUT_GRAD: target}.get(kind, 0)
    tables = [np.arange(rows * rows, dtype=np.int64) * 4 * width for rows in matrix.shape]
    code = winograd_transforms.transform(kind, outputs, taps, np.dtype(np.float32))
    addresses = (array.ctypes.data for array in (target, tables[0], source, tables[1]))
    code.ctypes(*addresses, 3, start.ctypes.data)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape, outputs, w, group", [CONVOLUTION[2], CONVOLUTION[-1], TILED[0], *WHOLE])
def test_weights_get_no_gradient_from_no_images(case, shape, outputs, w, group):
    x, dy = case.normal(0, *shape[1:]), case.normal(0, outputs, *positions(shape[2:], w))
    for accumulate in (True, False):
        start = case.normal(outputs, shape[1] // group, *w.kernel)
        case.check("convolve_weight_grad", lambda dw, a=accumulate: (x, dy, dw, w, group, case.normal(0), a), [start])


@pytest.mark.parametrize(
    "shape, outputs, w, group", [CONVOLUTION[2], CONVOLUTION[6], CONVOLUTION[-1], TILED[0], *WHOLE]
)
def test_a_convolution_of_no_images(case, shape, outputs, w, group):
    x, dy = case.normal(0, *shape[1:]), case.normal(0, outputs, *positions(shape[2:], w))
    weights, memory = case.normal(outputs, shape[1] // group, *w.kernel), scratch(case, x.shape, dy.shape, w, group)
    for packed in (None, {}):
        cpu.convolve(x, weights, None, dy, w, group, memory, 0.5, packed)
    cpu.convolve_data_grad(dy, weights, x, w, group, memory)


def test_convolution_stays_inside_its_workspace(case):
    for shape, outputs, w, group in CONVOLUTION + TILED + ROW_DOT:
        y_shape = (shape[0], outputs, *positions(shape[2:], w))
        count = cpu.convolution_workspace(shape, y_shape, w, group, case.dtype)
        memory = np.full(count + 1000, 7e5, case.dtype)
        x, dy, weights = case.normal(*shape), case.normal(*y_shape), case.normal(outputs, shape[1] // group, *w.kernel)
        for packed in (None, {}):
            cpu.convolve(x, weights, None, dy.copy(), w, group, memory[:count], 0.5, packed)
        cpu.convolve_data_grad(dy, weights, x.copy(), w, group, memory[:count])
        cpu.convolve_weight_grad(x, dy, weights.copy(), w, group, memory[:count], True, case.normal(outputs))
        assert (memory[count:] == 7e5).all()


def test_a_workspace_is_enough_for_any_number_of_threads(case):
    """Also where the choice of an algorithm depends on it: by then nothing can grow any more."""
    heeded = set()
    wide = (4, 256, 14, 14), 512, window((3, 3), pad=1), 1
    for shape, outputs, w, group in [*CONVOLUTION, *TILED, *ROW_DOT, wide]:
        y_shape = (shape[0], outputs, *positions(shape[2:], w))
        room = cpu.convolution_workspace(shape, y_shape, w, group, case.dtype)
        for kind, threads in itertools.product(KINDS, range(1, numba.config.NUMBA_NUM_THREADS + 1)):
            problem = Problem(kind, shape, y_shape, w, group, case.dtype, threads)
            heeded.add(winograd.heeds_threads(problem))
            found = select._candidates.__wrapped__(problem)
            assert found == candidates(problem)
            assert max(algorithm.workspace(problem) for _, algorithm in found) <= room
    assert heeded == ({False, True} if case.dtype == np.float32 else {False})


@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (3, 1), (2, 2), (1, 5), (2, 3), (1, 7), (2, 4), (3, 4)])
@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_depthwise_worker_stays_inside_its_memory(case, kind, size, kernel):
    """What it wrote behind that would be another worker's, who may be reading it."""
    w, shape = window(kernel), (1, 2, size, 9)
    y_shape = (1, 2, *positions(shape[2:], w))
    problem = Problem(kind, shape, y_shape, w, 2, case.dtype, 1)
    own = depthwise._scratch_per_worker(problem)
    room = np.full(own + 1064, 7e5, case.dtype)
    memory = room[-room.ctypes.data % 64 // case.dtype.itemsize :]  # the first worker's begins where a cache line does
    x, y, weights, bias = case.normal(*shape), case.normal(*y_shape), case.normal(2, 1, *kernel), case.normal(2)
    given = {FORWARD: (x, weights, bias, y, memory, 1.0), WEIGHT_GRAD: (x, y, weights, bias, memory, True)}
    depthwise.bind(problem)(*given.get(kind, (y, weights, x, memory)))
    assert (memory[own:] == 7e5).all()


@pytest.mark.parametrize("shape, outputs, w, group", [CONVOLUTION[2], TILED[1]])
def test_convolution_is_reproducible(case, shape, outputs, w, group):
    y_shape = (shape[0], outputs, *positions(shape[2:], w))
    x, dy = case.normal(*shape), case.normal(*y_shape)
    memory = scratch(case, shape, y_shape, w, group)
    results = [np.zeros((outputs, shape[1], *w.kernel), case.dtype) for _ in range(5)]
    for dw in results:
        cpu.convolve_weight_grad(x, dy, dw, w, group, memory, True)
    assert all((dw == results[0]).all() for dw in results)
