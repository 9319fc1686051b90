"""pycaffe's NCCL, over the group that a solver trains in."""

from __future__ import annotations

import os

from minicaffe import compat, parallel
from minicaffe.backend import ranks
from minicaffe.errors import DeviceError
from minicaffe.solvers.base import Solver


def has_nccl() -> bool:
    """Whether processes can train one model together: with mpi4py, on GPUs and without."""
    return compat.have("mpi4py")


class NCCL:
    """Keeps the weights and gradients of solvers that train together equal.

    Solvers of a group (``minicaffe.parallel``) do so by themselves, so that nothing is left to do for what scripts
    make, and hand to ``add_callback`` and ``after_backward``.  DeviceError if ``solver_count()`` is more than 1 though
    the processes are not connected: there are as many as ``mpirun`` starts, and each calls ``parallel.start()`` first.
    """

    def __init__(self, solver: Solver, uid: bytes | str) -> None:
        if ranks.solver_count() != parallel.group().size:
            raise DeviceError(
                f"NCCL: {ranks.solver_count()} solvers cannot exchange gradients, for nothing connects their "
                "processes; start them with 'mpirun -n N' and call minicaffe.parallel.start() before nets are made, or "
                "run 'minicaffe train --ranks N'"
            )

    @staticmethod
    def new_uid() -> bytes:
        """A name for a group of processes."""
        return os.urandom(16)

    def bcast(self) -> None:
        """Give the others the weights of the first, which they have from the beginning."""

    def on_start(self) -> None:
        """Before an iteration."""

    def on_gradients_ready(self) -> None:
        """Add up the gradients of all: done."""

    def __call__(self, layer: int) -> None:
        """After a layer's backward."""
