"""The CPU backend: NumPy arrays, Numba kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import limits
from minicaffe.backend import random, threads
from minicaffe.backend.base import Backend, Capture, RandomSource
from minicaffe.kernels import cpu, fast_paths
from minicaffe.kernels.cpu.runtime import ahead
from minicaffe.kernels.cpu.runtime.capture import (
    CapturedOps,
    LaunchList,
    abandon_capture,
    in_progress,
    not_capturable,
)
from minicaffe.kernels.cpu.runtime.threads import hold, thread_count


class CpuRandom(RandomSource):
    """Draws from Caffe's own process-wide stream, so that one seed gives Caffe's masks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def uniform(self, out: NDArray) -> None:
        self._do(lambda: random.stream().uniform(np.finfo(np.float32).tiny, 1.0, out.size), out)

    def bernoulli(self, out: NDArray, keep: float) -> None:
        self._do(lambda: random.stream().bernoulli(keep, out.size), out)

    def _do(self, draw: Callable[[], NDArray], out: NDArray) -> None:
        def fill() -> None:
            out.reshape(-1)[...] = draw()

        self._backend.at_replay(fill)
        fill()

    def get_state(self) -> bytes:
        return random.stream().get_state()

    def set_state(self, state: bytes) -> None:
        random.stream().set_state(state)


class _Running(contextlib.AbstractContextManager):
    """One pass at a time: Numba's work-queue threading layer aborts the process when two threads enter parallel kernels
    at once, and the layers of all nets share one workspace."""

    __slots__ = ("_lock", "_earlier")

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        count = threads.apply()
        self._lock.acquire()
        self._earlier = hold(count)

    def __exit__(self, *_: object) -> None:
        hold(self._earlier)
        self._lock.release()


class CpuCapture(Capture):
    """A list of kernel launches."""

    ran = True

    def __init__(self) -> None:
        self.launches = LaunchList()

    @property
    def complete(self) -> bool:
        return self.launches.complete

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.launches.empty

    def replay(self) -> None:
        self.launches.replay()


class CpuBackend(Backend):
    """Layers run on NumPy arrays in host memory."""

    name = "cpu"
    xp = np
    ops: Any = cpu
    is_host = True

    def __init__(self) -> None:
        super().__init__()
        self.random = CpuRandom(self)
        self._capture: CpuCapture | None = None

    def begin(self) -> None:
        ahead.begin()

    def expecting(self, rehearsal: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        return ahead.expecting(rehearsal)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray:
        return limits.zeros(shape, dtype, "scratch memory")

    def upload(self, host: NDArray, out: NDArray, again: bool = False) -> None:
        out[...] = host

    def download(self, array: NDArray, out: NDArray) -> None:
        out[...] = array

    def running(self, user_layers: bool = False) -> contextlib.AbstractContextManager[None]:
        return self._beside_user_layers() if user_layers else _Running(self._lock)

    @contextlib.contextmanager
    def _beside_user_layers(self) -> Iterator[None]:
        with _Running(self._lock), cpu.single_threaded_blas():
            yield

    def settings(self) -> tuple:
        return thread_count(), fast_paths.left_out()

    @contextlib.contextmanager
    def capture(self) -> Iterator[Capture]:
        made = CpuCapture()
        self._capture, self.ops = made, CapturedOps(cpu)
        try:
            with made.launches.capturing():
                yield made
        finally:
            self._capture, self.ops = None, cpu

    def _after_fork(self) -> None:
        super()._after_fork()
        self._capture, self.ops = None, cpu
        abandon_capture()

    def not_capturable(self) -> None:
        not_capturable()

    def at_replay(self, call: Callable[[], None]) -> None:
        if self._capture is not None and in_progress():
            self._capture.launches.call(call)

    def synchronize(self) -> None:
        pass
