"""This process's place among those that train one model together, as in pycaffe: ``set_solver_rank``,
``set_solver_count``.
"""

from __future__ import annotations

from minicaffe import arguments
from minicaffe.errors import DeviceError

_rank, _count = 0, 1


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
