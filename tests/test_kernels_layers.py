"""Compiled kernels of channels, rows, normalisation, further losses, the LSTM and the solvers against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels_cpu import Case, case  # noqa: F401  (a fixture)

from minicaffe.kernels import cpu, reference
from minicaffe.kernels.cpu.labels import with_ignored


def weigh(x, weight):
    return x * weight


def shift(x, mean, weight):
    return (x - mean) * weight


def mix(x, y, p, q, r):
    return p * x + q * y * r


SHAPES = [(1, 1, 1), (5, 7, 1), (3, 4, 9), (1, 1, 5000), (1, 3000, 3), (2, 3, 3000), (40, 300, 1), (0, 3, 4)]
FORMULAS = [(weigh, 1, 0, 1), (shift, 1, 1, 1), (mix, 2, 3, 0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("function", "arrays", "vectors", "scalars"), FORMULAS)
def test_formulas_over_channels(case, shape, function, arrays, vectors, scalars):  # noqa: F811
    inputs = [case.normal(*shape) for _ in range(arrays)]
    per_channel = [case.normal(shape[1]) for _ in range(vectors)]
    numbers = [0.5] * scalars
    case.check("channelwise", lambda out: (function, inputs, per_channel, numbers, out), [case.garbage(*shape)])
    case.check("channel_sum", lambda out: (function, inputs, per_channel, numbers, out), [case.normal(shape[1])])


@pytest.mark.parametrize("shape", [(5, 7, 1), (3, 4, 9)])
def test_a_formula_over_channels_in_place(shape):
    x, v = np.random.default_rng(1).standard_normal(shape), np.arange(shape[1]) + 1.0
    expected = x * v[:, None]
    cpu.channelwise(weigh, (x,), (v,), (), x)
    np.testing.assert_allclose(x, expected)


def test_a_long_sum_keeps_its_precision():
    x = np.full((1, 1, 10_000_019), 0.1, np.float32)
    out = np.zeros(1, np.float32)
    cpu.channel_sum(weigh, (x,), (), (1.0,), out)
    np.testing.assert_allclose(out, x.sum(dtype=np.float64), rtol=1e-6)


CHANNELS = [(1, 1, 1), (5, 7, 1), (3, 4, 9), (1, 1, 5000), (2, 3, 3000)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", CHANNELS)
def test_standardize(case, shape, keep):  # noqa: F811
    x, dy = 3 * case.normal(*shape) + 2, case.normal(*shape) + 1
    vectors = [case.garbage(shape[1]) for _ in range(3)]
    outputs = [*vectors, case.garbage(*shape), case.garbage(*shape)]
    case.check("standardize", lambda m, v, f, y, k: (x, 0.5, m, v, f, y, k if keep else None), outputs)
    mean, factor = case.normal(shape[1]), case.uniform(shape[1])
    outputs = [case.garbage(shape[1]), case.garbage(shape[1]), case.garbage(*shape)]
    case.check("standardize_grad", lambda a, b, dx: (x, dy, mean, factor, a, b, dx), outputs)


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("shape", CHANNELS)
def test_standardize_scale_and_rectify(case, shape, slope):  # noqa: F811
    x, dy, y = 3 * case.normal(*shape) + 2, case.normal(*shape) + 1, case.normal(*shape)
    v, b, mean, factor = case.normal(shape[1]), case.normal(shape[1]), case.normal(shape[1]), case.uniform(shape[1])
    outputs = [*(case.garbage(shape[1]) for _ in range(3)), case.garbage(*shape), case.garbage(*shape)]
    case.check("standardize", lambda m, s, f, y, k: (x, 0.5, m, s, f, y, k, v, b, slope), outputs)
    case.check("scale", lambda y, kept: (x, v, b, y, kept, mean, slope), outputs[3:])
    means, sums = [case.garbage(shape[1]), case.garbage(shape[1])], [case.normal(shape[1]), case.normal(shape[1])]

    def gradient(p, q, dx, dv, db):
        return x, dy, mean, factor, p, q, dx, y, v, dv, db, slope

    case.check("standardize_grad", gradient, [*means, case.garbage(*shape), *sums])
    case.check("standardize_grad", lambda *out: gradient(*out, None), [*means, case.garbage(*shape), sums[0]])
    case.check("standardize_grad", lambda p, q, dx: gradient(p, q, dx, None, None), [*means, case.garbage(*shape)])


@pytest.mark.parametrize("shape", [(5, 7, 1), (3, 4, 9)])
def test_gradient_of_standardizing_scaling_and_rectifying(shape):
    """Against differences, which the reference's formula is derived from."""
    rng = np.random.default_rng(2)
    x, dy, (v, b) = rng.standard_normal(shape), rng.standard_normal(shape), rng.standard_normal((2, shape[1]))
    mean, variance, factor, y, dx = *np.empty((3, shape[1])), np.empty(shape), np.empty(shape)

    def value(x, v, b):
        reference.standardize(x, 0.1, mean, variance, factor, y, None, v, b, 0.25)
        return float((y * dy).sum())

    value(x, v, b)
    dv, db, scratch = np.zeros(shape[1]), np.zeros(shape[1]), np.empty((2, shape[1]))
    reference.standardize_grad(x, dy, mean, factor, *scratch, dx, y, v, dv, db, 0.25)
    for step in range(5):
        towards = [np.random.default_rng(step).standard_normal(a.shape) for a in (x, v, b)]
        ends = [value(*(a + h * d for a, d in zip((x, v, b), towards, strict=True))) for h in (1e-6, -1e-6)]
        expected = sum(float((g * d).sum()) for g, d in zip((dx, dv, db), towards, strict=True))
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", CHANNELS)
@pytest.mark.parametrize("given", [False, True])
def test_scale(case, shape, given):  # noqa: F811
    x, dy, v, b = case.normal(*shape), case.normal(*shape), case.normal(shape[1]), case.normal(shape[1])
    outputs = [case.garbage(*shape), case.garbage(*shape)]
    case.check("scale", lambda y, kept: (x, v, b if given else None, y, kept if given else None), outputs)
    sums = [case.normal(shape[1]), case.normal(shape[1])]
    case.check("scale_grad", lambda dx, dv, db: (x, dy, v, dx, dv, db), [case.garbage(*shape), *sums])
    for wanted in range(3):
        chosen = [None, None, None]

        def arguments(out, wanted=wanted, chosen=chosen):
            chosen[wanted] = out
            return (x, dy, v, *chosen)

        case.check("scale_grad", arguments, [[case.garbage(*shape), *sums][wanted]])


