"""Compiles kernels on all cores before they are called, in processes that write to the disk cache.

Which kernels some work calls, and with which types, is found by a rehearsal: the work is done in a forked process, in
which kernels are noted instead of run.  So it leaves no trace, and whatever made the arguments has run as it will.  The
kernels are compiled in further forks of that process: it has all that they need in memory, where a new interpreter
would take a second to import it.

Nothing depends on it: what a rehearsal does not meet, or a process that fails does not compile, is compiled when it is
called.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from numba import types

from minicaffe.kernels.cpu.runtime import cache, launch, threads
from minicaffe.kernels.cpu.runtime.compile import Callback, Kernel, announce, capturing

_log = logging.getLogger("minicaffe")
_PROGRESS = 2.0  # seconds between two lines
_WORTH_TELLING = 1.0  # seconds that compiling took
_LONG = 30  # seconds for what is to be compiled within one
_PATIENCE_WITH_REHEARSAL, _PATIENCE = 30.0, 300.0  # seconds without a word, after which the processes are ended
_MOST_PROCESSES = 16  # each takes some 100 MB
_WORD = 4  # bytes of a job's number

Job = tuple[Kernel | Callback, Any]
"""A kernel and the types of its arguments, or a callback and its signature."""


_LAUNCHING: list[Job] = [(launch.run_launches, (types.intp,) * 3), (launch.run_launches_alone, (types.intp,) * 2)]
"""What launches kernels, one way or the other."""


class Compiled(NamedTuple):
    """A kernel that was compiled for some types, and how long that took, with the kernels that it calls."""

    kernel: str
    seconds: float


class _Notes:
    """Notes which kernels are called, each once for the same types, in order; none runs."""

    def __init__(self) -> None:
        self.jobs: dict[Job, None] = {}

    def passes(self, kernel: Kernel, arguments: tuple) -> bool:
        self.jobs[kernel, kernel.types_of(arguments)] = None
        return False

    def lacks_something(self) -> None:
        """Nothing to be noted."""


def rehearse(work: Callable[[], None]) -> list[Job]:
    """The kernels that ``work`` calls on this thread and the disk cache does not hold.

    It computes nothing, but all that it does outside kernels is done: where that matters, in a forked process.
    """
    notes = _Notes()
    with threads.pretending():
        capturing.launches = notes
        capturing.callbacks = notes.jobs if _forked else None  # another process would keep the addresses
        try:
            work()
        finally:
            capturing.launches = capturing.callbacks = None
    return missing(notes.jobs)


def needed_by(work: Callable[[], None]) -> list[Job]:
    """What ``rehearse`` finds, and what replays of the work may come to call."""
    return rehearse(work) + missing(_LAUNCHING[1:])


_forked = False  # to compile, and nothing else


class _Expected(threading.local):
    work: Callable[[], None] | None = None


_expected = _Expected()


class expecting(AbstractContextManager):
    """Around work on this thread: if a kernel is missing, ``rehearsal`` shows which others will be.

    The outermost block counts.
    """

    def __init__(self, rehearsal: Callable[[], None]) -> None:
        self._rehearsal = rehearsal
        self._outermost = False

    def __enter__(self) -> None:
        self._outermost = _expected.work is None and capturing.launches is None
        if self._outermost:
            _expected.work = self._rehearsal
            _look_first()

    def __exit__(self, *_: object) -> None:
        if self._outermost:
            _expected.work = None


@functools.cache
def _any_kept() -> bool:
    """Whether the cache was one for this machine and these sources: it then held what all kernels call."""
    return not missing(_LAUNCHING[:1])


@functools.cache
def _look_first() -> None:
    """With the first work that is expected, do not wait for a kernel to be missing where none is kept."""
    if not _any_kept():
        _compile_expected()


@functools.cache
def begin() -> None:
    """Once it is known that there will be work, and not yet which: compile what launches all kernels, if none is kept.

    That is done on another core by a process that nobody waits for, and which ends by itself.
    """
    if _any_kept() or cores() < 2:
        return
    with contextlib.suppress(OSError), threads.pretending():
        if (pid := _fork()) == 0:
            _leave(_detach)
        os.waitpid(pid, 0)


def _detach() -> None:
    """In a forked process: leave the work to another, which is nobody's child and holds no output open."""
    if _fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for file in range(3):
            os.dup2(nothing, file)
        _only_compile()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LONG)  # a fork may find a lock of another thread locked
        for kernel, arguments in (*_LAUNCHING, (launch._launch, (types.intp,) * 6)):
            kernel.compile(arguments)


def missing(jobs: Iterable[Job]) -> list[Job]:
    """Those that the disk cache does not hold, but could."""
    return [
        (kernel, arguments)
        for kernel, arguments in jobs
        if keeps() and not kernel._cache.holds(arguments, kernel.targetctx.codegen())
    ]


def keeps() -> bool:
    """Whether there is a folder to keep kernels in."""
    return getattr(launch.run_launches._cache, "keeps", False)


