"""Steps in a row as one layer, which takes each image of a batch through all of them before the next one.

Every thread has the steps once more, as a ``Replica``, with blobs for one image, which stay in its core's cache.  Each
replica's kernels are captured by themselves; the layer has them replayed image by image, without Python and without a
thread waiting for another.  What a replica takes and gives it reads and writes in the batch itself, by addresses that
are set before each image, or in a copy where these cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from minicaffe import backend, proto
from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.engine import joined, memory_plan
from minicaffe.engine.assembly import Step
from minicaffe.engine.executor import Executor
from minicaffe.engine.image_ranges import Range
from minicaffe.engine.params import Params
from minicaffe.kernels.cpu.images import Passage, Pointed, expect_images, find_pointers, run_images
from minicaffe.kernels.cpu.runtime import scratch
from minicaffe.kernels.cpu.runtime.capture import LaunchList
from minicaffe.kernels.cpu.runtime.threads import held
from minicaffe.layers import Layer
from minicaffe.layers.base import make
from minicaffe.storage import Storage, storages_in_use

_ATTEMPTS = 4
"""To capture: the first time memory grows, and what is made of weights in advance is made."""


class Recorded(NamedTuple):
    """The launches of a replica."""

    launches: LaunchList
    pointers: dict[int, list[tuple[int, int]]]
    """For blobs that are not copied, by number: the words of the launches that hold addresses in them, and the bytes
    from their begin."""


class Replica(Executor):
    """Copies of some steps, for one image, that compute from the same params."""

    def __init__(self, steps: Sequence[Step], found: Range, params: Params) -> None:
        of = dict(_numbered(steps))
        self.blobs = {i: Blob((1, *blob.shape[1:]), blob.dtype) for i, blob in of.items()}
        places = {i: place for place, i in enumerate(of)}
        names = [str(i) for i in of]
        dtype = steps[0].layer.dtype
        super().__init__([self._copy(step, places) for step in steps], names, params, dtype)
        self._ends = {*found.taken, *found.given}
        self._rooms = self._place_ends(found)
        self.reshape()
        joined.join(self.steps)
        named = list(zip(names, self.blobs.values(), strict=True))
        memory_plan.share_memory(self.steps, named, {str(i) for i in self._ends}, dtype)
        self.reshape()
        memory = backend.current().zeros(
            (max(step.layer.workspace_size(backward=False) for step in self.steps),), dtype
        )
        for step in self.steps:
            step.layer.work_in(memory)

    def _copy(self, step: Step, places: dict[int, int]) -> Step:
        """A step for one image."""
        bottom, top = ([self.blobs[i] for i in ids] for ids in (step.bottom_ids, step.top_ids))
        bottom_ids, top_ids = ([places[i] for i in ids] for ids in (step.bottom_ids, step.top_ids))
        made = Step(step.layer.replica(), bottom, top, bottom_ids, top_ids, [False] * len(bottom))
        made.reshape(backend.current())
        return made

    def _place_ends(self, found: Range) -> dict[int, Storage]:
        """Give each blob that is taken or given, but not both, memory in which it can lie at two places, no two blobs'
        equally far apart.
        """
        rooms: dict[int, Storage] = {}
        lines = 0
        for i in sorted(self._ends.difference(set(found.taken).intersection(found.given)), key=self._count):
            lines = max(lines + 1, -(-self._count(i) // memory_plan.ALIGNMENT))
            rooms[i] = Storage(2 * lines * memory_plan.ALIGNMENT, self.blobs[i].dtype)
            self.blobs[i].place_data(rooms[i], 0, self._count(i))
        return rooms

    def _count(self, i: int) -> int:
        return self.blobs[i].count

    def record(self) -> Recorded | None:
        """Capture the steps on one thread, as they work beside other replicas; None if that cannot be done."""
        movable = [i for i in self._rooms if self._lies_alone(i)]
        places, launches = self._arrays(movable), self._capture()
        self._move(movable, 1)
        moved, elsewhere = self._arrays(movable), self._capture()
        self._move(movable, -1)
        if launches is None or elsewhere is None:
            return None
        pointers = {i: find_pointers(launches, elsewhere, places[i], moved[i]) for i in movable}
        return Recorded(launches, {i: words for i, words in pointers.items() if words is not None})

    def _arrays(self, ids: Sequence[int]) -> dict[int, Any]:
        return {i: self.blobs[i].xdata for i in ids}

    def _lies_alone(self, i: int) -> bool:
        """Whether blob ``i`` lies in the room made for it, and no other that is taken or given does."""
        return [end for end in self._ends if self.blobs[end].data_storage is self._rooms[i]] == [i]

    def _move(self, movable: Sequence[int], sign: int) -> None:
        """Let all that lies in the rooms of some blobs lie at the other place."""
        rooms = {id(self._rooms[i]): sign * self._rooms[i].size // 2 for i in movable}
        for blob in self.blobs.values():
            storage = blob.data_storage
            if id(storage) in rooms:
                blob.place_data(storage, blob.data_offset + rooms[id(storage)], blob.count)

    def _capture(self) -> LaunchList | None:
        self.reshape()  # here, since layers reshape when memory has moved, which is not to be captured
        before = generation.current()
        with held(1), scratch.apart(), backend.current().capture() as capture:
            self.run()
        launches = getattr(capture, "launches", None)
        if launches is None or generation.current() != before:  # memory has moved between the launches
            return None
        return launches if launches.only_launches else None

    def run(self) -> None:
        """Take the image that is there through all steps."""
        plan = self.plan(forward=True)
        how = self._how("forward", plan)._replace(segments={})
        plan.settle()
        plan.sweeps.forward.run(0, len(self.steps) - 1, how)


class ByImage(Layer):
    """What some steps of a net do, in replicas, one for each thread.

    Bottoms and tops: what the steps take and give.  ``steps`` are those of the net, whose blobs between the layers hold
    nothing.
    """

    bottoms = tops = (1, None)
    capturable = True

    def take_in(self, steps: Sequence[Step], found: Range, replicas: int, params: Params) -> None:
        """Take the place of these steps, for the shapes that their blobs have."""
        self.steps = tuple(steps)
        self._range = found
        self._replicas = [Replica(steps, found, params) for _ in range(replicas)]
        self._recorded: list[Recorded] = []
        self._storages: list[Storage] = []
        self._state: tuple = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing: it is made for shapes that the steps have given their tops."""

    def record(self) -> bool:
        """Before a pass: have the launches of all replicas, as they are now; whether they can be had."""
        for _ in range(_ATTEMPTS):
            if self._is_recorded():
                return True
            with storages_in_use() as storages:
                found = [replica.record() for replica in self._replicas]
            self._recorded = [recorded for recorded in found if recorded is not None]
            self._storages, self._state = [*storages.values()], self._state_now()
        return self._is_recorded()

    def _is_recorded(self) -> bool:
        return len(self._recorded) == len(self._replicas) and self._state == self._state_now()

    def _state_now(self) -> tuple:
        """What the launches depend on, beside what the net looks at."""
        return generation.current(), *backend.current().settings()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        taken, given = dict(zip(self._range.taken, bottom)), dict(zip(self._range.given, top))
        if not self._is_recorded():
            self._run_in_turn(taken, given)
            return
        for storage in self._storages:
            storage.make_head()
        known = set(self._recorded[0].pointers).intersection(*(each.pointers for each in self._recorded))
        pointed = [
            Pointed(blob.xdata, [each.pointers[i] for each in self._recorded])
            for i, blob in {**taken, **given}.items()
            if i in known
        ]
        copied = ([*self._passages(blobs, known)] for blobs in (taken, given))
        run_images([each.launches for each in self._recorded], bottom[0].shape[0], pointed, *copied)

    def _passages(self, blobs: dict[int, Blob], known: set[int]) -> Iterator[Passage]:
        """The blobs that are copied."""
        for i, blob in blobs.items():
            if i not in known:
                yield Passage(blob.xdata, [replica.blobs[i].xdata for replica in self._replicas])

    def _run_in_turn(self, taken: dict[int, Blob], given: dict[int, Blob]) -> None:
        """All images by the first replica, and by Python."""
        backend.current().not_capturable()
        expect_images()
        replica = self._replicas[0]
        for image in range(next(iter(taken.values())).shape[0]):
            for i, blob in taken.items():
                replica.blobs[i].xdata[0] = blob.xdata[image]
            replica.run()
            for i, blob in given.items():
                blob.xdata[image] = replica.blobs[i].xdata[0]


def group(steps: Sequence[Step], ranges: Sequence[Range], replicas: int, params: Params) -> list[Step]:
    """The steps, with one in the place of those of each range."""
    left, place = list[Step](), 0
    for found in ranges:
        left += steps[place : found.first]
        left.append(_joined(steps[found.first : found.last + 1], found, replicas, params))
        place = found.last + 1
    return [*left, *steps[place:]]


def _joined(steps: Sequence[Step], found: Range, replicas: int, params: Params) -> Step:
    blobs, first, last = dict(_numbered(steps)), steps[0].layer, steps[-1].layer
    definition = proto.LayerParameter(name=f"{first.name} … {last.name}", type="ByImage")
    layer: Any = make(ByImage, definition, first.definition, first.dtype)
    layer.take_in(steps, found, replicas, params)
    bottom, top = ([blobs[i] for i in ids] for ids in (found.taken, found.given))
    return Step(layer, bottom, top, found.taken, found.given, [False] * len(bottom))


def _numbered(steps: Sequence[Step]) -> Iterator[tuple[int, Blob]]:
    """The blobs of some steps, with their numbers."""
    for step in steps:
        yield from zip(step.bottom_ids, step.bottom, strict=True)
        yield from zip(step.top_ids, step.top, strict=True)
