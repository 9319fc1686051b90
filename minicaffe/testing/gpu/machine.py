"""The part "device": what is there, and how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minicaffe import __version__, compat
from minicaffe.backend.gpu import GpuBackend
from minicaffe.errors import MinicaffeError
from minicaffe.kernels import fast_paths
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options, Skip

THERE = "the GPU is there"
_PROPERTIES = ("major", "minor", "multiProcessorCount", "totalGlobalMem", "l2CacheSize", "memoryBusWidth")


PRODUCTS = {
    "SGEMM FP32": (False, "fp32", 1e-4),
    "SGEMM TF32": (True, "fp32", 5e-3),
    "GEMM fp16": (False, "fp16", 5e-3),
    "GEMM bf16": (False, "bf16", 2e-2),
}
"""Whether TF32 is allowed, what the factors are rounded to, and which relative error of positive sums is too large."""


def checks(options: Options) -> Iterator[Check]:
    """Versions first: they are wanted even of a device that can do nothing."""
    yield Check("versions", versions, always=True)
    yield Check(THERE, partial(_describe, options), always=True)
    try:
        target.open_backend(options)
    except MinicaffeError:  # as the check before has told
        return
    yield Check("cuBLAS by nvmath-python", partial(_cublas, options), always=True)
    yield Check("copy", partial(_copy, options), always=True)
    yield Check("copies ahead", partial(_copies_ahead, options), always=True)
    for name, how in PRODUCTS.items():
        yield Check(name, partial(_product, options, *how), always=True)


def versions() -> dict[str, Any]:
    """Of Python and the packages that matter."""
    packages = ("numpy", "numba", "cupy", "nvmath", "torch")
    return {
        "minicaffe": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)),
        **{name: _safely(partial(target.version, name)) for name in packages},
    }


def _safely(function: Callable[[], Any]) -> Any:
    """What a function gives, or what keeps it from doing so: one version that cannot be told must not hide
    the others.
    """
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _describe(options: Options) -> dict[str, Any]:
    where = target.open_backend(options)
    runtime = where.xp.cuda.runtime
    properties = runtime.getDeviceProperties(options.gpu)
    name = properties["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        **{key: properties[key] for key in _PROPERTIES if key in properties},
        "driver": _safely(partial(_driver, options.gpu)),
        "driver CUDA": runtime.driverGetVersion(),
        "runtime CUDA": runtime.runtimeGetVersion(),
        "nvrtc": _safely(lambda: compat.require("cupy_backends.cuda.libs.nvrtc").getVersion()),
    }


def _driver(gpu: int) -> str:
    """The driver's own version, which only its tool tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", str(gpu)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


def _cublas(options: Options) -> dict[str, Any]:
    where = target.open_backend(options)
    if target.multiplies_by_cupy(where):
        if not compat.have("nvmath"):
            raise Skip("nvmath-python is not installed")
        GpuBackend.on_device(options.gpu)  # raises what is wrong
    gemm = where.ops._gemm
    return {"cublas": compat.require("nvmath.bindings.cublas").get_version(gemm.handle)}


def _copy(options: Options) -> dict[str, Any]:
    """Bytes read and written a second, of arrays larger than the caches."""
    where = target.open_backend(options)
    count = 1 << (16 if options.small else 26)
    with where.running():
        source, out = where.xp.zeros((count,), np.float32), where.xp.zeros((count,), np.float32)
        seconds = statistics.median(target.sample(where, partial(where.xp.copyto, out, source)))
    return {"GB/s": 2 * source.nbytes / seconds / 1e9}


def _copies_ahead(options: Options) -> dict[str, Any]:
    """Inputs that are copied while a kernel works on those before arrive whole; and how long an input takes with that
    and without.
    """
    where = target.open_backend(options)
    count, turns = (1 << 16 if options.small else 1 << 24), 8
    inputs = [np.full(count, number, np.float32) for number in range(turns)]
    x, work, sums = (where.zeros((size,), np.float32) for size in (count, 16 * count, turns))

    def take(number: int) -> None:
        where.upload(inputs[number], x, again=True)
        with where.running():
            work.fill(number)
            where.ops.dot(x, x, sums[number : number + 1].reshape(()))

    def take_all() -> float:
        with where.running():
            sums.fill(0)
        where.synchronize()
        started = time.perf_counter()
        for number in range(turns):
            take(number)
        where.synchronize()
        return (time.perf_counter() - started) / turns

    seconds = []
    for without in ([], ["copy_ahead"]):
        with fast_paths.without(*without):
            take_all()  # which makes the buffers
            seconds.append(take_all())
        found, expected = sums.get(), [number * number * float(count) for number in range(turns)]
        assert np.allclose(found, expected, rtol=1e-6), f"sums of squares of inputs: {found}, expected {expected}"
    return {"ms": seconds[0] * 1e3, "ms without": seconds[1] * 1e3}


def _product(options: Options, tf32: bool, precision: str, tolerance: float) -> dict[str, Any]:
    """FLOP/s of a large matrix product, and how far it is from one in double precision."""
    where = target.open_backend(options)
    if target.multiplies_by_cupy(where):
        raise Skip("needs nvmath-python")
    size = 64 if options.small else 8192
    rng = np.random.default_rng(0)
    with where.running(), target.tf32(tf32), where.rounding(precision):
        a, b, out = (where.xp.zeros((size, size), np.float32) for _ in range(3))
        for array in (a, b):
            array.set(rng.random((size, size), np.float32))
        seconds = statistics.median(target.sample(where, partial(where.ops.gemm, a, b, out)))
        row, matrix, found = a[0].get().astype(np.float64), b.get().astype(np.float64), out[0].get()
    error = float(np.abs(found / (row @ matrix) - 1).max())
    assert error < tolerance, f"the product's relative error is {error:g}"
    return {"TFLOP/s": 2 * size**3 / seconds / 1e12, "relative error": error}
