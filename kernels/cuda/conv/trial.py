"""Which algorithm of a convolution is faster, tried on the GPU at hand and kept in a file."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicaffe.errors import DeviceError
from minicaffe.kernels.cuda.conv.im2col import Im2colGemm
from minicaffe.kernels.cuda.conv.implicit_gemm import ImplicitGemm
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, Problem
from minicaffe.kernels.cuda.launch import kernel_source
from minicaffe.proto.atomic import write_atomic

IM2COL, IMPLICIT = ALGORITHMS = ("im2col", "implicit")
_CALLS = 5  # of each algorithm, after one that compiles and does not count


def calls(ops: Any, zeros: Callable[..., Any], problem: Problem) -> dict[str, Callable[[], None]]:
    """The product by each algorithm, on arrays of its own, made by ``zeros(shape, dtype)``, that hold ones."""
    im2col, implicit = Im2colGemm(ops), ImplicitGemm(ops, ops.tensor_cores)
    group, window = problem.group, problem.window
    x, y, w = (
        zeros(shape, np.float32)
        for shape in (problem.x_shape, problem.y_shape, (problem.y_shape[1], problem.channels, *window.kernel))
    )
    for array in (x, y, w):
        array.fill(1)
    room = max(im2col.workspace(problem.x_shape, problem.y_shape, window, group), implicit.workspace(problem))
    space = zeros((room,), np.float32)
    if problem.kind == FORWARD:
        return {
            IM2COL: lambda: im2col.convolve(x, w, y, window, group, space),
            IMPLICIT: lambda: implicit.convolve(x, w, None, y, window, group),
        }
    if problem.kind == DATA_GRAD:
        return {
            IM2COL: lambda: im2col.data_grad(y, w, x, window, group, space),
            IMPLICIT: lambda: implicit.data_grad(y, w, x, window, group),
        }
    return {
        IM2COL: lambda: im2col.weight_grad(x, y, w, window, group, space, False),
        IMPLICIT: lambda: implicit.weight_grad(x, y, w, window, group, space, False),
    }


class Trials:
    """What was faster for each problem, on one kind of GPU and these kernels; each is tried once and then remembered.

    ``path`` is a JSON file that several GPUs and processes may share; ``zeros`` makes arrays, and ``cuda`` is CuPy's
    module of that name.  Raises DeviceError if the file is there and holds something else, SnapshotError if it cannot
    be written.
    """

    def __init__(self, path: Path, device: str, zeros: Callable[..., Any], cuda: Any) -> None:
        self._path, self._zeros, self._cuda = path, zeros, cuda
        self._section = f"{device}, kernels {hashlib.sha256(kernel_source('implicit_gemm').encode()).hexdigest()[:12]}"
        self._faster = self._read().get(self._section, {})

    def is_implicit(self, ops: Any, problem: Problem, precision: str) -> bool:
        """Whether the implicit GEMM is the faster one for factors of this precision."""
        layer = f"{problem.x_shape} -> {problem.y_shape}, {tuple(problem.window)}, group {problem.group}"
        key = f"{problem.kind} {precision} {layer}"
        if key not in self._faster:
            times = {name: self._milliseconds(call) for name, call in calls(ops, self._zeros, problem).items()}
            self._faster[key] = min(times, key=times.__getitem__)
            self._write()
        return self._faster[key] == IMPLICIT

    def _milliseconds(self, call: Callable[[], None]) -> float:
        times = []
        call()
        for _ in range(_CALLS):
            start, end = self._cuda.Event(), self._cuda.Event()
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(self._cuda.get_elapsed_time(start, end))
        return statistics.median(times)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads(self._path.read_text())
            if all(name in ALGORITHMS for section in found.values() for name in section.values()):
                return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError):
            pass
        raise DeviceError(
            f"MINICAFFE_TRIALS={self._path} is no file of trials of convolutions; remove it, or name another"
        )

    def _write(self) -> None:
        """Add what is new to what other processes may have written meanwhile."""
        found = self._read()
        self._faster = {**found.get(self._section, {}), **self._faster}
        write_atomic(self._path, json.dumps({**found, self._section: self._faster}, indent=1).encode())
