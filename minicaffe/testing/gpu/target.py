"""The GPU under test, and how long it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from minicaffe import compat
from minicaffe.backend.gpu import GpuBackend
from minicaffe.backend.precision import allow_tf32
from minicaffe.errors import DeviceError, MissingExtraError
from minicaffe.kernels.cuda.launch import computed
from minicaffe.testing.gpu.checks import Options


def open_backend(options: Options) -> GpuBackend:
    """The GPU's backend; where cuBLAS cannot be reached through nvmath-python, one that multiplies matrices by CuPy.

    Raises MissingExtraError without CuPy, DeviceError if there is no such GPU.
    """
    try:
        return GpuBackend.on_device(options.gpu)
    except (DeviceError, MissingExtraError):  # if it is not cuBLAS that is missing, the next line raises it again
        return _WithoutNvmath.on_device(options.gpu)


def multiplies_by_cupy(where: GpuBackend) -> bool:
    """Whether ``where`` had to do without nvmath-python."""
    return isinstance(where, _WithoutNvmath)


class _WithoutNvmath(GpuBackend):
    """The backend with products by ``cupy.matmul``, which allocates and cannot be captured, but computes the same."""

    _of_device: ClassVar[dict[int, GpuBackend]] = {}

    def _make_gemm(self, cupy: Any) -> Callable[..., None]:
        def gemm(
            a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
        ) -> None:
            dtype = computed(out.dtype)
            left, right = (_widened(cupy, x, dtype) for x in (a, b))
            left = left.swapaxes(-1, -2) if transpose_a else left
            right = right.swapaxes(-1, -2) if transpose_b else right
            product = cupy.matmul(left, right)
            if accumulate:
                product += _widened(cupy, out, dtype)
            out[...] = _to_bf16(cupy, product) if out.dtype == cupy.uint16 else product

        return gemm


def _widened(cupy: Any, factor: Any, dtype: Any) -> Any:
    """An array of 16 bits, float16 or the bits of bfloat16 in uint16, in a dtype to compute in."""
    if factor.dtype == cupy.uint16:
        return (factor.astype(cupy.uint32) << 16).view(dtype)
    return factor if factor.dtype == dtype else factor.astype(dtype)


def _to_bf16(cupy: Any, numbers: Any) -> Any:
    """The bits of the nearest bfloat16s, as half.cuh makes them."""
    bits = numbers.view(cupy.uint32)
    return cupy.where(numbers != numbers, 0x7FFF, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(cupy.uint16)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, GPUs may round to TF32 or not."""
    before = allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(before)


def sample(
    where: GpuBackend, function: Callable[[], Any], seconds: float = 0.5, least: int = 5, most: int = 60
) -> list[float]:
    """Seconds that calls of ``function`` take on the device, one by one, between events; after three that do not count.

    As many calls are made as fill ``seconds``.
    """
    cuda = where.xp.cuda
    with where.running():
        for _ in range(2):
            function()
        once = _between(cuda, function, 1)[0]
        return _between(cuda, function, min(most, max(least, round(seconds / max(once, 1e-9)))))


def _between(cuda: Any, function: Callable[[], Any], calls: int) -> list[float]:
    events, stream = [cuda.Event() for _ in range(calls + 1)], cuda.get_current_stream()
    events[0].record(stream)
    for event in events[1:]:
        function()
        event.record(stream)
    events[-1].synchronize()
    return [cuda.get_elapsed_time(a, b) / 1e3 for a, b in zip(events, events[1:], strict=False)]


def version(package: str) -> str:
    """``__version__`` of a package, or "not installed"."""
    return str(getattr(compat.require(package), "__version__", "unknown")) if compat.have(package) else "not installed"
