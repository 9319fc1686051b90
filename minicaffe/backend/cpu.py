"""The CPU backend: NumPy arrays, Numba kernels."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe.backend import random, threads
from minicaffe.backend.base import Backend, RandomSource
from minicaffe.kernels import cpu, fast_paths
from minicaffe.kernels.cpu.runtime.capture import RecordedOps, Recording, mine
from minicaffe.kernels.cpu.runtime.threads import held, thread_count


class CpuRandom(RandomSource):
    """Draws from Caffe's own process-wide stream, so that one seed gives Caffe's masks."""

    def uniform(self, out: NDArray) -> None:
        out.reshape(-1)[...] = random.stream().uniform(np.finfo(np.float32).tiny, 1.0, out.size)

    def bernoulli(self, out: NDArray, keep: float) -> None:
        out.reshape(-1)[...] = random.stream().bernoulli(keep, out.size)

    def get_state(self) -> bytes:
        return random.stream().get_state()

    def set_state(self, state: bytes) -> None:
        random.stream().set_state(state)


class _Running(contextlib.AbstractContextManager):
    """One pass at a time: Numba's work-queue threading layer aborts the process when two threads enter parallel kernels
    at once, and the layers of all nets share one workspace."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._threads = held(threads.apply())
        self._lock.acquire()
        self._threads.__enter__()

    def __exit__(self, *_: object) -> None:
        self._threads.__exit__()
        self._lock.release()


class CpuBackend(Backend):
    """Layers run on NumPy arrays in host memory."""

    name = "cpu"
    xp = np
    ops: Any = cpu
    is_host = True

    def __init__(self) -> None:
        super().__init__()
        self.random = CpuRandom()
        self._lock = threading.RLock()

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray:
        return np.zeros(shape, dtype)

    def upload(self, host: NDArray, out: NDArray) -> None:
        out[...] = host

    def download(self, array: NDArray, out: NDArray) -> None:
        out[...] = array

    def running(self, guests: bool = False) -> contextlib.AbstractContextManager[None]:
        return self._beside_guests() if guests else _Running(self._lock)

    @contextlib.contextmanager
    def _beside_guests(self) -> Iterator[None]:
        with _Running(self._lock), cpu.single_threaded_blas():
            yield

    def setting(self) -> tuple:
        return thread_count(), fast_paths.left_out()

    @contextlib.contextmanager
    def recorded(self, room: int) -> Iterator[Recording]:
        recording, self.ops = Recording(room), RecordedOps(cpu)
        try:
            with recording.made():
                yield recording
        finally:
            self.ops = cpu

    def check_later(self, flag: Any, error: Callable[[int], Exception]) -> None:
        recording = mine()
        if recording is not None:
            recording.checks.append((flag, error))
        super().check_later(flag, error)

    def synchronize(self) -> None:
        pass
