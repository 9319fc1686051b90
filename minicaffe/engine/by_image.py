"""Steps in a row as one layer, which takes each image of a batch through all of them before the next one.

Every thread has the steps once more, as a ``Lane``, with blobs for one image, which stay in its core's cache.  Each
lane's kernels are captured by themselves; the layer has them replayed image by image, without Python and without a
thread waiting for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minicaffe import backend, proto
from minicaffe.backend import Capture, Passage, generation
from minicaffe.blob import Blob, Storage, storages_in_use
from minicaffe.engine import deploy_graph, joined, memory_plan
from minicaffe.engine.assembly import Step
from minicaffe.engine.executor import Executor
from minicaffe.engine.image_ranges import Range
from minicaffe.engine.params import Params
from minicaffe.layers import Layer
from minicaffe.layers.base import make
from minicaffe.layers.convolution import Convolution

_ATTEMPTS = 3
"""To capture: the first time memory grows, and what is made of weights in advance is made."""


class Lane(Executor):
    """Copies of some steps, for one image, that compute from the same params."""

    def __init__(self, steps: Sequence[Step], found: Range, params: Params) -> None:
        ids = list(dict.fromkeys(i for step in steps for i in (*step.bottom_ids, *step.top_ids)))
        of = {i: blob for step in steps for i, blob in zip(step.bottom_ids + step.top_ids, step.bottom + step.top)}
        self.blobs = {i: Blob((1, *of[i].shape[1:]), of[i].dtype) for i in ids}
        places = {i: place for place, i in enumerate(ids)}
        named = [(str(i), self.blobs[i]) for i in ids]
        super().__init__(
            [self._copy(step, places) for step in steps], [name for name, _ in named], params, of[ids[0]].dtype
        )
        self.reshape()
        joined.join(self.steps)
        memory_plan.share_memory(self.steps, named, {str(i) for i in (*found.taken, *found.given)}, self.loss.dtype)
        self.reshape()
        room = max(step.layer.reserved for step in self.steps)
        memory = backend.current().zeros((room,), self.loss.dtype)
        for step in self.steps:
            step.layer.work_in(memory)

    def _copy(self, step: Step, places: dict[int, int]) -> Step:
        bottom, top = ([self.blobs[i] for i in ids] for ids in (step.bottom_ids, step.top_ids))
        layer: Any = deploy_graph.alike(step.layer, type(step.layer), bottom, top)
        if isinstance(layer, Convolution):
            layer.share_packed(step.layer)
        bottom_ids, top_ids = ([places[i] for i in ids] for ids in (step.bottom_ids, step.top_ids))
        return Step(layer, bottom, top, bottom_ids, top_ids, [False] * len(bottom))

    def run(self) -> None:
        """Take the image that is there through all steps."""
        plan = self.plan(forward=True)
        how = self._how("forward", plan)._replace(segments={})
        plan.settle()
        plan.sweeps.forward.run(0, len(self.steps) - 1, how)


class _Recorded(NamedTuple):
    """The captures of all lanes."""

    state: tuple
    captures: list[Capture]
    storages: list[Storage]
    """What they read and write."""


class ByImage(Layer):
    """What some steps of a net do, in lanes, one for each thread.

    Bottoms and tops: what the steps take and give.  ``steps`` are those of the net, whose blobs between the layers hold
    nothing.
    """

    bottoms = tops = (1, None)
    capturable = True

    def take_in(self, steps: Sequence[Step], found: Range, lanes: int, params: Params) -> None:
        """Take the place of these steps, for the shapes that their blobs have."""
        self.steps = tuple(steps)
        self._range = found
        self._lanes = [Lane(steps, found, params) for _ in range(lanes)]
        self._recorded: _Recorded | None = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing: it is made for shapes that the steps have given their tops."""

    def record(self) -> bool:
        """Before a pass: have a capture of each lane; whether there is one."""
        where = backend.current()
        for _ in range(_ATTEMPTS):
            state = self._state(where)
            if self._recorded is not None and self._recorded.state == state:
                break
            self._recorded = None
            captures = []
            with storages_in_use() as storages:
                for lane in self._lanes:
                    with where.capture_alone() as capture:
                        lane.run()
                    captures += [capture] if capture is not None and capture.complete else []
            if len(captures) == len(self._lanes) and state == self._state(where):
                self._recorded = _Recorded(state, captures, [*storages.values()])
        return self._recorded is not None

    def _state(self, where: backend.Backend) -> tuple:
        """What the captures depend on."""
        return generation.current(), where, where.settings()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        where, count = backend.current(), bottom[0].shape[0]
        taken, given = (
            [
                Passage(blob.xdata, [lane.blobs[i].xdata for lane in self._lanes])
                for i, blob in zip(ids, blobs, strict=True)
            ]
            for ids, blobs in ((self._range.taken, bottom), (self._range.given, top))
        )
        if self._recorded is not None and self._recorded.state == self._state(where):
            for storage in self._recorded.storages:
                storage.make_head()
            where.each_image(self._recorded.captures, count, taken, given)
            return
        where.not_capturable()
        where.expect_each_image()
        for image in range(count):
            for passage in taken:
                passage.places[0][0] = passage.batch[image]
            self._lanes[0].run()
            for passage in given:
                passage.batch[image] = passage.places[0][0]


def group(steps: Sequence[Step], ranges: Sequence[Range], lanes: int, params: Params) -> list[Step]:
    """The steps, with one in the place of those of each range."""
    left, place = list[Step](), 0
    for found in ranges:
        left += steps[place : found.first]
        left.append(_joined(steps[found.first : found.last + 1], found, lanes, params))
        place = found.last + 1
    return [*left, *steps[place:]]


def _joined(steps: Sequence[Step], found: Range, lanes: int, params: Params) -> Step:
    blobs = {i: blob for step in steps for i, blob in zip(step.bottom_ids + step.top_ids, step.bottom + step.top)}
    first, last = steps[0].layer, steps[-1].layer
    definition = proto.LayerParameter(name=f"{first.name} … {last.name}", type="ByImage")
    layer: Any = make(ByImage, definition, first.definition, first.dtype)
    layer.take_in(steps, found, lanes, params)
    bottom, top = ([blobs[i] for i in ids] for ids in (found.taken, found.given))
    return Step(layer, bottom, top, found.taken, found.given, [False] * len(bottom))
