"""Runs of layers that are captured once and then replayed (see ``minicaffe.engine.replay``).

The state that such a run depends on, beside the generation:

- the backend's settings: the number of threads, the fast paths;
- for a backward pass, which layers ran forward as one;
- which gradients are wanted, and which gradients of params only count as zero (``Storage.clear``).

What a captured layer computes from is immutable (``Configured.__setattr__``), so a change cannot go unnoticed; and a
capture owns the arrays that its launches were given (``backend.Capture``), so none can be freed under it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby

from minicaffe import backend
from minicaffe.backend import generation
from minicaffe.engine.assembly import Step
from minicaffe.engine.fusion import Pass
from minicaffe.engine.replay import Replay, Work
from minicaffe.storage import Storage

_Zeros = tuple[tuple[tuple[int, int], ...], ...]
"""What only counts as zero of each memory of gradients."""


class Segment(Work):
    """The steps ``first`` to ``last`` of a net, in one direction or in both; ``backward`` if in that, too.

    ``forward`` are the net's forward passes of several steps as one: whether they ran so the last time may change here.
    ``read`` are those of them for which this is also read here, by a backward pass, before it changes.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        first: int,
        last: int,
        backward: bool,
        forward: Iterable[Pass] = (),
        read: Iterable[Pass] = (),
    ) -> None:
        self.first, self.last = first, last
        self._backward = backward
        self.replay = Replay()
        self._steps = steps[first : last + 1]
        self._passes = [item for item in forward if first <= item.last and item.first <= last]
        self._read = [item for item in read if item in self._passes]
        self._generation = -1
        self._gradients: list[Storage] = []
        """The memory of the params' gradients, if they change here, each once: all the net's, other nets', or one for
        each param.
        """

    def run(self, where: backend.Backend, eager: Callable[[], None], *state: Hashable) -> None:
        """Do what ``eager`` does, by a replay if possible; it depends on ``state``, too."""
        if self._backward and self._generation != generation.current():
            self._generation = generation.current()
            storages = [blob.diff_storage for step in self._steps for blob in step.layer.blobs]
            self._gradients = list({id(storage): storage for storage in storages}.values())
        wanted = [flag for step in self._steps for flag in (*step.propagate_down, *step.layer.param_propagate_down)]
        fused = [item.ran for item in self._read]
        self.replay.run(where, (where, *where.settings(), *state, self._zeros(), *wanted, *fused), self, eager)

    def _zeros(self) -> _Zeros:
        return tuple([storage.zeros for storage in self._gradients])

    def left(self) -> tuple[_Zeros, list[bool]]:
        return self._zeros(), [item.ran for item in self._passes]

    def leave(self, left: tuple[_Zeros, list[bool]]) -> None:
        for storage, zeros in zip(self._gradients, left[0], strict=True):
            storage.zeros = zeros
        for item, ran in zip(self._passes, left[1], strict=True):
            item.ran = ran


def find_segments(steps: Sequence[Step], passes: Iterable[Pass], on_host: bool = True) -> list[tuple[int, int]]:
    """First and last of the steps in a row that can be captured; of ``passes`` of several layers none is cut in two."""
    can = [step.layer.can_be_captured(on_host) for step in steps]
    for item in passes:
        if not all(can[item.first : item.last + 1]):
            can[item.first : item.last + 1] = [False] * len(item.steps)
    rows = (list(places) for capturable, places in groupby(range(len(steps)), can.__getitem__) if capturable)
    return [(places[0], places[-1]) for places in rows]
