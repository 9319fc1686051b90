"""The part "kernels": every case of ``minicaffe.testing.kernel_cases``, poisoned outputs, guards around every array."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat
from minicaffe.kernels.cuda.launch import kernel_files, kernel_names
from minicaffe.testing import kernel_cases
from minicaffe.testing.gpu import cudnn, target
from minicaffe.testing.gpu.checks import Check, Options
from minicaffe.testing.gpu.runner import Result
from minicaffe.testing.kernel_cases import EDGES, KernelCase, Output, Sizes
from minicaffe.testing.kernel_cases.case import on_arrays

_GUARD = 512  # bytes on both sides of an array, a multiple of what CuPy aligns to
_CANARIES = (0x3F, 0xBF, 0x40, 0xC0, 0x41, 0xC1)
"""Bytes of the guards, which no two neighbouring arguments share; as numbers they are of usual size, so that they
change when something is added."""
_NAN = 0xFF
"""In the second run: what reads a guard gives other bits than in the first."""
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
        for case in filter(lambda case: case.suits(dtype), _one_of_each(edges) if options.bare else edges):
            yield Check(f"{case.name} {dtype}", partial(check, case, dtype, where, options.bare))
    if not options.bare:
        for case in cudnn.cases():
            yield Check(f"{case.name} float32", partial(check, case, "float32", where))
        known = {case.name for case in edges}
        large = [case for case in kernel_cases.cases(Sizes(small, _largest(options, where))) if case.name not in known]
        for dtype in ("float32", "float64"):
            for case in filter(lambda case: case.suits(dtype), _two_of_each(large)):
                yield Check(f"{case.name} {dtype}", partial(check, case, dtype, where))


def _one_of_each(cases: list[KernelCase]) -> list[KernelCase]:
    """The last case of every op, of float32 and of 16 bits: not the smallest."""
    return list({(case.op, bool(case.narrow)): case for case in cases}.values())


def _two_of_each(cases: list[KernelCase]) -> list[KernelCase]:
    """The first and the last case of every op, which differ in what they go along: large ones take their time."""
    first = {(case.op, bool(case.narrow)): case for case in reversed(cases)}
    chosen = {id(case) for case in (*first.values(), *_one_of_each(cases))}
    return [case for case in cases if id(case) in chosen]


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
    results: list[list[Any]] = []
    for canaries in (_CANARIES,) if bare else (_CANARIES, (_NAN,)):
        guarded = _Guarded(where, bare, canaries)
        with where.running():
            device = [on_arrays(guarded.array, arg) for arg in args]
            case.call(where, device)
            # what does not matter is left there: scratch may hold parts that nobody wrote, which a sanitizer tells of
            results.append([None if i in case.unlike else guarded.back(arg) for i, arg in enumerate(device)])
            guarded.check()
    problem = case.disagreement(expected, results[0])
    assert problem is None, problem
    for number, (first, second) in enumerate(zip(results[0], results[-1], strict=True)):
        if isinstance(first, np.ndarray):
            bits = [np.atleast_1d(array).view(np.uint8) for array in (first, second)]
            same = np.array_equal(bits[0], bits[1])
            assert same, f"argument {number}: a second run gives other bits, so it races or reads outside an array"
    return {
        "kernels": sorted({f"{program.file}.{kernel}" for program, kernel in set(where.ops.launch._kernels) - before})
    }


class _Guarded:
    """Device arrays, each between two zones that nobody may write to."""

    def __init__(self, where: Any, bare: bool, canaries: Sequence[int]) -> None:
        self._xp, self._bare, self._canaries = where.xp, bare, itertools.cycle(canaries)
        self._made: list[tuple[Any, Any, int, int]] = []  # an array, the bytes around it, its own bytes, its canary

    def array(self, host: NDArray) -> Any:
        """A copy of a NumPy array on the device."""
        if self._bare or host.size == 0:
            array = self._xp.empty(host.shape, host.dtype)
        else:
            around = self._xp.empty((host.nbytes + 2 * _GUARD,), np.uint8)
            canary = next(self._canaries)
            around.fill(canary)
            array = around[_GUARD : _GUARD + host.nbytes].view(host.dtype).reshape(host.shape)
            self._made.append((array, around, host.nbytes, canary))
        if not (self._bare and isinstance(host, Output)):
            array.set(np.ascontiguousarray(host).reshape(host.shape))
        return array

    def back(self, arg: Any) -> Any:
        """An argument of the call on the host."""
        return arg.get() if hasattr(arg, "get") and hasattr(arg, "dtype") else arg

    def check(self) -> None:
        """AssertionError if a guard was written to."""
        for array, around, nbytes, canary in self._made:
            for side, zone in (("before", around[:_GUARD]), ("behind", around[_GUARD + nbytes :])):
                touched = np.flatnonzero(zone.get() != canary)
                assert not touched.size, (
                    f"a kernel wrote {side} an array of shape {tuple(array.shape)}, {array.dtype}: {touched.size} bytes"
                )
