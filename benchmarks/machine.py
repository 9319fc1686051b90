"""The machine: how it is described, how many threads everyone gets, and how fast it multiplies and copies."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import peers

PACKAGES = ("minicaffe", "numpy", "numba", "scipy", "torch")
_MATRIX = 1536
_LARGEST_COPY = 1 << 28


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe(threads: int) -> dict[str, Any]:
    """What the figures depend on: CPU model, cores, threads in use, versions; no names of hosts or files."""
    importlib.import_module("scipy.linalg.cython_blas")  # the BLAS that the kernels call is to be among those listed
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": sorted({f"{x['internal_api']} {x['version']}" for x in threadpool_info() if x["user_api"] == "blas"}),
    }


def file_name(machine: dict[str, Any]) -> str:
    """Name of the file that holds a machine's results."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((R|TM)\)", "", machine["cpu"]).lower()).strip("-")
    return f"{slug}-{machine['cores']}cores-{machine['threads']}threads.json"


def set_threads(threads: int) -> None:
    """Give every contestant in this process ``threads`` threads; children inherit it through ``child_environment``."""
    numba.set_num_threads(threads)
    torch = peers.torch()
    if torch:
        torch.set_num_threads(threads)


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a child process that is to use ``threads`` threads."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return " ".join((found[1] if found else platform.processor() or platform.machine()).split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Rates:
    """What this machine reaches with ``threads`` threads: single-precision FLOP/s in a matrix product, bytes/s in a copy."""

    def __init__(self, threads: int, matrix: int = _MATRIX) -> None:
        self.threads, self._matrix = threads, matrix
        self.sgemm = 0.0
        self._copies: dict[int, float] = {}
        self.multiply()

    def multiply(self) -> None:
        """Measure ``sgemm`` again and keep the best: other programs may have had the cores before."""
        self.sgemm = max(self.sgemm, _sgemm(self.threads, self._matrix))

    def copy(self, moved: float) -> float:
        """Bytes read and written a second by a copy that moves about ``moved`` bytes, so in the same caches."""
        size = min(max(1 << 14, 1 << round(np.log2(max(moved, 1)))), _LARGEST_COPY)
        if size not in self._copies:
            source, target = np.ones(size // 8, np.float32), np.zeros(size // 8, np.float32)
            one, many = (lambda: np.copyto(target, source)), (lambda: _copy(source, target, self.threads))
            self._copies[size] = size / min(_best_time(one), _best_time(many))
        return self._copies[size]

    def floor(self, flops: float, moved: float) -> float:
        """Seconds that matrix products of ``flops`` or traffic of ``moved`` bytes take at these rates, whichever is more."""
        return max(flops / self.sgemm, moved / self.copy(moved) if moved else 0.0)

    def figures(self) -> dict[str, Any]:
        """The rates measured so far, for the report."""
        copies = {f"{size >> 10} KiB": round(rate / 1e9, 2) for size, rate in sorted(self._copies.items())}
        return {"sgemm_gflops": round(self.sgemm / 1e9, 1), "copy_gb_per_s": copies}


def _sgemm(threads: int, size: int) -> float:
    """The best of the libraries at hand: NumPy's BLAS, and PyTorch's."""
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(a)
    with threadpool_limits(threads, "blas"):
        seconds = _best_time(lambda: np.matmul(a, b, out=out))
    torch = peers.torch()
    if torch:
        p, q = torch.from_numpy(a), torch.from_numpy(b)
        seconds = min(seconds, _best_time(lambda: torch.mm(p, q)))
    return 2 * size**3 / seconds


@numba.njit(parallel=True, cache=True)
def _copy(source, target, threads):
    for t in numba.prange(threads):
        low, high = source.size * t // threads, source.size * (t + 1) // threads
        target[low:high] = source[low:high]


def _best_time(function: Callable[[], Any], samples: int = 7, seconds: float = 0.02) -> float:
    """The least of some samples' mean times: nothing else ran then."""
    function()
    start = time.perf_counter()
    function()
    calls = max(1, round(seconds / max(time.perf_counter() - start, 1e-9)))
    best = np.inf
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, (time.perf_counter() - start) / calls)
    return float(best)
