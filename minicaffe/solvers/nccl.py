"""pycaffe's NCCL: training on several GPUs at once, of which one process on one device is all there is here."""

from __future__ import annotations

import os

from minicaffe.backend import ranks
from minicaffe.errors import DeviceError
from minicaffe.solvers.base import Solver


def has_nccl() -> bool:
    """Whether processes can train one model together: no."""
    return False


class NCCL:
    """Keeps the weights and gradients of solvers that train together equal, of which there is one: itself.

    It is what scripts that could train on several GPUs make and hand to ``add_callback`` and ``after_backward``.
    DeviceError if ``solver_count()`` is more than 1.
    """

    def __init__(self, solver: Solver, uid: bytes | str) -> None:
        if ranks.solver_count() > 1:
            raise DeviceError(
                f"NCCL: {ranks.solver_count()} solvers cannot train together: gradients are not exchanged between "
                "processes yet. Train on one GPU, with set_solver_count(1) and, for batches of the same size, "
                f"iter_size {ranks.solver_count()} in the solver"
            )

    @staticmethod
    def new_uid() -> bytes:
        """A name for a group of processes."""
        return os.urandom(16)

    def bcast(self) -> None:
        """Give the others the weights of the first: there are no others."""

    def on_start(self) -> None:
        """Before an iteration."""

    def on_gradients_ready(self) -> None:
        """Add up the gradients of all."""

    def __call__(self, layer: int) -> None:
        """After a layer's backward."""
