"""The group this process belongs to, from its start to its end."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from minicaffe.backend import ranks, threads
from minicaffe.parallel.communicator import Alone, Communicator
from minicaffe.parallel.mpi import Mpi

_log = logging.getLogger("minicaffe")

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""What launchers of MPI put into the environment: Open MPI's, MPICH's and those derived from it, Intel's."""

_group: Communicator = Alone()


def is_launched() -> bool:
    """Whether a launcher of MPI started this process, alone or with others."""
    return any(name in os.environ for name in _SIZES)


def group() -> Communicator:
    """The processes that this one trains with: itself alone, unless ``start`` was called."""
    return _group


def start() -> Communicator:
    """Join the processes that ``mpirun`` started with this one; before nets and solvers are made.

    Nets and solvers made from then on train together: each data layer reads its own share, gradients are averaged, and
    rank 0 alone writes.  Each process computes on its share of its machine's cores, unless ``set_num_threads`` was
    called or the environment says how many (OMP_NUM_THREADS, NUMBA_NUM_THREADS).  A process started without ``mpirun``
    stays alone.  MissingExtraError if mpi4py is not there.
    """
    global _group
    if _group.size > 1 or not is_launched():
        return _group
    world = Mpi()
    if world.size == 1:
        world.finish()
    else:
        _group = world
        ranks.join(world.rank, world.size, world.of_first)
        _share_cores(world)
    return _group


def finish() -> None:
    """Leave the group, at the end of all work; every process of the group does."""
    global _group
    if isinstance(_group, Mpi):
        _group.finish()
        _group = Alone()
        ranks.leave()


@contextlib.contextmanager
def session() -> Iterator[Communicator]:
    """A group that ends with the block; its ranks but 0 log errors only.

    A process that leaves the block by an exception does not wait for the others; when it ends, with another status than
    0, the launcher ends them.
    """
    found = start()
    if found.rank:
        logging.disable(logging.WARNING)
    yield found
    finish()


def _share_cores(world: Mpi) -> None:
    """Give each process of a machine its own cores, if none was given any by the launcher, and threads for these."""
    number, beside = world.beside()
    allowed = sorted(os.sched_getaffinity(0))
    machines = world.gather((os.uname().nodename, allowed))
    mine = [cores for machine, cores in machines if machine == os.uname().nodename]
    if all(cores == allowed for cores in mine) and beside > 1:
        each = len(allowed) // beside
        own = allowed[number * each : (number + 1) * each] if each else allowed
        if each:
            os.sched_setaffinity(0, own)
        allowed = own if each else allowed[:1]
    if not threads.is_chosen():
        threads.set_num_threads(min(len(allowed), threads.most()))
    place = f"{threads.get_num_threads()} thread(s) on {os.uname().nodename}, cores {sorted(os.sched_getaffinity(0))}"
    for rank, what in enumerate(world.gather(place)):
        _log.info("Rank %d of %d: %s", rank, world.size, what)