def _compile_expected() -> bool:
    """Compile what the expected work will call; whether anything was."""
    work = _expected.work
    if work is None or work is _done:
        return False
    _expected.work = _done
    return cores() > 1 and bool(compile_ahead(partial(needed_by, work)))


def _done() -> None:
    """Stands for work that has been looked at."""


cache.miss = _compile_expected


def cores() -> int:
    """How many processes to compile in: one for each thread that kernels have, if there are as many cores."""
    if sys.platform != "linux":
        return 1
    return min(len(os.sched_getaffinity(0)), threads.get_num_threads(), _MOST_PROCESSES)


def compile_ahead(find: Callable[[], list[Job]]) -> list[Compiled]:
    """Compile what ``find`` finds, by a rehearsal in a forked process, in as many processes as there are ``cores``.

    Returns what was compiled: nothing where no process can be started.
    """
    if sys.platform != "linux":
        return []
    read, write = os.pipe()
    try:
        with threads.pretending():
            pid = _fork()
    except OSError:
        os.close(read)
        os.close(write)
        return []
    if pid == 0:
        os.close(read)
        _leave(lambda: _compile_all(find, write))
    os.close(write)
    try:
        return list(_followed(read))
    finally:
        os.close(read)
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(pid, 0)


def _fork() -> int:
    with warnings.catch_warnings():
        # of a process with several threads, whose locks the fork might find locked: those that it needs, it has itself
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _leave(work: Callable[[], None]) -> None:
    """In a forked process: do this and end, without whatever the process would do at its end."""
    with contextlib.suppress(BaseException):  # what fails here fails again where it is called, and is told there
        work()
    os._exit(0)


def _compile_all(find: Callable[[], list[Job]], told: int) -> None:
    """In a forked process: find out what to compile, and do it in several."""
    _only_compile()
    jobs = _in_order(find())
    os.write(told, f"{len(jobs)}\n".encode())
    read, write = os.pipe()
    os.write(write, b"".join(number.to_bytes(_WORD, "little") for number in range(len(jobs))))
    os.close(write)
    with contextlib.suppress(OSError):  # no more processes may be started: those that there are do all
        for _ in range(min(cores(), len(jobs)) - 1):
            if _fork() == 0:
                _leave(lambda: _compile_some(jobs, read, told))
    _compile_some(jobs, read, told)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _only_compile() -> None:
    """In a forked process: it does nothing else."""
    global _forked
    _forked = True
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.disable()
    gc.disable()
    # what Numba imports with its first kernel, or to compile at all, is there in all further forks then
    from minicaffe.kernels.cpu.runtime import front_end

    front_end.hasten(launch.run_launches.typingctx, launch.run_launches.targetctx)


def _in_order(jobs: list[Job]) -> list[Job]:
    """Those of convolution take longest and come first, so that processes end together.

    Of these one of each module comes before all others, which call much of what it does: processes that compile two at
    once wait for one another.
    """
    modules: set[str] = set()

    def turn(job: Job) -> int:
        module = job[0].name.rpartition(".")[0]
        if not module.startswith("conv."):
            return 2
        first = module not in modules
        modules.add(module)
        return 0 if first else 1

    return sorted(jobs, key=turn)


def _compile_some(jobs: list[Job], numbers: int, told: int) -> None:
    """Compile those whose numbers can be had from a pipe, from which others take some, too.

    BrokenPipeError ends it when nobody listens any more, as after the process that wanted them was killed.
    """
    while number := os.read(numbers, _WORD):
        kernel, arguments = jobs[int.from_bytes(number, "little")]
        start = time.perf_counter()
        line = "\n"
        with contextlib.suppress(Exception):
            kernel.compile(arguments)
            line = json.dumps(Compiled(kernel.name, time.perf_counter() - start)) + "\n"
        os.write(told, line.encode())


def _followed(told: int) -> Iterator[Compiled]:
    """What the processes tell, with a line of progress now and then."""
    lines = _lines(told)
    total, done = int(next(lines, "0")), 0
    if total:
        announce()
    begun = line_at = time.monotonic()
    for line in filter(None, lines):  # of one that failed nothing is told
        done += 1
        yield Compiled(*json.loads(line))
        if time.monotonic() - line_at > _PROGRESS:
            line_at = time.monotonic()
            _log.info("compiling kernels: %d of %d", done, total)
    if (seconds := time.monotonic() - begun) > _WORTH_TELLING:
        _log.info("compiling kernels: %d in %.1f s", done, seconds)


def _lines(told: int) -> Iterator[str]:
    """Lines from a pipe until its end, or until long nothing comes: a fork may find a lock of another thread locked."""
    rest, patience = b"", _PATIENCE_WITH_REHEARSAL
    ready = select.poll()  # select takes no number of a file above 1023
    ready.register(told, select.POLLIN)
    while ready.poll(1000 * patience) and (more := os.read(told, 1 << 16)):
        patience = _PATIENCE
        *whole, rest = (rest + more).split(b"\n")
        yield from (line.decode() for line in whole)
