"""This process's place among those that train one model together, as in pycaffe: ``set_solver_rank``,
``set_solver_count``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from minicaffe import arguments
from minicaffe.errors import DeviceError

_rank, _count = 0, 1
_of_first: Callable[[Any], Any] | None = None
"""Gives every process what rank 0 passes, where they are connected (``minicaffe.parallel``)."""
_tests_are_split = False


def solver_rank() -> int:
    """This process's number: from 0, whose solver tests and writes snapshots, to ``solver_count() - 1``."""
    return _rank


def solver_count() -> int:
    """How many processes train together; 1 unless ``set_solver_count`` was called."""
    return _count


def set_solver_rank(rank: int) -> None:
    """Say which process this is, before nets and solvers are made; DeviceError unless ``rank`` is 0 or more.

    A Data layer of the TRAIN phase then reads its own share of the records, and a solver seeds with ``random_seed +
    rank``.
    """
    global _rank
    rank = arguments.whole(rank, "a solver's rank", DeviceError)
    if rank < 0:
        raise DeviceError(f"set_solver_rank: expected 0 or more; found {rank}")
    _rank = rank


def set_solver_count(count: int) -> None:
    """Say how many processes train together, before nets and solvers are made; DeviceError unless it is at least 1."""
    global _count
    count = arguments.whole(count, "the number of solvers", DeviceError)
    if count < 1:
        raise DeviceError(f"set_solver_count: expected at least 1; found {count}")
    _count = count


def set_multiprocess(multiprocess: bool) -> None:
    """Pycaffe's way to say that each GPU has a process of its own: always so here, nothing changes."""


def join(rank: int, count: int, of_first: Callable[[Any], Any]) -> None:
    """Become one of ``count`` connected processes; ``of_first`` gives all what that of rank 0 passes."""
    global _rank, _count, _of_first
    _rank, _count, _of_first = rank, count, of_first


def leave() -> None:
    """Be alone again."""
    global _rank, _count, _of_first
    _rank, _count, _of_first = 0, 1, None


def agreed(value: Any, shares: int) -> Any:
    """What rank 0 passes, where connected processes read ``shares`` of the same records, else ``value``: for what all
    must draw alike.

    All processes call it, in the same order; with one share each may do so alone.
    """
    return value if _of_first is None or shares == 1 else _of_first(value)


def share(training: bool) -> tuple[int, int]:
    """Which records a data layer reads: the first of the two modulo the second.

    All records, (0, 1), unless it trains, or belongs to a test that processes share (``tests_split``).
    """
    return (_rank, _count) if training or _tests_are_split else (0, 1)


@contextlib.contextmanager
def tests_split(split: bool) -> Iterator[None]:
    """Whether data layers that are made inside, of a test net, read a share each."""
    global _tests_are_split
    before, _tests_are_split = _tests_are_split, split
    try:
        yield
    finally:
        _tests_are_split = before
