"""Kernels whose work is shared out: small arrays in as many parts as there are threads give what plain NumPy gives."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from test_kernels_cpu import Case, case, use, window  # noqa: F401  (case is a fixture)
from test_kernels_layers import UPDATES, shift

from minicaffe.kernels import reference
from minicaffe.kernels.cpu.runtime import threads


@pytest.fixture(autouse=True)
def many_parts(monkeypatch):
    monkeypatch.setattr(threads, "_LEAST", 1)
    with use(3):
        yield


def test_parts_of_an_array(monkeypatch):
    most = numba.get_num_threads()
    assert [threads.parts(size) for size in (0, 1, 1000)] == [1, 1, most]
    monkeypatch.setattr(threads, "_LEAST", 500)
    assert [threads.parts(size) for size in (499, 999, 1000)] == [1, 1, min(2, most)]


def test_pooling(case):  # noqa: F811
    w, x, out = window((3, 3), stride=2, pad=1), case.normal(3, 5, 9, 12), (3, 5, 5, 7)
    mask = np.full(out, 99, np.int32)
    case.check("max_pool", lambda y, m: (x, y, m, w), [case.garbage(*out), mask])
    reference.max_pool(x, case.garbage(*out), mask, w)
    dy = case.normal(*out)
    case.check("max_pool_grad", lambda dx: (dy, mask, dx, w), [case.garbage(*x.shape)])
    case.check("average_pool", lambda y: (x, y, w), [case.garbage(*out)])
    case.check("average_pool_grad", lambda dx: (dy, dx, w), [case.garbage(*x.shape)])
    whole, one = window((9, 12)), case.normal(3, 5, 1, 1)
    case.check("average_pool", lambda y: (x, y, whole), [case.garbage(3, 5, 1, 1)])
    case.check("average_pool_grad", lambda dx: (one, dx, whole), [case.garbage(*x.shape)])


@pytest.mark.parametrize("inner", [1, 50])
def test_channels(case, inner):  # noqa: F811
    shape = (3, 5, inner)
    x, y, dy, v = case.normal(*shape), case.normal(*shape), case.normal(*shape), case.normal(5)
    case.check("bias_add", lambda y: (y, v), [case.normal(*shape)])
    case.check("bias_grad", lambda dv: (dy, dv), [case.normal(5)])
    case.check("channelwise", lambda out: (shift, (x,), (v,), (2.0,), out), [case.garbage(*shape)])
    case.check("channel_sum", lambda out: (shift, (x,), (v,), (2.0,), out), [case.normal(5)])
    vectors = [case.garbage(5) for _ in range(3)]
    outputs = [*vectors, case.garbage(*shape), case.garbage(*shape)]
    case.check("standardize", lambda m, s, f, y, k: (x, 0.5, m, s, f, y, k), outputs)
    outputs = [case.garbage(5), case.garbage(5), case.garbage(*shape)]
    case.check("standardize_grad", lambda a, b, dx: (x, dy, v, v, a, b, dx), outputs)
    outputs += [case.normal(5), case.normal(5)]
    case.check("standardize_grad", lambda a, b, dx, dv, db: (x, dy, v, v, a, b, dx, y, v, dv, db, 0.5), outputs)
    case.check("scale", lambda y, k: (x, v, v, y, k, v, 0.5), [case.garbage(*shape), case.garbage(*shape)])
    outputs = [case.garbage(*shape), case.normal(5), case.normal(5)]
    case.check("scale_grad", lambda dx, dv, db: (x, dy, v, dx, dv, db), outputs)
    case.check("softmax", lambda y: (x, y), [case.garbage(*shape)])
    case.check("softmax_grad", lambda dx: (y, dy, dx), [case.garbage(*shape)])
    norm = 1 + case.uniform(3, inner)
    case.check("unit_norm", lambda n, z: (x, 0.5, 2, n, z), [case.garbage(3, inner), case.garbage(*shape)])
    case.check("unit_norm_grad", lambda dx: (x, norm, dy, 2, norm, dx), [case.garbage(*shape)])
    label, one = case.labels(5, 3, inner), case.scalar(1)
    case.check("softmax_loss_grad", lambda dx: (y, label, 2, one, one, dx), [case.garbage(*shape)])


def test_normalisation(case):  # noqa: F811
    shape = (3, 5, 6, 7)
    x, y, dy, scale = case.normal(*shape), case.normal(*shape), case.normal(*shape), 1 + case.uniform(*shape)
    rows = [a.reshape(3, 5, 42) for a in (x, y, scale, dy)]
    outputs = [case.garbage(*shape), case.garbage(*shape)]
    case.check("lrn_within", lambda s, y: (x, s, y, 3, 1.5, 0.75), outputs)
    case.check("lrn_within_grad", lambda dx: (x, y, scale, dy, dx, 3, 1.5, 0.75), [case.garbage(*shape)])
    outputs = [a.reshape(3, 5, 42) for a in outputs]
    case.check("lrn", lambda s, y: (rows[0], s, y, 3, 1.5, 0.75, 1.0), outputs)
    case.check("lrn_grad", lambda dx: (*rows, dx, 3, 1.5, 0.75), [outputs[0]])


def test_flat_arrays(case):  # noqa: F811
    x, y, target = case.normal(1001), case.normal(1001), case.labels(2, 1001)
    case.check("elementwise", lambda out: (shift, (x, y), (2.0,), out), [case.garbage(1001)])
    case.check("dot", lambda out: (x, y, out), [case.scalar(2)])
    one = case.scalar(1)
    case.check("sigmoid_loss", lambda loss: (x, target, None, one, loss), [case.garbage()])
    case.check("sigmoid_loss_grad", lambda dx: (x, target, None, one, one, dx), [case.garbage(1001)])
    for name, (slots, numbers) in UPDATES.items():
        outputs = [case.normal(1001), case.normal(1001), *(case.uniform(1001) for _ in range(slots))]
        case.check(name, lambda *arrays, n=numbers: (*arrays, *n, 0.5, 0.25, False), outputs)


def test_rows(case):  # noqa: F811
    index, x, y = case.labels(7, 12), case.normal(7, 9), case.normal(12, 9)
    case.check("gather_rows", lambda out: (x, index, out), [case.garbage(12, 9)])
    case.check("scatter_rows", lambda out: (y, index, out), [case.normal(7, 9)])
