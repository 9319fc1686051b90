"""Which blobs of a net that only runs forward can take turns in the same memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from numpy.typing import DTypeLike

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.errors import NetError
from minicaffe.named import Named
from minicaffe.storage import Storage

ALIGNMENT = 16
"""Elements to which each memory is aligned: one cache line of float32."""


class Span(NamedTuple):
    """A piece of memory that is needed from step ``first`` to step ``last``, both included, and how large it is."""

    first: int
    last: int
    size: int

    def overlaps(self, other: Span) -> bool:
        """Whether both are needed during some step."""
        return self.first <= other.last and other.first <= self.last


def spans(steps: Iterable[tuple[Collection[int], Collection[int]]], sizes: Sequence[int]) -> dict[int, Span]:
    """When each memory is needed: from the first step that writes it to the last that reads or writes it.

    ``steps`` are the memories that each step reads and those that it writes, by number; ``sizes[number]`` is a
    memory's size.
    """
    found: dict[int, Span] = {}
    for index, (read, written) in enumerate(steps):
        for memory in (*read, *written):
            first = found[memory].first if memory in found else index
            found[memory] = Span(first, index, sizes[memory])
    return found


def offsets(needed: Mapping[int, Span]) -> dict[int, int]:
    """Where in one arena each memory can begin, so that no two overlap that are needed during the same step.

    The largest are placed first, each at the lowest place that is free (greedy by size: Pisarchyk and Lee 2020).
    """
    found: dict[int, int] = {}
    for memory in sorted(needed, key=lambda memory: -needed[memory].size):
        span, start = needed[memory], 0
        for other in sorted(found, key=found.__getitem__):
            if span.overlaps(needed[other]):
                if start + span.size <= found[other]:
                    break
                start = max(start, found[other] + needed[other].size)
        found[memory] = start
    return found


class Place(NamedTuple):
    """Where a blob's value is to be: elements ``offset`` .. of the arena, with so much ``room``."""

    blob: Blob
    offset: int
    room: float


def plan(steps: Sequence[Step], blobs: Sequence[tuple[str, Blob]], kept: Collection[str]) -> tuple[list[Place], int]:
    """Places of a net's blobs in one arena, and the arena's size, in elements.

    Blobs that share memory already (the tops of Split, Reshape, Flatten) stay together.  Without a place, because
    others may write or read them between two passes, are: the blobs ``kept``, those that layers without bottoms bring
    in, and the tops of Python layers.
    """
    numbers: dict[int, int] = {}
    memory = [numbers.setdefault(id(blob.data_storage), len(numbers)) for _, blob in blobs]
    rooms = [0] * len(numbers)
    pinned = {memory[i] for step in steps if not step.bottom or step.layer.type == "Python" for i in step.top_ids}
    for number, (name, blob) in zip(memory, blobs, strict=True):
        rooms[number] = -(-blob.data_storage.size // ALIGNMENT) * ALIGNMENT
        if name in kept:
            pinned.add(number)
    uses = [([memory[i] for i in step.bottom_ids], [memory[i] for i in step.top_ids]) for step in steps]
    needed = {number: span for number, span in spans(uses, rooms).items() if number not in pinned}
    starts = offsets(needed)
    places = [
        Place(blob, starts[number] + blob.data_offset, min(blob.data_room, rooms[number] - blob.data_offset))
        for number, (_, blob) in zip(memory, blobs, strict=True)
        if number in starts
    ]
    return places, max((starts[number] + rooms[number] for number in starts), default=0)


def share_memory(
    steps: Sequence[Step], blobs: Sequence[tuple[str, Blob]], kept: Collection[str], dtype: DTypeLike
) -> set[str]:
    """Put the values of a net's blobs into one arena as ``plan`` says; returns the names of those that are there now.

    The steps then keep nothing for a backward pass.
    """
    places, size = plan(steps, blobs, kept)
    arena = Storage(size, dtype)
    for place in places:
        place.blob.place_data(arena, place.offset, place.room)
    for step in steps:
        step.settle(goes_backward=False)
    return {name for name, blob in blobs if blob.data_storage is arena}


class KeptBlobs(Named[Blob]):
    """A net's blobs by name, without those that are ``gone``: asking for one of these is a NetError.

    ``how`` is the call that can keep them.
    """

    def __init__(self, blobs: Iterable[tuple[str, Blob]], gone: Collection[str], how: str = "reuse_memory") -> None:
        super().__init__(((name, blob) for name, blob in blobs if name not in gone), "blob")
        self._gone = frozenset(gone)
        self._how = how

    def __missing__(self, name: str) -> NoReturn:
        if name not in self._gone:
            super().__missing__(name)
        what = "gave its memory to later ones" if self._how == "reuse_memory" else "is not kept in the deploy form"
        raise NetError(f"blob '{name}' {what}; to read it, name it in {self._how}(keep=['{name}'])")
