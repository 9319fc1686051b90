"""What every backend does whose arrays lie on a device and are reached through a module like CuPy."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe.backend import generation, random
from minicaffe.backend.base import Backend, RandomSource
from minicaffe.backend.contexts import Both, With
from minicaffe.errors import SnapshotError
from minicaffe.kernels.cuda import CudaOps
from minicaffe.kernels.cuda.launch import program


class PhiloxRandom(RandomSource):
    """Counter-based random numbers (Philox4x32-10), made on the device from a seed and a counter that lie there.

    The seed is drawn from the process's stream (``minicaffe.backend.random``) before the first number, and again
    whenever that stream has been restarted by ``random.seed``.
    """

    def __init__(self, backend: DeviceBackend) -> None:
        self._backend = backend
        self._state = backend.zeros((2,), np.uint64)
        self._seeded_from: random.Stream | None = None

    def uniform(self, out: Any) -> None:
        self._draw("uniform", out, 4 if out.dtype == np.float32 else 2)

    def bernoulli(self, out: Any, keep: float) -> None:
        self._draw("bernoulli", out, 4, np.int64(round(keep * 2**32)))

    def get_state(self) -> bytes:
        """Seed and counter, for a snapshot: 16 bytes."""
        self._seed()
        words = np.empty(2, np.uint64)
        self._backend.download(self._state, words)
        return words.astype("<u8").tobytes()

    def set_state(self, state: bytes) -> None:
        """Continue where ``get_state`` was called; raises SnapshotError if ``state`` is not from there."""
        if len(state) != 16:
            raise SnapshotError(
                f"the state of a device's random numbers has 16 bytes, this one {len(state)}; was it saved on a CPU?"
            )
        self._restart(np.frombuffer(state, "<u8").astype(np.uint64))

    def _seed(self) -> None:
        if self._seeded_from is not random.stream():
            self._restart(np.array([random.stream().draw(), 0], np.uint64))

    def _restart(self, words: NDArray[np.uint64]) -> None:
        self._backend.upload(words, self._state)
        self._seeded_from = random.stream()

    def _draw(self, kernel: str, out: Any, words: int, *args: Any) -> None:
        """Fill ``out`` from blocks of four 32-bit words, of which ``words`` make a number each."""
        self._backend.at_replay(self._seed)
        self._seed()
        blocks = -(-out.size // words)
        launch, philox = self._backend.ops.launch, program("random", out.dtype)
        launch.flat(philox, kernel, blocks, self._state, out, np.int64(out.size), *args)
        launch.flat(philox, "advance", blocks, self._state)


class _Numbers(NamedTuple):
    """Numbers on a device: their memory, and what they are."""

    memory: Any
    values: list[float]


class DeviceBackend(Backend):
    """Layers run on the arrays of ``xp``, in the order in which they are issued; ``gemm`` multiplies matrices there.

    ``tensor_cores(dtype)`` says whether other kernels may use them for factors of a dtype.
    """

    is_host = False

    def __init__(
        self, xp: Any, gemm: Callable[..., None], tensor_cores: Callable[[Any], bool] = lambda dtype: False
    ) -> None:
        super().__init__()
        self.xp = xp
        self._numbers: weakref.WeakKeyDictionary[object, _Numbers] = weakref.WeakKeyDictionary()
        with self.running():
            self.ops = CudaOps(xp, gemm, tensor_cores, self.zeros)
            self.random = PhiloxRandom(self)

    def running(self, user_layers: bool = False) -> contextlib.AbstractContextManager[None]:
        return Both(self._lock, self._current())

    def rounding(self, precision: str) -> contextlib.AbstractContextManager[None]:
        return With(self.ops, "factors", precision)

    def _current(self) -> contextlib.AbstractContextManager[Any]:
        """Makes the device and its stream those that ``xp`` uses."""
        return contextlib.nullcontext()

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        with self._current():
            return self.xp.zeros(tuple(shape), dtype)

    def upload(self, host: NDArray, out: Any, again: bool = False) -> None:
        with self._current():
            out.set(host)

    def download(self, array: Any, out: NDArray) -> None:
        with self._current():
            if out.flags.c_contiguous:
                array.get(out=out)
            else:
                out[...] = array.get()

    def numbers(self, owner: object, values: Sequence[float]) -> Any:
        kept = self._numbers.get(owner)
        if kept is None or kept.memory.size != len(values):
            kept = _Numbers(self.zeros((len(values),), np.float64), [])
            generation.advance()
        if kept.values != values:
            self.upload(np.array(values, np.float64), kept.memory)
            self._numbers[owner] = kept._replace(values=list(values))
        return kept.memory

    def run_checks(self) -> None:
        with self._current():
            super().run_checks()

    def synchronize(self) -> None:
        """Every operation is done when it returns, unless a subclass issues it to a stream."""
