"""Runs of layers that are captured once and then replayed, without Python between their kernels.

A net is static: from pass to pass its layers call the same ops on the same arrays.  So a segment, having run eagerly
once as it is now, is captured in its second pass and replayed from the third on, to the same bits, until something that
it depends on changes:

- the generation (``backend.generation``): a blob's shape or memory, the shared workspace, an attribute of a layer;
- the backend's settings: the number of threads, the fast paths;
- for a backward pass, which layers ran forward as one;
- which gradients are wanted, and which gradients of params only count as zero (``Storage.clear``).

The first ends all captures, of the others each state has a capture of its own.  What a captured layer computes from is
immutable (``Configured.__setattr__``), so a change cannot go unnoticed; and a capture owns the arrays that its launches
were given (``backend.Capture``), so none can be freed under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from minicaffe import backend
from minicaffe.backend import Capture, generation
from minicaffe.blob import Storage
from minicaffe.engine.assembly import Step
from minicaffe.engine.fusion import Pass

_MOST_CAPTURES = 8  # states of a segment that take turns: as many as the small batches that make one large one


class _Captured(NamedTuple):
    """A capture, and what a pass that is replayed must leave behind on the host."""

    capture: Capture
    zeros: tuple[tuple[tuple[int, int], ...], ...]
    ran: tuple[bool, ...]


class Segment:
    """The steps ``first`` to ``last`` of a net, in one direction or in both.

    ``forward`` are the net's forward passes of several steps as one: whether they ran so the last time may change here.
    ``read`` are those of them for which this is also read here, by a backward pass, before it changes.
    """

    def __init__(
        self, steps: Sequence[Step], first: int, last: int, forward: Iterable[Pass] = (), read: Iterable[Pass] = ()
    ) -> None:
        self.first, self.last = first, last
        self._steps = steps[first : last + 1]
        self._passes = [item for item in forward if first <= item.last and item.first <= last]
        self._read = [item for item in read if item in self._passes]
        self._generation = -1
        self._gradients: list[Storage] = []
        """The memory of the params' gradients, each once: all the net's, or other nets', or one for each param."""
        self._captured: dict[tuple, _Captured | None] = {}

    def run(self, where: backend.Backend, eager: Callable[[], None]) -> None:
        """Do what ``eager`` does, by a replay if possible."""
        if self._generation != generation.current() or len(self._captured) > _MOST_CAPTURES:
            self._captured.clear()
            self._generation = generation.current()
            storages = [blob.diff_storage for step in self._steps for blob in step.layer.blobs]
            self._gradients = list({id(storage): storage for storage in storages}.values())
        wanted = [flag for step in self._steps for flag in (*step.propagate_down, *step.layer.param_propagate_down)]
        fused = [item.ran for item in self._read]
        state = (where, *where.settings(), self._zeros(), *wanted, *fused)
        if state not in self._captured:
            self._captured[state] = None  # the first time kernels are compiled, and scratch memory grows
            eager()
            return
        captured = self._captured[state]
        if captured is None:
            self._capture(state, where, eager)
            return
        for item, ran in zip(self._passes, captured.ran, strict=True):
            item.ran = ran
        captured.capture.replay()
        for storage, zeros in zip(self._gradients, captured.zeros, strict=True):
            storage.zeros = zeros

    def _zeros(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """What only counts as zero of each memory of gradients."""
        return tuple([storage.zeros for storage in self._gradients])

    def _capture(self, state: tuple, where: backend.Backend, eager: Callable[[], None]) -> None:
        with where.capture() as capture:
            eager()
        if capture is not None and capture.complete and self._generation == generation.current():
            ran = tuple(item.ran for item in self._passes)
            self._captured[state] = _Captured(capture, self._zeros(), ran)


def find_segments(steps: Sequence[Step], passes: Iterable[Pass]) -> list[tuple[int, int]]:
    """First and last of the steps in a row that can be captured; of ``passes`` of several layers none is cut in two."""
    layers = [step.layer for step in steps]
    can = [layer.capturable and not (layer.reshape_always or layer.patched) for layer in layers]
    for item in passes:
        if not all(can[item.first : item.last + 1]):
            can[item.first : item.last + 1] = [False] * len(item.steps)
    rows = (list(places) for capturable, places in groupby(range(len(steps)), can.__getitem__) if capturable)
    return [(places[0], places[-1]) for places in rows]