@pytest.mark.parametrize("shape", [(5, 7, 1), (2, 3, 3000)])
def test_channels_in_place(case, shape):  # noqa: F811
    v = case.normal(shape[1])
    vectors = [case.garbage(shape[1]) for _ in range(3)]
    case.check("standardize", lambda y, kept: (y, 0.5, *vectors, y, kept), [case.normal(*shape), case.garbage(*shape)])
    case.check("scale", lambda y, kept: (y, v, v, y, kept), [case.normal(*shape), case.garbage(*shape)])
    x, mean, factor = case.normal(*shape), case.normal(shape[1]), case.uniform(shape[1])
    case.check("standardize_grad", lambda dx: (x, dx, mean, factor, *vectors[:2], dx), [case.normal(*shape)])
    y, means = case.normal(*shape), [case.garbage(shape[1]) for _ in range(2)]
    case.check(
        "standardize_grad",
        lambda dx, dv, db: (x, dx, mean, factor, *means, dx, y, v, dv, db, 0.25),
        [case.normal(*shape), case.normal(shape[1]), case.normal(shape[1])],
    )
    case.check("scale", lambda y: (y, v, v, y, None, mean, 0.25), [case.normal(*shape)])
    sums = [case.normal(shape[1]), case.normal(shape[1])]
    case.check("scale_grad", lambda dx, dv, db: (x, dx, v, dx, dv, db), [case.normal(*shape), *sums])


@pytest.mark.parametrize(("rows", "index", "columns"), [(1, 1, 1), (5, 12, 3), (300, 50, 70), (4, 0, 3)])
def test_rows_by_index(case, rows, index, columns):  # noqa: F811
    where = case.random.integers(-1, rows + 1, index).astype(case.dtype) + case.dtype.type(0.25)
    x, y = case.normal(rows, columns), case.normal(index, columns)
    case.check("gather_rows", lambda out: (x, where, out), [case.garbage(index, columns)])
    case.check("scatter_rows", lambda out: (y, where, out), [case.normal(rows, columns)])


