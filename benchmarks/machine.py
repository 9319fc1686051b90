"""The machine: how it is described, how many threads everyone gets, and how fast it multiplies and copies."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

import minicaffe
from benchmarks import isa, peers
from minicaffe import backend
from minicaffe.kernels import cpu
from minicaffe.kernels.cpu.runtime.threads import threading_layer

PACKAGES = ("minicaffe", "numpy", "numba", "torch", "onnxruntime", "openvino", "opencv-python-headless")
_MATRIX = 1536
_LARGEST_COPY = 1 << 28


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe(threads: int) -> dict[str, Any]:
    """What the figures depend on: CPU model, cores, threads in use, versions; no names of hosts or files."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "threads": threads,
        "isa": isa.current(),
        "threading_layer": threading_layer(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": sorted({f"{x['internal_api']} {x['version']}" for x in threadpool_info() if x["user_api"] == "blas"}),
    }


def file_name(machine: dict[str, Any]) -> str:
    """Name of the file that holds a machine's results."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((R|TM)\)", "", machine["cpu"]).lower()).strip("-")
    limit = "" if machine["isa"] == "native" else f"-{machine['isa']}"
    return f"{slug}-{machine['cores']}cores-{machine['threads']}threads{limit}.json"


def set_threads(threads: int) -> None:
    """Give every contestant in this process ``threads`` threads; children inherit it through ``child_environment``."""
    minicaffe.set_num_threads(threads)
    numba.set_num_threads(threads)  # for kernels that run outside a pass
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
    """What this machine reaches with ``threads`` threads: single-precision FLOP/s in the fastest matrix product at
    hand, bytes/s in the fastest copy.

    The properties and ``figures`` tell the best that was seen.
    """

    def __init__(self, threads: int, matrix: int = _MATRIX) -> None:
        self._threads = threads
        products = _products(threads, matrix)
        self._product = _Paced(2.0 * matrix**3, list(products.values()))
        self.library = next(name for name, way in products.items() if way is self._product.way)
        """Whose matrix product is the fastest."""
        self._copies: dict[int, _Paced] = {}

    @property
    def sgemm(self) -> float:
        """FLOP/s."""
        return self._product.best

    def copy(self, moved: float) -> float:
        """Bytes read and written a second by a copy that moves about ``moved`` bytes, so in the same caches."""
        return self._copy(moved).best

    def _copy(self, moved: float) -> _Paced:
        size = min(max(1 << 14, 1 << round(np.log2(max(moved, 1)))), _LARGEST_COPY)
        if size not in self._copies:
            source, target = np.ones(size // 8, np.float32), np.zeros(size // 8, np.float32)
            ways = [lambda: np.copyto(target, source), lambda: _copy(source, target, self._threads)]
            self._copies[size] = _Paced(size, ways)
        return self._copies[size]

    def floor(self, flops: float, moved: float) -> Callable[[], float]:
        """A function that tells the seconds which matrix products of ``flops`` or traffic of ``moved`` bytes would take
        now.

        Whichever is more.  It measures at each call, since what other programs leave of a machine changes by the
        second.
        """
        if flops / self.sgemm >= (moved / self.copy(moved) if moved else 0.0):
            return lambda: flops / self._product.now()
        return lambda: moved / self._copy(moved).now()

    def figures(self) -> dict[str, Any]:
        """The best rates so far, for the report."""
        copies = {f"{size >> 10} KiB": round(copy.best / 1e9, 2) for size, copy in sorted(self._copies.items())}
        return {"sgemm_gflops": round(self.sgemm / 1e9, 1), "sgemm_of": self.library, "copy_gb_per_s": copies}


class _Paced:
    """The fastest of several ways to do ``amount`` of work, and its rate."""

    def __init__(self, amount: float, ways: Sequence[Callable[[], Any]]) -> None:
        self._amount = amount
        times = [(_best_time(way), way) for way in ways]
        seconds, self.way = min(times, key=lambda item: item[0])
        self.best = amount / seconds

    def now(self) -> float:
        """The rate of a moment's work."""
        rate = self._amount / _best_time(self.way, samples=1)
        self.best = max(self.best, rate)
        return rate


def _products(threads: int, size: int) -> dict[str, Callable[[], Any]]:
    """Matrix products by whose they are: minicaffe's, and PyTorch's or NumPy's BLAS.

    On some processors those of a library are for lesser ones, so minicaffe's is faster.  Not of both libraries: NumPy's
    has threads of its own, which look for work while others are measured; PyTorch's are the contestants'.
    """
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(a)

    def own_product() -> None:
        with backend.current().running():  # as within a net's pass
            cpu.gemm(a, b, out)

    torch = peers.torch()
    if torch:
        p, q = torch.from_numpy(a), torch.from_numpy(b)
        return {"minicaffe": own_product, "torch": lambda: torch.mm(p, q)}
    libraries = ThreadpoolController()

    def numpy_product() -> None:
        with libraries.limit(limits=threads, user_api="blas"):
            np.matmul(a, b, out=out)

    return {"minicaffe": own_product, "numpy": numpy_product}


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
