"""Convolution on a GPU by one kernel: on layers drawn by chance, in graphs, and where it is taken; needs g++, no GPU.

``MINICAFFE_IMPLICIT=200`` draws 200 layers, of all sizes; ordinarily there are a few small ones.
"""

from __future__ import annotations

import itertools
import json
import math
import os

import cuda_host
import numpy as np
import pytest
import strict_cupy
from strict_gpu import StrictBackend
from test_gpu_graphs import gpu, launches, same_bits, trained, with_and_without  # noqa: F401

from minicaffe import backend
from minicaffe.backend.gpu import GpuBackend
from minicaffe.errors import DeviceError
from minicaffe.kernels import fast_paths
from minicaffe.kernels.cuda.conv import implicit_gemm, select
from minicaffe.kernels.cuda.conv.estimate import implicit_seconds
from minicaffe.kernels.cuda.conv.implicit_gemm import Cut
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, KINDS, WEIGHT_GRAD, Problem
from minicaffe.kernels.cuda.conv.trial import Trials
from minicaffe.kernels.cuda.launch import divisor, struct
from minicaffe.testing.gpu import training
from minicaffe.testing.kernel_cases.case import on_arrays
from minicaffe.testing.kernel_cases.implicit_gemm import layer_cases
from minicaffe.testing.kernel_cases.windows import positions, window

DRAWN = int(os.environ.get("MINICAFFE_IMPLICIT", 0))


def drawn_layer(rng):
    """A layer of two axes.  Small ones have less than a tile of channels and filters, for which kernels are there."""
    most = 48 if DRAWN else 9
    while True:
        win = window(
            *(tuple(int(i) for i in rng.integers(low, high, 2)) for low, high in ((1, 5), (1, 4), (0, 4), (1, 4)))
        )
        sides = tuple(int(i) for i in rng.integers(1, 14, 2))
        if min(positions(sides, win)) > 0:
            group, channels, filters = (int(i) for i in rng.integers(1, (4, most, most)))
            return (int(rng.integers(1, 5)), group * channels, *sides), win, group, group * filters


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")
@pytest.mark.parametrize("factors", ["", "TF32", "fp16"])
def test_layers_drawn_by_chance(factors):
    rng, where = np.random.default_rng(7), StrictBackend()
    for _ in range(DRAWN or 5):
        for case in layer_cases(drawn_layer(rng), factors):
            args = case.draw(np.float32)
            device = [on_arrays(strict_cupy.array, arg) for arg in args]
            with strict_cupy.no_sync():
                case.call(where, device)
            found = [arg.get() if isinstance(arg, strict_cupy.ndarray) else arg for arg in device]
            problem = case.disagreement(case.expected(args), found)
            assert problem is None, f"{case.name}: {problem}"


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")
def test_it_trains_in_graphs_to_the_same_bits(gpu, launches, monkeypatch):  # noqa: F811
    columns = trained(training.LENET)
    monkeypatch.setattr(select, "is_implicit", lambda problem, tf32: True)
    launched, launch = set(), gpu.ops.launch._launch
    monkeypatch.setattr(
        gpu.ops.launch, "_launch", lambda program, kernel, *rest: (launched.add(kernel), launch(program, kernel, *rest))
    )
    expected, found = with_and_without(lambda: trained(training.LENET))
    same_bits(expected, found)
    assert launches and "implicit_gemm" in launched and not {"im2col", "col2im"} & launched
    np.testing.assert_allclose(found[0], columns[0], rtol=1e-4)


# --- where it is taken


def problem(kind=FORWARD, images=64, channels=64, side=56, filters=64, win=None, group=1):
    win = window(3, 1, 1) if win is None else win
    x_shape = (images, channels, side, side)
    return Problem(kind, x_shape, (images, filters, *positions(x_shape[2:], win)), win, group)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_move_more_bytes_than_they_save_are_not_laid_out(kind):
    assert select.is_implicit(problem(kind), False)
    assert select.is_implicit(problem(kind, channels=128, filters=128, side=28), True)
    # a matrix product of 512 filters uses each column so often that it does not matter what it costs
    assert not select.is_implicit(problem(kind, channels=512, filters=512, side=7), False)
    # pixels of a pointwise window are columns already
    assert not select.is_implicit(problem(kind, filters=256, win=window(1)), True)
    # what is small does not fill a GPU
    assert not select.is_implicit(problem(kind, images=1, side=14), True)


def test_a_strided_gradient_is_not_gathered():
    """Three of four pixels are under no position of each tap."""
    wide = problem(DATA_GRAD, win=window(3, 2, 1), side=57)
    assert not select.is_implicit(wide, False) and select.is_implicit(wide._replace(kind=FORWARD), False)


def test_it_can_be_left_out_and_float64_is():
    ops, many = StrictBackend().ops, problem()
    x, double = (np.empty((64, 64, 56, 56), dtype) for dtype in (np.float32, np.float64))
    shape = many.window, many.group
    assert ops._takes_implicit(FORWARD, x, x, *shape) and not ops._takes_implicit(FORWARD, double, double, *shape)
    with fast_paths.without("implicit"):
        assert not ops._takes_implicit(FORWARD, x, x, *shape)


