"""Runs the deploy form of a net: fewer layers than the net has, in less memory, forward only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from minicaffe import backend
from minicaffe.backend import generation, threads
from minicaffe.blob import Blob
from minicaffe.engine import deploy_graph, image_ranges, joined, memory_plan
from minicaffe.engine.assembly import Step
from minicaffe.engine.by_image import ByImage, group
from minicaffe.engine.executor import Executor, check_param_shapes, param_shapes
from minicaffe.engine.params import Params
from minicaffe.engine.replay import Replay
from minicaffe.kernels import fast_paths


@dataclass(frozen=True)
class Part:
    """Steps of a pass that run as one, and a function that does their work again.

    ``idle``: there is none to do, as for a Concat of blobs that already lie in its top.
    """

    steps: Sequence[Step]
    run: Callable[[], None]
    idle: bool


class DeployExecutor(Executor):
    """Runs what ``deploy_graph`` leaves of ``steps``, and keeps it true to what these are now.

    Params and attributes of the layers of ``steps`` may be written to and set at any time: what was made of them is
    made anew before the next pass.  ``kept`` names blobs that hold what they hold in the net itself; so do those that
    layers without bottoms bring in.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        blobs: Sequence[tuple[str, Blob]],
        kept: Collection[str],
        params: Params,
        dtype: np.dtype,
    ) -> None:
        self._whole, self._blobs = steps, blobs
        self._sources = [i for step in steps if not step.bottom for i in step.top_ids]
        self._watched = {i for i, (name, _) in enumerate(blobs) if name in kept}.union(self._sources)
        self._shapes_of_params = param_shapes(steps)
        self._placed: list[Blob] = []
        self._as_of = -1
        self._again: tuple[tuple, Replay] | None = None
        self._left: Sequence[Step] = ()
        """The steps that are left, each for all images."""
        self._by_image: list[ByImage] = []
        self._by_image_fails = self._is_apart = False
        super().__init__((), [name for name, _ in blobs], params, dtype)
        self._rewrite()

    @property
    def visible(self) -> set[str]:
        """The names of the blobs that hold what they hold in the net itself."""
        return {self._blobs[i][0] for i in self._watched}

    @property
    def steps(self) -> Sequence[Step]:
        """What is left of the net: what callbacks see, and what runs, though images may go through some one by one."""
        return self._left

    @property
    def by_image(self) -> Sequence[ByImage]:
        """What images go through one by one, now."""
        return self._by_image

    def run_forward(self, start: int, end: int) -> None:
        """Run all there is, whatever the range of the net's own layers."""
        self._is_apart = False
        if self._repeat():
            return
        self._refresh()
        super().run_forward(0, len(self._steps) - 1)
        self._have_run()

    def _have_run(self) -> None:
        if not (self._user_layers or any(self.callbacks.values())):  # these may have written to params, too
            for layer in self._derived:
                layer.has_run()

    def _repeat(self) -> bool:
        """If one replay was the last pass, and nothing has changed, do it again without asking each layer what to do:
        that takes longer than a small net.
        """
        if self._again is None:
            return False
        state, replay = self._again
        with self._running():
            if state != self._state() or any(layer.is_stale() for layer in self._derived):
                return False
            asked = replay.repeat()
        if asked:
            self._have_run()
        return True

    def _state(self) -> tuple:
        """What, beside the params, a replay of the whole pass depends on."""
        where = backend.current()
        return generation.current(), where, where.settings(), self._is_watched("forward")

    def _forward(self, start: int, end: int) -> None:
        state, self._again = self._state(), None
        self._record()
        end = len(self._steps) - 1
        super()._forward(start, end)
        segment = self.plan().sweeps.forward.segments.get(start)
        if segment is None or segment.last != end or any(step.weighted for step in self._steps):
            return
        if segment.replay.replayed and state[0] == generation.current():
            self._again = state, segment.replay

    def reshape(self) -> None:
        self._refresh()

    def run_apart(self) -> list[Part]:
        """Run a pass part by part, and capture each by itself where it can be, on the host: without Python, its ``run``
        takes as long as the part does in a replayed pass.  What changes the net ends what was captured.

        Every part is for all images, also where a pass takes them through several layers one by one.
        """
        self._is_apart = True
        self._refresh()
        found = []
        with self._running():
            where, plan = backend.current(), self.plan(forward=True)
            how = self._how("forward", plan)._replace(segments={})
            self._clear_loss()
            plan.settle()
            index = 0
            while index < len(self._steps):
                last = how.passes[index].last if index in how.passes else index
                eager = partial(plan.sweeps.forward.run, index, last, how)
                with where.capture() if where.is_host else contextlib.nullcontext() as capture:
                    eager()
                steps = self._steps[index : last + 1]
                if capture is not None and capture.complete:
                    found.append(Part(steps, capture.replay, capture.idle))
                else:
                    found.append(Part(steps, partial(self._run_part, eager), idle=False))
                index = last + 1
        return found

    def _run_part(self, eager: Callable[[], None]) -> None:
        with self._running():
            eager()

    def _refresh(self) -> None:
        """Be as the net's layers, params and inputs are now."""
        if self._as_of != generation.current():
            check_param_shapes(self._whole, self._shapes_of_params)
            if self._revisions != self._revisions_now():
                self._rewrite()
            elif self._shapes != self._shapes_now():
                self._place_blobs()
            self._as_of = generation.current()
        if self._conditions != self._conditions_now():
            self._place_blobs()
        for layer in self._derived:
            layer.refresh()

    def _rewrite(self) -> None:
        """Find out what is left of the net, and take it."""
        self._revisions = self._revisions_now()
        steps, folded = deploy_graph.rewrite(self._whole, self._blobs, self._watched)
        self._derived = deploy_graph.refreshed_layers(steps, folded)
        self._left, self._by_image_fails = steps, False
        self._place_blobs()
        self._as_of = generation.current()

    def _place_blobs(self) -> None:
        """Give all blobs that nobody looks at memory that others use at other times, for the shapes of the inputs."""
        for blob in self._placed:
            blob.unshare_data(contents=False)
        self._conditions = self._conditions_now()
        if self._steps is not self._left:
            self._take(self._left)
        super().reshape()
        self._group()
        self._placed = joined.join(self._steps) if backend.current().is_host else []
        kept = self.visible
        places, _ = memory_plan.plan(self._steps, self._blobs, kept)
        self._placed += [place.blob for place in places]
        memory_plan.share_memory(self._steps, self._blobs, kept, self.loss.dtype)
        super().reshape()
        self._shapes = self._shapes_now()

    def _group(self) -> None:
        """Let images go through layers one by one where that pays, and nobody looks on."""
        on_host, count, left_out, is_watched = self._conditions
        self._by_image = []
        if self._by_image_fails or not on_host or is_watched or left_out.intersection(("image_by_image", "replay")):
            return
        ranges = image_ranges.find(self._left, self._watched, count)
        if ranges:
            self._take(group(self._left, ranges, count, self._params))
            self._by_image = [s.layer for s in self._steps if isinstance(s.layer, ByImage)]

    def _record(self) -> None:
        """Before a pass: have captures of layers that images go through one by one, or let these go together."""
        if not all(layer.record() for layer in self._by_image):
            self._by_image_fails = True
            self._place_blobs()

    def _conditions_now(self) -> tuple[bool, int, frozenset[str], bool]:
        """What, beside the layers and shapes, it depends on which images go through layers one by one."""
        watched = self._is_watched("forward") or self._is_apart
        return backend.current().is_host, threads.get_num_threads(), fast_paths.left_out(), watched

    def _revisions_now(self) -> list[int]:
        return [step.layer.revision for step in self._whole]

    def _shapes_now(self) -> list[tuple[int, ...]]:
        return [self._blobs[i][1].shape for i in self._sources]
