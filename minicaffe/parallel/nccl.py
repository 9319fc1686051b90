"""Sums over the GPUs of a group by NCCL, without the host's memory in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicaffe import backend, compat

if TYPE_CHECKING:
    from minicaffe.parallel.communicator import Communicator

_TYPES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "float16": "NCCL_FLOAT16"}


class Nccl:
    """What the processes of a group, each on a GPU of its own, exchange of arrays there.

    The work is queued on the stream that nets compute on, after what computes the array and before what reads it.
    """

    def __init__(self, group: Communicator) -> None:
        self._cupy = compat.require("cupy")
        self._nccl = self._cupy.cuda.nccl
        name = group.of_first(self._nccl.get_unique_id() if group.rank == 0 else None)
        self._communicator = self._nccl.NcclCommunicator(group.size, name, group.rank)

    def sum(self, array: Any) -> None:
        """Put the sum of all processes' arrays into each."""
        with backend.current().running():
            self._communicator.allReduce(*self._described(array), self._nccl.NCCL_SUM, self._stream())

    def broadcast(self, array: Any) -> None:
        """Put the array of rank 0 into those of the others."""
        with backend.current().running():
            self._communicator.broadcast(*self._described(array), 0, self._stream())

    def _described(self, array: Any) -> tuple[int, int, int, int]:
        kind = getattr(self._nccl, _TYPES[array.dtype.name])
        return array.data.ptr, array.data.ptr, array.size, kind

    def _stream(self) -> int:
        return self._cupy.cuda.get_current_stream().ptr


def connect(group: Communicator, machine: str) -> Nccl | None:
    """NCCL among the processes of a group, if all have it and each a GPU of its own; else None, on all."""
    cuda = compat.require("cupy").cuda
    have = bool(getattr(getattr(cuda, "nccl", None), "available", False))
    places = group.gather((have, machine, int(cuda.Device().id)))
    alone = len({place[1:] for place in places}) == group.size
    return Nccl(group) if alone and all(place[0] for place in places) else None