@pytest.mark.parametrize(
    ("shape", "starts"), [((1, 1), (0, 0)), ((5, 7), (2, 0)), ((3, 300), (0, 40)), ((0, 3), (1, 1))]
)
def test_columns_are_copied(case, shape, starts):  # noqa: F811
    for width in (shape[1] + 4, shape[1]):
        x = case.normal(*shape)
        case.check("copy_columns", lambda out: (x, starts[0], out, starts[1]), [case.normal(shape[0], width)])  # noqa: B023


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 44, 6, 7), (0, 2, 3, 1)),
        ((3, 70, 90), (1, 0, 2)),
        ((3, 70, 90), (2, 1, 0)),
        ((2, 3, 4, 5, 6), (4, 2, 0, 3, 1)),
        ((3, 1, 5), (1, 2, 0)),
        ((4, 5), (0, 1)),
        ((1, 1), (1, 0)),
        ((0, 3), (1, 0)),
        ((), ()),
    ],
)
def test_axes_in_another_order(case, shape, axes):  # noqa: F811
    x = case.normal(*shape)
    case.check("permute", lambda y: (x, axes, y), [case.garbage(*(shape[axis] for axis in axes))])


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 20, 9, 13), (0, 3, 5, 4)])
def test_regions_are_pooled(case, shape):  # noqa: F811
    x = case.normal(*shape)
    x[:, 1, 2, 3] = np.nan
    regions = [
        (0, 0, 0, 60, 30),
        (0, 16, 20, 50, 75),
        (shape[0] - 1, 33, 40, 33, 40),
        (9, 0, 0, 60, 30),
        (0, -90, 0, -70, 30),
    ]
    rois = np.array(regions, case.dtype)
    for pad_ratio in (0.0, 0.25):
        made = []
        for ops in (reference, cpu):
            y, mask = case.garbage(len(rois), shape[1], 4, 5), np.full((len(rois), shape[1], 4, 5), 9, np.int32)
            ops.roi_pool(x, rois, y, mask, (1 / 16, 1 / 8), pad_ratio)
            made.append((y, mask))
        np.testing.assert_array_equal(made[0][0], made[1][0])
        np.testing.assert_array_equal(made[0][1], made[1][1])


@pytest.mark.parametrize("beta", [0.75, 0.5, 0.6])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 1, 1), 1), ((2, 5, 7), 3), ((3, 8, 300), 5), ((1, 3, 4), 9), ((2, 32, 5), 5), ((0, 3, 4), 3)],
)
def test_lrn(case, shape, size, beta):  # noqa: F811
    x, dy = case.normal(*shape), case.normal(*shape)
    case.check(
        "lrn", lambda scale, y: (x, scale, y, size, 1.5, beta, 1.0), [case.garbage(*shape), case.garbage(*shape)]
    )
    case.check("lrn", lambda y: (x, None, y, size, 1.5, beta, 1.0), [case.garbage(*shape)])
    scale, y = np.empty_like(x), np.empty_like(x)
    reference.lrn(x, scale, y, size, 1.5, beta, 1.0)
    case.check("lrn_grad", lambda dx: (x, y, scale, dy, dx, size, 1.5, beta), [case.garbage(*shape)])


@pytest.mark.parametrize("beta", [0.75, 0.5, 0.6])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 1, 1, 1), 1), ((2, 3, 5, 7), 3), ((1, 40, 16, 20), 5), ((2, 1, 3, 2), 9), ((0, 3, 4, 4), 3)],
)
def test_lrn_within(case, shape, size, beta):  # noqa: F811
    x, dy = case.normal(*shape), case.normal(*shape)
    case.check("lrn_within", lambda scale, y: (x, scale, y, size, 1.5, beta), [case.garbage(*shape) for _ in range(2)])
    case.check("lrn_within", lambda y: (x, None, y, size, 1.5, beta), [case.garbage(*shape)])
    scale, y = np.empty_like(x), np.empty_like(x)
    reference.lrn_within(x, scale, y, size, 1.5, beta)
    case.check("lrn_within_grad", lambda dx: (x, y, scale, dy, dx, size, 1.5, beta), [case.garbage(*shape)])


