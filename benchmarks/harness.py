"""Cases and how they are timed: contestants and the floor in turn (A B C A B C ...), medians with their spread.

Single calls are timed after a warm-up, the same for all contestants: one turn that does not count, as long as the
others and of at least ``WARM_UP`` calls.  In the first calls engines set up what they did not at loading, or, as
minicaffe does, try whether more threads help.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from benchmarks.machine import Rates
from benchmarks.settling import settle
from minicaffe import backend

SECONDS, BYTES = "s", "B"
FLOOR = "floor"
WARM_UP = 10
"""Calls before single calls are timed, at least."""
MOST_PROBES = 5
"""Samples of a case whose contestants all measure themselves: a fresh process each, and little noise."""


@dataclass(frozen=True)
class Probe:
    """A contestant that measures itself: ``read`` gives one sample (a program that prints its own time, a child's
    memory).
    """

    read: Callable[[], float]


@dataclass(frozen=True)
class Calls:
    """A contestant that times its own calls, in a process of its own: ``read(seconds, least)`` gives the latencies of
    as many as fill the seconds, and of no fewer than ``least``, ``peak_memory`` the most bytes that were resident.
    """

    read: Callable[[float, int], list[float]]
    peak_memory: Callable[[], float]


Contestant: TypeAlias = "Callable[[], Any] | Probe | Calls"


@dataclass
class Work:
    """What a case runs and what no implementation of it can do without.

    ``run`` maps a contestant to a function that does the work once, to a Probe or to Calls; where it is empty, there
    turned out to be nothing to measure.  ``flops`` are those of
    matrix products, ``moved`` the bytes that must be read and written, ``images`` how many are taken at once.
    ``verify`` raises Disagreement if the contestants' results differ; it runs before any timing.  ``resources`` are
    closed after it.
    """

    run: dict[str, Contestant]
    flops: float = 0.0
    moved: float = 0.0
    unit: str = SECONDS
    images: int = 0
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
    """Samples in short, in seconds or bytes.  ``p99`` is what 99 in 100 of single calls stay within; 0 where samples
    are means of several.
    """

    least: float
    median: float
    most: float
    count: int
    p99: float = 0.0

    @classmethod
    def of(cls, samples: list[float], single: bool = False) -> Spread:
        p99 = sorted(samples)[math.ceil(0.99 * len(samples)) - 1] if single else 0.0
        return cls(min(samples), statistics.median(samples), max(samples), len(samples), p99)


@dataclass(frozen=True)
class Result:
    """A case's figures; ``floor`` in seconds, the median of its samples, 0 if there is none.  ``memory`` is the peak of
    contestants with a process of their own, in bytes.
    """

    family: str
    case: str
    unit: str
    flops: float
    moved: float
    spreads: dict[str, Spread]
    floor: float = 0.0
    images: int = 0
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """PyTorch's median over minicaffe's: above 1, minicaffe needs less."""
        return self.ratio_to("torch")

    def ratio_to(self, peer: str) -> float | None:
        """A peer's median over minicaffe's; None if one of them was not measured."""
        if not {peer, "minicaffe"} <= self.spreads.keys():
            return None
        return self.spreads[peer].median / self.spreads["minicaffe"].median


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
            samplers[FLOOR] = _one(rates.floor(work.flops, work.moved))
        processes = {name: it for name, it in work.run.items() if isinstance(it, Calls)}
        samples: dict[str, list[float]] = {name: [] for name in samplers}
        with _no_collector():
            for contestant in processes.values():
                settle()
                contestant.read(seconds, WARM_UP)
            for _ in range(repeat):
                for name, sample in samplers.items():
                    settle()
                    samples[name].extend(sample())
        memory = {name: float(it.peak_memory()) for name, it in processes.items()}
    spreads = {name: Spread.of(values, single=name in processes) for name, values in samples.items()}
    floor = spreads.pop(FLOOR).median if FLOOR in spreads else 0.0
    return Result(case.family, case.name, work.unit, work.flops, work.moved, spreads, floor, work.images, memory)


def _sampler(name: str, contestant: Contestant, seconds: float) -> Callable[[], list[float]]:
    """What gives a contestant's samples of one turn."""
    if isinstance(contestant, Calls):
        return partial(contestant.read, seconds, 1)
    if isinstance(contestant, Probe):
        return _one(contestant.read)
    # a kernel runs as inside a net's pass: BLAS held at one thread, once for many calls
    around = backend.current().running if name == "minicaffe" else contextlib.nullcontext
    return _one(_Timer(contestant, seconds, around).sample)


def _one(read: Callable[[], float]) -> Callable[[], list[float]]:
    return lambda: [read()]


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
