"""Layers in a row whose kernels are run again as they ran before, without Python between them.

A net is static: from pass to pass its layers call the same ops on the same arrays.  So what such layers do is recorded,
once they have run as they are set up, and is run from the record until something moves: a blob that changes its shape
or its memory, an attribute of a layer, which gradients are wanted, the number of threads, the fast paths.  All numbers
are the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from minicaffe import backend
from minicaffe.assembly import Step
from minicaffe.backend import Recording, moves
from minicaffe.blob import Storage
from minicaffe.fusion import Pass

_ROOM = 1 << 13  # bytes for the record of a step; where these are too few it is made again, with as many as it takes
_MOST = 8  # records of a stretch, for the states that follow each other: as many as small batches make one large


class Stretch:
    """The forward or the backward pass of the steps ``first`` to ``last`` of a net."""

    def __init__(self, steps: Sequence[Step], first: int, last: int) -> None:
        self.first, self.last = first, last
        self._steps = steps[first : last + 1]
        self._moves = -1
        self._room = _ROOM * len(self._steps)
        self._records: dict[tuple, tuple[Recording, tuple] | None] = {}

    def run(self, where: backend.Backend, gradients: Storage | None, live: Callable[[], None]) -> None:
        """Do what ``live`` does, from the record if there is one; ``gradients``: where those of all params lie."""
        wanted = [flag for step in self._steps for flag in (*step.propagate_down, *step.layer.param_propagate_down)]
        state = (*where.setting(), gradients.zeros if gradients else (), *wanted)
        if self._moves != moves.count() or len(self._records) > _MOST:
            self._records.clear()
            self._moves = moves.count()
        if state not in self._records:
            self._records[state] = None  # the first time kernels are compiled, and scratch memory grows
            live()
            return
        record = self._records[state]
        if record is None:
            self._record(state, where, gradients, live)
            return
        recording, zeros = record
        recording.run()
        for flag, error in recording.checks:
            where.check_later(flag, error)
        if gradients:
            gradients.zeros = zeros

    def _record(
        self, state: tuple, where: backend.Backend, gradients: Storage | None, live: Callable[[], None]
    ) -> None:
        if not all(step.layer.repeats for step in self._steps):
            live()
            return
        with where.recorded(self._room) as recording:
            live()
        if recording is None:
            return
        self._room = max(self._room, recording.room)
        if recording.complete:
            self._records[state] = recording, gradients.zeros if gradients else ()


def stretches(steps: Sequence[Step], passes: Iterable[Pass]) -> list[tuple[int, int]]:
    """First and last of the steps in a row that only run ops on blobs; of ``passes`` of several layers as one, none is
    cut in two.
    """
    repeats = [step.layer.repeats and not step.layer.reshape_always for step in steps]
    for item in passes:
        if not all(repeats[item.first : item.last + 1]):
            repeats[item.first : item.last + 1] = [False] * len(item.steps)
    rows = (list(places) for repeat, places in groupby(range(len(steps)), repeats.__getitem__) if repeat)
    return [(places[0], places[-1]) for places in rows]