@pytest.mark.parametrize("ignore", [None, 1, 0])
@pytest.mark.parametrize("size", [1, 37, 5000])
def test_sigmoid_loss(case, size, ignore):  # noqa: F811
    x, target = 4 * case.normal(size), case.labels(3, size) * case.dtype.type(0.5)
    x[: size // 3] *= 20
    arguments = (x, target, ignore, case.scalar(7))
    case.check("sigmoid_loss", lambda loss: (*arguments, loss), [case.garbage()])
    case.check("sigmoid_loss_grad", lambda dx: (*arguments, case.scalar(3), dx), [case.garbage(size)])


@pytest.mark.parametrize("shape", [(1, 1), (6, 4), (50, 30)])
def test_losses_of_rows(case, shape):  # noqa: F811
    label, weight = case.labels(shape[1] + 1, shape[0]) - 0 * case.scalar(1), case.scalar(3)
    prob = case.uniform(*shape)
    prob[::2, 0] = 0
    case.check("multinomial_loss", lambda loss: (prob, label, loss), [case.garbage()])
    case.check("multinomial_loss_grad", lambda dx: (prob, label, weight, dx), [case.garbage(*shape)])
    x, margin = case.normal(*shape), np.maximum(case.normal(*shape), 0)
    for squared in (False, True):
        case.check(
            "hinge_loss",
            lambda margin, loss, s=squared: (x, label, s, margin, loss),
            [case.garbage(*shape), case.garbage()],
        )
        case.check("hinge_loss_grad", lambda dx, s=squared: (margin, label, s, weight, dx), [case.garbage(*shape)])


@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("shape", [(1, 3, 1), (6, 5, 4), (2, 10, 100)])
def test_infogain_loss(case, shape, ignore):  # noqa: F811
    outer, classes, inner = shape
    prob, label, gain = case.uniform(*shape), case.labels(classes, outer, inner), case.normal(classes, classes)
    prob[0, 0] = 0
    arguments = (prob, label, gain, ignore, case.scalar(5))
    case.check("infogain_loss", lambda loss: (*arguments, loss), [case.garbage()])
    case.check("infogain_loss_grad", lambda dx: (*arguments, case.scalar(2), dx), [case.garbage(*shape)])


def test_an_ignored_label_as_two_numbers():
    assert with_ignored(None) == (False, 0)
    assert with_ignored(255) == (True, 255)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 3), (20, 64)])
def test_lstm_unit(case, n, d):  # noqa: F811
    before, gates, c, dc, dh = (
        case.normal(n, d),
        case.normal(n, 4 * d),
        case.normal(n, d),
        case.normal(n, d),
        case.normal(n, d),
    )
    cont = np.array([0, 1, 0.5] * n, case.dtype)[:n]
    before[0] = np.nan  # a sequence begins: not read
    case.check("lstm_unit", lambda c, h: (before, gates, cont, c, h), [case.garbage(n, d), case.garbage(n, d)])
    outputs = [case.garbage(n, d), case.garbage(n, 4 * d)]
    case.check("lstm_unit_grad", lambda db, dg: (before, gates, cont, c, dc, dh, db, dg), outputs)
    case.check("lstm_unit_grad", lambda dc, dg: (before, gates, cont, c, dc, dh, dc, dg), [dc, outputs[1]])  # in place


UPDATES = {
    "sgd_update": (1, (0.1, 0.9)),
    "nesterov_update": (1, (0.1, 0.9)),
    "adagrad_update": (1, (0.1, 1e-8)),
    "rmsprop_update": (1, (0.1, 0.95, 1e-8)),
    "adadelta_update": (2, (1.0, 0.95, 1e-6)),
    "adam_update": (2, (0.01, 0.9, 0.999, 1e-8)),
}


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("size", [1, 7, 20_000])
@pytest.mark.parametrize("name", sorted(UPDATES))
def test_solver_updates(case: Case, name, size, l1):  # noqa: F811
    slots, numbers = UPDATES[name]
    outputs = [case.normal(size), case.normal(size), *(case.uniform(size) for _ in range(slots))]
    outputs[0][0] = 0
    case.check(name, lambda *arrays: (*arrays, *numbers, 0.5, 0.25, l1), outputs)
