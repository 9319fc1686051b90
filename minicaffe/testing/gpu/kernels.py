"""The part "kernels": every case of ``minicaffe.testing.kernel_cases``, poisoned outputs, guards around every array."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat
from minicaffe.kernels.cuda.launch import kernel_files, kernel_names
from minicaffe.testing import kernel_cases
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options
from minicaffe.testing.gpu.runner import Result
from minicaffe.testing.kernel_cases import EDGES, KernelCase, Output, Sizes
from minicaffe.testing.kernel_cases.case import on_arrays

_GUARD = 512  # bytes on both sides of an array, a multiple of what CuPy aligns to
_CANARY = 0xFF  # NaN, if it is read as a number
_LARGE = 24_000_000
_BYTES_AN_ELEMENT = 256  # of device memory, for all arrays of the largest case in float64


def checks(options: Options) -> Iterator[Check]:
    """Sizes around the edges of blocks in both precisions, then large arrays."""
    if options.bare:  # each array an allocation of its own, whose ends compute-sanitizer knows
        compat.require("cupy").cuda.set_allocator(None)
    where = target.open_backend(options)
    small = (1, 33, 257) if options.small or options.bare else EDGES
    edges = list(kernel_cases.cases(Sizes(small)))
    for dtype in ("float32", "float64"):
        for case in _one_of_each(edges) if options.bare else edges:
            yield Check(f"{case.name} {dtype}", partial(check, case, dtype, where, options.bare))
    if not options.bare:
        known = {case.name for case in edges}
        large = [case for case in kernel_cases.cases(Sizes(small, _largest(options, where))) if case.name not in known]
        for dtype in ("float32", "float64"):
            for case in large:
                yield Check(f"{case.name} {dtype}", partial(check, case, dtype, where))


def _one_of_each(cases: list[KernelCase]) -> list[KernelCase]:
    """The last case of every op: not the smallest."""
    return list({case.op: case for case in cases}.values())


def _largest(options: Options, where: Any) -> int:
    if options.small:
        return 20_000
    memory = where.xp.cuda.runtime.getDeviceProperties(options.gpu)["totalGlobalMem"]
    return min(_LARGE, memory // _BYTES_AN_ELEMENT)


def account(result: Result) -> None:
    """Note kernels that no check launched, if all of them ran."""
    if result.unfinished or not result.right:
        return
    all_kernels = {f"{file}.{kernel}" for file in kernel_files() for kernel in kernel_names(file)}
    launched = {name for row in result.rows for name in row["figures"].get("kernels", ())}
    if all_kernels - launched:
        result.add("every kernel is launched", f"never launched: {', '.join(sorted(all_kernels - launched))}")


def check(case: KernelCase, dtype: str, where: Any, bare: bool = False) -> dict[str, Any]:
    """Run a case twice: right numbers, the same bits, nothing written outside an array; AssertionError if not.

    ``bare``: arrays stand alone and outputs are left as they are, so that compute-sanitizer sees what is wrong.
    """
    args = case.draw(dtype)
    with np.errstate(all="ignore"):
        expected = case.expected(args)
    before = set(where.ops.launch._kernels)
    results = []
    for _ in range(1 if bare else 2):
        guarded = _Guarded(where, bare)
        with where.running():
            device = [on_arrays(guarded.array, arg) for arg in args]
            case.call(where, device)
            results.append([guarded.back(arg) for arg in device])
            guarded.check()
    problem = case.disagreement(expected, results[0])
    assert problem is None, problem
    for number, (first, second) in enumerate(zip(results[0], results[-1], strict=True)):
        if isinstance(first, np.ndarray) and number not in case.unlike:
            same = np.array_equal(first, second, equal_nan=True)
            assert same, f"argument {number}: a second run gives other bits"
    return {
        "kernels": sorted({f"{program.file}.{kernel}" for program, kernel in set(where.ops.launch._kernels) - before})
    }


class _Guarded:
    """Device arrays, each between two zones that nobody may write to."""

    def __init__(self, where: Any, bare: bool) -> None:
        self._xp, self._bare = where.xp, bare
        self._made: list[tuple[Any, Any, int]] = []  # an array, the bytes around it, its own bytes

    def array(self, host: NDArray) -> Any:
        """A copy of a NumPy array on the device."""
        if self._bare or host.size == 0:
            array = self._xp.empty(host.shape, host.dtype)
        else:
            around = self._xp.empty((host.nbytes + 2 * _GUARD,), np.uint8)
            around.fill(_CANARY)
            array = around[_GUARD : _GUARD + host.nbytes].view(host.dtype).reshape(host.shape)
            self._made.append((array, around, host.nbytes))
        if not (self._bare and isinstance(host, Output)):
            array.set(np.ascontiguousarray(host).reshape(host.shape))
        return array

    def back(self, arg: Any) -> Any:
        """An argument of the call on the host."""
        return arg.get() if hasattr(arg, "get") and hasattr(arg, "dtype") else arg

    def check(self) -> None:
        """AssertionError if a guard was written to."""
        for array, around, nbytes in self._made:
            for side, zone in (("before", around[:_GUARD]), ("behind", around[_GUARD + nbytes :])):
                touched = np.flatnonzero(zone.get() != _CANARY)
                assert not touched.size, (
                    f"a kernel wrote {side} an array of shape {tuple(array.shape)}, {array.dtype}: {touched.size} bytes"
                )
