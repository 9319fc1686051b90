"""Every CUDA kernel compiles for every generation of GPU that is in use; needs CuPy's NVRTC, no driver and no GPU."""

from __future__ import annotations

import math

import pytest

from minicaffe.kernels.cuda.launch import kernel_files, kernel_names, kernel_source
from minicaffe.kernels.cuda.translate import translate

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
TYPES = {  # template arguments after the dtype
    "im2col": (
        *(f", {axes}, {{T}}, {{T}}" for axes in (1, 2, 3, 10)),
        ", 2, {T}, Half",
        ", 2, BFloat16, BFloat16",
    ),
    "bias": (", {T}", ", Half", ", BFloat16"),
    "batch_norm": (", {T}, {T}, {T}", ", Half, {T}, Half", ", BFloat16, BFloat16, BFloat16"),
    "pooling": (", {T}, {T}", ", Half, {T}", ", BFloat16, BFloat16"),
    "solver_update": (
        ", double, double",
        ", double, const double*",
        ", const double*, double",
        ", const double*, const double*",
    ),
    "rounding": (", Half", ", BFloat16"),
    "elementwise": (", {T}, const {T}*, const {T}*, {T}", ", Half, const {T}*, const BFloat16*, {T}"),
    "channel": (", {T}, const {T}*, const Channel<{T}>*, {T}", ", BFloat16, const Half*, const Channel<{T}>*, {T}"),
    "implicit_gemm": (
        ", 1, Forward, Scalar<{T}, 64>, {T}, {T}, {T}",
        ", 2, DataGrad, Scalar<{T}, 64>, {T}, {T}, {T}",
        ", 3, WeightGrad, Scalar<{T}, 64>, {T}, {T}, {T}",
    ),
}
TENSOR_CORES = [  # the largest kernels; 75 has none for these factors, and is never asked
    "implicit_gemm<float, 2, Forward, TensorCore<Tf32, 128>, float, float, float>",
    "implicit_gemm<float, 2, WeightGrad, TensorCore<Tf32, 64>, float, float, float>",
    "implicit_gemm<float, 2, WeightGrad, TensorCore<Halves<Half>, 128>, Half, Half, float>",
    "implicit_gemm<float, 2, DataGrad, TensorCore<Halves<BFloat16>, 128>, float, BFloat16, BFloat16>",
    "implicit_gemm<float, 2, WeightGrad, Scalar<float, 128>, float, float, float>",
]


def formula(x, y, a):
    return (
        a * x**2
        - y / (abs(x) + 1)
        + (math.exp(x) if x > 0 else math.log(a))
        + min(math.tanh(x), max(y, 0.5)) * math.sqrt(a)
    )


@pytest.fixture(scope="module", autouse=True)
def have_nvrtc():
    try:
        nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"NVRTC does not load: {error}")


def compile_for(architecture, source, names):
    """The machine code that NVRTC makes; its log goes into the exception."""
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, ("-std=c++17", f"-arch=sm_{architecture}"))
        except nvrtc.NVRTCError as error:
            raise AssertionError(nvrtc.getProgramLog(program)) from error
        assert all(nvrtc.getLoweredName(program, name) for name in names)
        return nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("file", kernel_files())
def test_kernels_compile(file, dtype, architecture):
    if architecture not in nvrtc.getSupportedArchs():
        pytest.skip(f"this NVRTC {nvrtc.getVersion()} does not know sm_{architecture}")
    source = kernel_source(file, translate(formula) if file in ("elementwise", "channel") else "")
    names = [
        f"{kernel}<{dtype}{types.format(T=dtype)}>" for kernel in kernel_names(file) for types in TYPES.get(file, ("",))
    ]
    assert len(compile_for(architecture, source, names)) > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_implicit_gemm_compiles_for_tensor_cores(architecture):
    if architecture not in nvrtc.getSupportedArchs():
        pytest.skip(f"this NVRTC {nvrtc.getVersion()} does not know sm_{architecture}")
    code = compile_for(architecture, kernel_source("implicit_gemm"), TENSOR_CORES)
    assert len(code) > 0
