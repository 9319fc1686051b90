"""Every CUDA kernel, built for the CPU, agrees with ``kernels/reference``; needs g++, no GPU.

The calls are those of ``minicaffe.testing.kernel_cases``.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby

import cuda_host
import numpy as np
import pytest
import strict_cupy
from strict_gpu import StrictBackend

from minicaffe.errors import ShapeError
from minicaffe.kernels import reference
from minicaffe.kernels.cuda import launch
from minicaffe.kernels.cuda.conv import im2col
from minicaffe.kernels.cuda.launch import kernel_files, kernel_names, program
from minicaffe.testing import kernel_cases
from minicaffe.testing.kernel_cases import KernelCase, Sizes
from minicaffe.testing.kernel_cases.case import TOLERANCE, normal, on_arrays, output
from minicaffe.testing.kernel_cases.windows import window

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")

CASES = list(kernel_cases.cases(Sizes((1, 2, 31, 33, 257, 1025), large=20_000)))
OPS = [op for op, _ in groupby(sorted(case.op for case in CASES))]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="module")
def backend():
    return StrictBackend()


@pytest.fixture
def agrees(backend, monkeypatch):
    """Runs a case with NumPy and with the kernels, and compares every array afterwards.

    The kernels run twice, threads first to last and last to first: a missing barrier or a race changes the result.
    """

    def check(case, dtype):
        args = case.draw(dtype)
        with np.errstate(all="ignore"):
            expected = case.expected(args)
        results = []
        for reverse in (False, True):
            monkeypatch.setattr(strict_cupy.RawModule, "reverse", reverse)
            actual = [on_arrays(strict_cupy.array, arg) for arg in args]
            with strict_cupy.no_sync():
                case.call(backend, actual)
            results.append([arg.get() if isinstance(arg, strict_cupy.ndarray) else None for arg in actual])
        problem = case.disagreement(expected, results[0])
        assert problem is None, f"{case.name}: {problem}"
        for number, (got, again) in enumerate(zip(*results, strict=True)):
            if got is not None and number not in case.unlike:
                np.testing.assert_array_equal(again, got, err_msg=f"{case.name}: argument {number}, threads in reverse")

    return check


@pytest.mark.parametrize("op", OPS)
def test_kernels_agree_with_the_reference(agrees, dtype, op):
    for case in CASES:
        if case.op == op and case.suits(dtype):
            agrees(case, dtype)


def test_every_kernel_is_reached(dtype):
    where, launched = StrictBackend(), set()
    where.ops.launch._launch = lambda program, kernel, *_: launched.add((program.file, kernel))
    for case in CASES:
        case.call(where, [on_arrays(strict_cupy.array, arg) for arg in case.draw(dtype)])
    assert launched == {(file, kernel) for file in kernel_files() for kernel in kernel_names(file)}


def test_an_output_that_is_not_written_is_found():
    case = KernelCase("bias_add", (output(2, 3, 1), normal(3)))
    args = case.draw(np.float32)
    assert np.isnan(args[0]).all()
    written = [np.zeros((2, 3, 1), np.float32), args[1]]
    assert case.disagreement(written, args).startswith(
        "argument 0, shape (2, 3, 1), float32: 6 of 6 elements differ, first at [0, 0, 0]: found nan, expected 0"
    )
    mask = KernelCase("max_pool", (output(2, dtype=np.int32),)).draw(np.float32)
    assert mask[0].dtype == np.int32 and (mask[0] < -1).all()


# --- what the table does not hold


@pytest.mark.parametrize("accumulate", [True, False])
def test_weights_get_no_gradient_from_no_images(agrees, dtype, accumulate):
    args = (normal(0, 3, 9, 8), normal(0, 4, 7, 6), normal(4, 3, 3, 3), window(3), 1, normal(0), accumulate)
    agrees(KernelCase("convolve_weight_grad", args), dtype)


@pytest.mark.parametrize(("limit", "large"), [(1, 1 << 20), (400, 1 << 20), (1, 1), (400, 1)])
def test_convolution_in_chunks_and_with_large_products(agrees, backend, monkeypatch, limit, large):
    monkeypatch.setattr(im2col, "CHUNK_ELEMENTS", limit)
    monkeypatch.setattr(im2col, "_LARGE_PRODUCT", large)
    three, x, y, w = window(3, 1, 1), normal(5, 4, 3, 3), normal(5, 6, 3, 3), normal(6, 2, 3, 3)
    assert backend.ops.convolution_workspace(x.shape, y.shape, three, 2) < 5 * 4 * 9 * 9
    space = output(5 * 4 * 9 * 9)
    case = partial(KernelCase, unlike=(5,))
    agrees(KernelCase("convolve", (x, w, None, output(*y.shape), three, 2, space), unlike=(6,)), np.float64)
    agrees(case("convolve_data_grad", (y, w, output(*x.shape), three, 2, space)), np.float64)
    for accumulate in (True, False):
        agrees(case("convolve_weight_grad", (x, y, w, three, 2, space, accumulate)), np.float64)


def test_softmax_in_place(backend, dtype):
    x = np.random.default_rng(0).standard_normal((2, 4, 35)).astype(dtype)
    device, expected = strict_cupy.array(x), np.empty_like(x)
    reference.softmax(x, expected)
    backend.ops.softmax(device, device)
    np.testing.assert_allclose(device.get(), expected, rtol=TOLERANCE[dtype])


# --- grids and memory


def test_grids_smaller_than_the_arrays(agrees, monkeypatch, dtype):
    monkeypatch.setattr(launch, "_MAX_BLOCKS", 2)
    monkeypatch.setattr(launch, "_MAX_GRID_Y", 2)
    scores = (7, 5, 3)
    agrees(KernelCase("softmax", (normal(*scores), output(*scores))), dtype)
    agrees(KernelCase("softmax_grad", (normal(*scores), normal(*scores), output(*scores))), dtype)
    agrees(KernelCase("bias_add", (normal(3, 5, 700), normal(5))), dtype)
    agrees(KernelCase("bias_add", (normal(300, 5, 1), normal(5))), dtype)
    agrees(KernelCase("sgd_update", (normal(3000), normal(3000), normal(3000), 0.1, 0.9, 0.5, 0.01, False)), dtype)


def test_ops_do_not_allocate_the_second_time(backend, dtype):
    x, dbias, workspace = (strict_cupy.zeros(shape, dtype) for shape in ((8, 3000, 2), (3000,), (8 * 3000 * 2,)))
    loss, image, w = (strict_cupy.zeros(shape, dtype) for shape in ((), (2, 3, 6, 6), (4, 3, 3, 3)))
    factor = strict_cupy.zeros((), np.float64)
    y = strict_cupy.zeros((2, 4, 4, 4), dtype)

    def calls():
        backend.ops.bias_grad(x, dbias)
        backend.ops.dot(x, x, loss)
        backend.ops.gradient_scale(x, 1.0, 1.0, None, loss, factor)
        backend.ops.convolve(image, w, None, y, window(3), 1, workspace)
        backend.ops.convolve_weight_grad(image, y, w, window(3), 1, workspace, False)

    calls()
    before = strict_cupy.allocations()
    calls()
    assert strict_cupy.allocations() == before


def test_a_row_too_long_for_a_kernel_is_refused(backend):
    y = strict_cupy.zeros((1, 1, 1), np.float32)
    with pytest.raises(ShapeError, match="2147483648 elements"):
        backend.ops.launch.planes(program("bias", np.float32, "float"), "bias_add", 1, 1 << 31, y, y, 1)


def test_half_precision_is_refused(backend):
    with pytest.raises(TypeError, match="float16"):
        backend.ops.bias_add(strict_cupy.zeros((1, 1, 1), np.float16), strict_cupy.zeros((1,), np.float16))
