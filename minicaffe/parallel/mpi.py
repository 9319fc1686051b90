"""Processes that ``mpirun`` started, connected by MPI (mpi4py)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend
from minicaffe.errors import MissingExtraError
from minicaffe.parallel.communicator import Communicator, nothing
from minicaffe.parallel.nccl import Nccl, connect


class Mpi(Communicator):
    """All processes of one ``mpirun``.

    Arrays of GPUs are exchanged by NCCL where each process has one of its own and all have NCCL, else through the
    host's memory.  The sum's order, and so its rounding, is MPI's: it
    depends on the sizes of group and array.  Raises MissingExtraError if mpi4py, or the MPI it needs, is not there.
    """

    def __init__(self) -> None:
        self._mpi = _import_mpi()
        self._world = self._mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()

    def start_sum(self, array: Any) -> Callable[[], None]:
        if isinstance(array, np.ndarray):
            return self._world.Iallreduce(self._mpi.IN_PLACE, array.reshape(-1)).Wait
        if self._nccl is not None:
            self._nccl.sum(array)
            return nothing
        where, host = backend.current(), np.empty(array.shape, array.dtype)
        where.download(array, host)
        request = self._world.Iallreduce(self._mpi.IN_PLACE, host.reshape(-1))

        def finish() -> None:
            request.Wait()
            where.upload(host, array)

        return finish

    def sum(self, array: Any) -> None:
        if isinstance(array, np.ndarray):
            self._world.Allreduce(self._mpi.IN_PLACE, array.reshape(-1))
        else:
            self.start_sum(array)()

    def broadcast(self, array: Any) -> None:
        if not isinstance(array, np.ndarray) and self._nccl is not None:
            self._nccl.broadcast(array)
            return
        where = backend.current()
        host: NDArray = array if isinstance(array, np.ndarray) else np.empty(array.shape, array.dtype)
        if host is not array:
            where.download(array, host)
        self._world.Bcast(host.reshape(-1))
        if host is not array:
            where.upload(host, array)

    @functools.cached_property
    def _nccl(self) -> Nccl | None:
        return connect(self, self._mpi.Get_processor_name())

    def gather(self, value: Any) -> list[Any]:
        return self._world.allgather(value)

    def of_first(self, value: Any) -> Any:
        return self._world.bcast(value)

    def wait_for_all(self) -> None:
        self._world.Barrier()

    def beside(self) -> tuple[int, int]:
        """This process's number among those of its machine, and how many these are."""
        machine = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        return machine.Get_rank(), machine.Get_size()

    def finish(self) -> None:
        """Leave the group, which all do together.  A process that ends without it, and not with status 0, ends all."""
        self._mpi.Finalize()


def _import_mpi() -> Any:
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # a process that fails must not wait, at its end, for the others to finish
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            f"training by several processes needs MPI for Python ({error}); install it with: "
            "pip install 'minicaffe[mpi]'"
        ) from error
    return MPI
