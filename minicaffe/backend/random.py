"""Caffe's random numbers, bit for bit: one Mersenne twister and the distributions Boost 1.56 and later draws from it.

Weights, dropout masks, crops and shuffles drawn after ``seed(s)`` are those of Caffe (CPU) after
``set_random_seed(s)``.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, MutableSequence
from typing import Any, SupportsFloat

import numpy as np

from minicaffe import arguments
from minicaffe.errors import SnapshotError

_RANGE = 2**32  # the engine's draws are uniform on [0, 2**32)
_BLOCK = 1 << 20  # draws turned into samples at a time, to bound the memory a large blob takes
_STATE_WORDS = 624 + 1  # the twister's words and the position of the next one


class Stream:
    """A 32-bit Mersenne twister (mt19937, Matsumoto & Nishimura 1998) and Caffe's distributions on it.

    ``seed`` is reduced modulo 2**32, as Caffe does with its 64-bit ``random_seed``.
    """

    def __init__(self, seed: int) -> None:
        self._engine = np.random.RandomState(seed % _RANGE)

    def draws(self, n: int) -> np.ndarray:
        """The next ``n`` outputs of the engine, uint32 (n,)."""
        return self._engine.randint(0, _RANGE, n, dtype=np.uint32)

    def draw(self) -> int:
        """The next output of the engine: what Caffe takes to seed a worker thread's own stream."""
        return int(self.draws(1)[0])

    def uniform(self, low: SupportsFloat, high: SupportsFloat, n: int) -> np.ndarray:
        """Samples of U[low, high] (closed at ``high``), float32 (n,).

        Raises ValueError if ``low > high`` or ``high - low`` overflows float32.
        """
        first, last = np.float32(low), np.float32(high)
        limit = np.nextafter(last, np.float32(np.inf))
        with np.errstate(over="ignore", invalid="ignore"):
            span = limit - first
        if not (first <= last and np.isfinite(span)):
            raise ValueError(f"uniform needs low <= high and a finite float32 range, not [{low}, {high}]")

        def scaled(draws: np.ndarray) -> np.ndarray:
            values = _unit(draws)
            values *= span
            values += first
            return values[values < limit]  # rounding can reach the open end: Boost draws again

        return self._collect(n, scaled)

    def bernoulli(self, probability: SupportsFloat, n: int) -> np.ndarray:
        """``n`` booleans, each true with ``probability``; a probability of 0 takes no draw."""
        p = np.float32(probability)
        if not 0 <= p <= 1:
            raise ValueError(f"a probability lies in [0, 1], not {probability}")
        if p == 0:
            return np.zeros(n, bool)
        return self.draws(n).astype(np.float32) <= p * np.float32(_RANGE - 1)

    def gaussian(self, mean: SupportsFloat, std: SupportsFloat, n: int) -> np.ndarray:
        """Samples of N(mean, std^2), float32 (n,), by the ziggurat method (Marsaglia & Tsang 2000) as Boost does it.

        Of a draw's 32 bits the lowest is the sign, the next 7 choose one of 128 layers, the upper 24 place ``x`` in it.
        In 98.8% of the draws ``x`` lies inside the layer's rectangle and is the sample; the others look at further
        draws.
        """
        ziggurat = _normal_ziggurat()

        def normal(draws: np.ndarray) -> np.ndarray:
            layers = (draws & 255) >> 1
            x = ziggurat.place(draws, layers)
            is_sample = x < ziggurat.inner[layers]
            outside = np.flatnonzero(~is_sample)
            heights = _unit(np.append(draws[1:], np.uint32(_RANGE - 1))[outside])  # 1 stands for: not in this block
            accepted = ziggurat.under_curve(x[outside], layers[outside], heights)
            tape = _Tape(draws, self)
            for start, height, accept in zip(outside.tolist(), heights.tolist(), accepted.tolist()):
                if start < tape.position:
                    continue  # an earlier sample has used this draw
                tape.position = start + 1
                if layers[start] == 0:
                    x[start], accept = _normal_tail(tape), True
                elif height < 1:
                    tape.position += 1
                else:
                    accept = ziggurat.under_curve(x[start], layers[start], tape.unit_uniform())
                is_sample[start] = accept
                is_sample[start + 1 : tape.position] = False
            x *= (draws & 1).astype(np.float32) * 2 - 1
            return x[is_sample]

        values = self._collect(n, normal)
        values *= np.float32(std)
        values += np.float32(mean)
        return values

    def shuffle(self, items: MutableSequence[Any] | np.ndarray) -> None:
        """Shuffle a list or a 1-d array in place: Fisher-Yates from the last index down."""
        last = len(items) - 1
        while last > 0:
            # every remaining swap takes at least one draw, so none of these is wasted
            for draw in self.draws(last).tolist():
                other = draw // (_RANGE // (last + 1))
                if other <= last:
                    items[last], items[other] = items[other], items[last]
                    last -= 1

    def get_state(self) -> bytes:
        """Where the stream stands, for a snapshot: 2500 bytes."""
        _, words, position, *_ = self._engine.get_state()
        return np.append(words, position).astype("<u4").tobytes()

    def set_state(self, state: bytes) -> None:
        """Continue where ``get_state`` was called; raises SnapshotError if ``state`` is not from there."""
        if len(state) != 4 * _STATE_WORDS:
            raise SnapshotError(f"a random stream's state has {4 * _STATE_WORDS} bytes, this one {len(state)}")
        *words, position = np.frombuffer(state, "<u4")
        if position > len(words):
            raise SnapshotError(f"a random stream's position lies in [0, {len(words)}], this one is {position}")
        self._engine.set_state(("MT19937", np.array(words, np.uint32), int(position), 0, 0.0))

    def _collect(self, n: int, samples: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """``n`` float32 values from ``samples(draws)``, which gives at most one sample a draw.

        Each round asks for no more draws than samples are missing: it never takes a draw that Caffe would leave.
        """
        values, filled = np.empty(n, np.float32), 0
        while filled < n:
            accepted = samples(self.draws(min(n - filled, _BLOCK)))
            values[filled : filled + len(accepted)] = accepted
            filled += len(accepted)
        return values


class _Tape:
    """The draws after ``position`` in a block, and beyond its end those of the stream."""

    def __init__(self, draws: np.ndarray, stream: Stream) -> None:
        self.draws, self.stream, self.position = draws, stream, 0

    def draw(self) -> int:
        position, self.position = self.position, self.position + 1
        return int(self.draws[position]) if position < len(self.draws) else self.stream.draw()

    def unit_uniform(self) -> np.float32:
        """A sample of U[0, 1)."""
        while (value := _unit(np.uint32(self.draw()))) >= 1:
            pass
        return value


def _unit(draws: Any) -> Any:
    """Draws scaled to [0, 1]: in float32 the largest 128 of them round up to 1."""
    return draws.astype(np.float32) * np.float32(1 / _RANGE)


class _Ziggurat:
    """Layers of equal area stacked under the curve ``exp(exponent(x))``, which falls from 1 at ``x = 0``.

    Layer ``i`` reaches from 0 to ``outer[i]``; left of ``inner[i]`` all of it lies under the curve. Layer 0 includes
    the tail beyond ``tail``, whose own area is ``tail_area``; ``inverse`` gives the curve's ``x`` at a height.
    """

    def __init__(
        self,
        count: int,
        tail: float,
        tail_area: float,
        exponent: Callable[[Any], Any],
        inverse: Callable[[float], float],
    ) -> None:
        foot = math.exp(exponent(tail))
        area = tail * foot + tail_area
        edges = [area / foot, tail]
        while len(edges) < count:
            edges.append(inverse(math.exp(exponent(edges[-1])) + area / edges[-1]))
        x = np.array([*edges, 0])
        y = np.exp(exponent(x))
        self.exponent = exponent
        self.tail = np.float32(tail)
        self.outer = x[:-1].astype(np.float32)
        inner = x[1:].astype(np.float32)
        # rounded up: a float32 is below it where it is below the float64 that Boost compares it with
        self.inner = np.where(inner < x[1:], np.nextafter(inner, np.float32(np.inf)), inner)
        self.bottom = y[:-1].astype(np.float32)
        self.height = np.diff(y).astype(np.float32)

    def place(self, draws: Any, layers: Any) -> Any:
        """The ``x`` that the upper 24 bits of each draw choose between 0 and its layer's ``outer``."""
        return (draws >> 8).astype(np.float32) * np.float32(2**-24) * self.outer[layers]

    def under_curve(self, x: Any, layers: Any, heights: Any) -> Any:
        """Whether points lie under the curve, given at ``x`` and at ``heights``, fractions of their layers.

        (Boost asks a chord and a tangent before the curve; their rounding decides otherwise once in 3e9 samples.)
        """
        # float32 rounded from float64, as C's expf is: NumPy's own float32 exp is coarser
        curve = np.exp(self.exponent(x), dtype=np.float64).astype(np.float32)
        return self.bottom[layers] + heights * self.height[layers] < curve


@functools.cache
def _normal_ziggurat() -> _Ziggurat:
    """Half a normal distribution; with this tail the top of layer 127 is the top of the curve."""
    tail = 3.4426198558966521
    tail_area = math.sqrt(math.pi / 2) * math.erfc(tail / math.sqrt(2))
    return _Ziggurat(128, tail, tail_area, lambda x: -(x * x / 2), lambda y: math.sqrt(-2 * math.log(y)))


@functools.cache
def _exponential_ziggurat() -> _Ziggurat:
    """The exponential distribution of rate 1; with this tail the top of layer 255 is the top of the curve."""
    tail = 7.6971174701310497
    return _Ziggurat(256, tail, math.exp(-tail), lambda x: -x, lambda y: -math.log(y))


def _normal_tail(tape: _Tape) -> np.float32:
    """A normal sample beyond its ziggurat's tail, by rejection from an exponential one."""
    tail = _normal_ziggurat().tail
    while True:
        x, y = _exponential(tape) / tail, _exponential(tape)
        if 2 * y > x * x:
            return x + tail


def _exponential(tape: _Tape) -> np.float32:
    """A sample of the exponential distribution of rate 1: the lower 8 bits of a draw choose the layer."""
    ziggurat = _exponential_ziggurat()
    shift = np.float32(0)
    while True:
        draw = np.uint32(tape.draw())
        layer = draw & 255
        x = ziggurat.place(draw, layer)
        if x < ziggurat.inner[layer]:
            return shift + x
        if layer == 0:
            shift += ziggurat.tail  # beyond its tail the distribution is the same again
        elif ziggurat.under_curve(x, layer, tape.unit_uniform()):
            return shift + x


_stream: Stream | None = None


def seed(value: int) -> None:
    """Restart the process-wide stream (Caffe's ``set_random_seed``); MinicaffeError for what is no integer."""
    global _stream
    _stream = Stream(arguments.whole(value, "a random seed"))


def stream() -> Stream:
    """The process-wide stream; seeded from the system's entropy if ``seed`` was never called.

    It belongs to the main thread: a worker thread is given ``Stream(stream().draw())`` of its own.
    """
    global _stream
    if _stream is None:
        _stream = Stream(int.from_bytes(os.urandom(4), "little"))
    return _stream