@pytest.mark.parametrize(
    "huge",
    [
        problem(images=1 << 16, side=257),
        problem(WEIGHT_GRAD, images=1 << 16, side=257),
        problem(DATA_GRAD, images=1, channels=1 << 9, side=1 << 12),
        problem(images=1, channels=1 << 17, filters=1 << 17, group=1 << 17),
    ],
)
def test_more_than_the_kernel_counts_is_left_to_columns(huge):
    assert not implicit_gemm.fits(huge) and implicit_seconds(huge, True) == math.inf


# --- how it is cut up


@pytest.mark.parametrize(
    "weights",
    [
        problem(WEIGHT_GRAD),
        problem(WEIGHT_GRAD, images=256, channels=3, side=227, filters=96, win=window(11, 4)),
        problem(WEIGHT_GRAD, channels=512, filters=512, side=7),
        problem(WEIGHT_GRAD, images=1, side=3),
        problem(WEIGHT_GRAD, images=0),
        problem(WEIGHT_GRAD, images=2, channels=4096, filters=8192, side=6),
    ],
)
def test_shares_cover_the_depth_once_and_fit_in_the_workspace(weights):
    cut = Cut.of(weights, np.float32)
    assert (cut.splits - 1) * cut.share < max(1, weights.depth) <= cut.splits * cut.share or not weights.depth
    assert cut.share % (2 * implicit_gemm.WORDS) == 0
    needed = StrictBackend().ops._implicit.workspace(weights)
    assert needed == (cut.splits * weights.filters * weights.entries if cut.splits > 1 else 0)
    assert needed <= 1 << 26
    small = weights.channels * weights.filters < 1 << 20
    assert not small or cut.share <= (1 << 14) + 2 * implicit_gemm.WORDS


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7, 9, 25, 49, 121, 3136, 65537, 2**30, 2**31 - 2**25])
def test_division_by_multiplication(number):
    packed = divisor(number)
    rng = np.random.default_rng(number)
    values = np.concatenate([rng.integers(0, 2**31, 2000), np.arange(200), 2**31 - 1 - np.arange(200)])
    near = np.arange(-3, 4) + number * rng.integers(0, max(1, (2**31 - 1) // number), 300)[:, None]
    values = np.unique(np.append(values, near[(near >= 0) & (near < 2**31)])).astype(np.uint64)
    high = values * np.uint64(packed["multiplier"]) >> np.uint64(32)
    np.testing.assert_array_equal((high + values) >> np.uint64(packed["shift"]), values // np.uint64(number))
    assert (high + values).max() < 2**32  # a kernel adds in 32 bits


def test_structs_are_laid_out_as_those_of_c():
    packed = struct(flag=1, step=np.int64(2), sizes=(3, 4, 5), by=divisor(7), last=np.int64(6))
    assert packed.dtype.fields["step"][1] == 8 and packed.dtype.fields["sizes"][1] == 16
    assert packed.dtype.fields["by"][1] == 28 and packed.dtype.fields["last"][1] == 40 and packed.dtype.itemsize == 48
    assert packed["sizes"].tolist() == [3, 4, 5] and packed["last"] == 6


# --- trials


@pytest.fixture
def trials(monkeypatch, tmp_path):
    """The file of trials that backends made from here on share."""
    path = tmp_path / "trials.json"
    monkeypatch.setenv("MINICAFFE_TRIALS", str(path))
    return path


def new_gpu(monkeypatch):
    monkeypatch.setattr(GpuBackend, "_of_device", {})
    return backend.use(GpuBackend.on_device(0))


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")
def test_what_is_faster_is_tried_once_and_kept(gpu, trials, launches, monkeypatch):  # noqa: F811
    times = itertools.cycle([2.0, 1.0, 1.0, 2.0])  # of the first problem the implicit GEMM is faster, and so on
    monkeypatch.setattr(Trials, "_milliseconds", lambda self, call: (call(), next(times))[1])
    with new_gpu(monkeypatch):
        expected = trained(training.LENET)
    (section,) = json.loads(trials.read_text()).values()
    assert len(section) == 5 and list(section.values()) == ["implicit", "im2col", "implicit", "im2col", "implicit"]
    assert launches  # graphs are made as ever
    monkeypatch.setattr(Trials, "_milliseconds", lambda self, call: pytest.fail("tried once more"))
    with new_gpu(monkeypatch):
        same_bits(expected, trained(training.LENET))


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")
def test_a_trial_measures(gpu, trials, monkeypatch):  # noqa: F811
    with new_gpu(monkeypatch) as where, where.running():
        assert where.ops.trials.is_implicit(where.ops, problem(images=1, channels=2, side=4, filters=3), "fp32") in (
            True,
            False,
        )
    (section,) = json.loads(trials.read_text()).values()
    assert set(section.values()) <= {"im2col", "implicit"} and len(section) == 1


@pytest.mark.parametrize("content", ["", "[1]", '{"a": {"b": "winograd"}}', '{"a": 1}', "\udcff"])
def test_a_file_of_something_else_is_named(gpu, trials, monkeypatch, content):  # noqa: F811
    trials.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DeviceError, match="trials.json is no file of trials of convolutions; remove it"):
        new_gpu(monkeypatch)
