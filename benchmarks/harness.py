"""Cases and how they are timed: contestants and the floor in turn (A B C A B C ...), medians with their spread."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import Rates
from minicaffe import backend

SECONDS, BYTES = "s", "B"
FLOOR = "floor"
_LOOK = 0.002  # seconds for which nobody must run
MOST_PROBES = 5
"""Samples of a case whose contestants all measure themselves: a fresh process each, and little noise."""


@dataclass(frozen=True)
class Probe:
    """A contestant that measures itself: ``read`` gives one sample (a program that prints its own time, a child's
    memory).
    """

    read: Callable[[], float]


@dataclass
class Work:
    """What a case runs and what no implementation of it can do without.

    ``run`` maps a contestant to a function that does the work once, or to a Probe.  ``flops`` are those of matrix
    products, ``moved`` the bytes that must be read and written.  ``verify`` raises Disagreement if the contestants'
    results differ; it runs before any timing.  ``resources`` are closed after it.
    """

    run: dict[str, Callable[[], Any] | Probe]
    flops: float = 0.0
    moved: float = 0.0
    unit: str = SECONDS
    verify: Callable[[], None] | None = None
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass(frozen=True)
class Case:
    """A named piece of work, built only when its turn comes."""

    family: str
    name: str
    build: Callable[[], Work]

    @property
    def title(self) -> str:
        """``family/name``, what ``--only`` selects by."""
        return f"{self.family}/{self.name}"


@dataclass(frozen=True)
class Spread:
    """Samples in short, in seconds or bytes."""

    least: float
    median: float
    most: float
    count: int

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        return cls(min(samples), statistics.median(samples), max(samples), len(samples))


@dataclass(frozen=True)
class Result:
    """A case's figures; ``floor`` in seconds, the median of its samples, 0 if there is none."""

    family: str
    case: str
    unit: str
    flops: float
    moved: float
    spreads: dict[str, Spread]
    floor: float = 0.0

    @property
    def ratio(self) -> float | None:
        """PyTorch's median over minicaffe's: above 1, minicaffe needs less."""
        if not {"torch", "minicaffe"} <= self.spreads.keys():
            return None
        return self.spreads["torch"].median / self.spreads["minicaffe"].median


class _Timer:
    """Samples a function: the mean time of as many calls as fill ``seconds``."""

    def __init__(self, function: Callable[[], Any], seconds: float, around: Callable[[], Any]) -> None:
        self._function, self._around = function, around
        self._calls = 1
        self.sample()  # compiles, allocates, fills caches
        once = self.sample()
        self._calls = max(1, math.ceil(seconds / max(once, 1e-9)))

    def sample(self) -> float:
        function, calls = self._function, range(self._calls)
        with self._around():
            start = time.perf_counter()
            for _ in calls:
                function()
            return (time.perf_counter() - start) / self._calls


def measure(case: Case, repeat: int, seconds: float, rates: Rates) -> Result:
    """Build, verify and time a case: ``repeat`` rounds of one sample a contestant, each at least ``seconds`` long, and
    of the floor.
    """
    work = case.build()
    if all(isinstance(contestant, Probe) for contestant in work.run.values()):
        repeat = min(repeat, MOST_PROBES)
    with work.resources:
        if work.verify:
            work.verify()
        samplers = {name: _sampler(name, contestant, seconds) for name, contestant in work.run.items()}
        if work.flops or work.moved:
            samplers[FLOOR] = rates.floor(work.flops, work.moved)
        samples: dict[str, list[float]] = {name: [] for name in samplers}
        with _no_collector():
            for _ in range(repeat):
                for name, sample in samplers.items():
                    settle()
                    samples[name].append(sample())
    spreads = {name: Spread.of(values) for name, values in samples.items()}
    floor = spreads.pop(FLOOR).median if FLOOR in spreads else 0.0
    return Result(case.family, case.name, work.unit, work.flops, work.moved, spreads, floor)


def settle(most: float = 0.3) -> None:
    """Wait, ``most`` seconds at most, until no thread of the process runs.

    A library's idle threads look for work for a while before they sleep, OpenBLAS's for some 25 ms: in that time they
    take cores from whoever is measured next.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _LOOK / 4:
            return


def _sampler(name: str, contestant: Callable[[], Any] | Probe, seconds: float) -> Callable[[], float]:
    if isinstance(contestant, Probe):
        return contestant.read
    # a kernel runs as inside a net's pass: BLAS held at one thread, once for many calls
    around = backend.current().running if name == "minicaffe" else contextlib.nullcontext
    return _Timer(contestant, seconds, around).sample


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def select(cases: Iterable[Case], pattern: str | None) -> list[Case]:
    """Cases whose title contains ``pattern``, which may hold ``*`` and ``?``; all without one."""
    return [case for case in cases if pattern is None or fnmatch.fnmatch(case.title, f"*{pattern}*")]
