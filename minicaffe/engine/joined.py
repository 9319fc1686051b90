"""Concat and Slice without copies: blobs that lie where they are put together, or stay where they were cut from.

Parts of an axis with no other before it lie one behind the other.  Concat and Slice leave alone what lies where it
should be (``Along.lies_at``), and copy what does not, so that this is never more than a matter of speed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.engine.memory_plan import ALIGNMENT
from minicaffe.layers.shape import Concat, Slice


def join(steps: Sequence[Step]) -> list[Blob]:
    """Place the bottoms of Concats in their tops, and the tops of Slices in their bottoms, where nothing else is to be
    read there; returns the blobs that were placed.  ``steps`` never go backward and are set up.
    """
    places = [*_parts(steps, Concat)][::-1] + [*_parts(steps, Slice)]  # what is joined twice lies in the last of all
    blobs = {id(blob): blob for step in steps for blob in (*step.bottom, *step.top)}.values()
    users = Counter(id(blob.data_storage) for blob in blobs)
    placed = []
    for index, whole, part, start in places:
        if users[id(part.data_storage)] == 1 and start % ALIGNMENT == 0 and _can_lie_in(steps, index, whole, part):
            part.place_data(whole.data_storage, whole.data_offset + start, part.count)
            placed.append(part)
            users[id(whole.data_storage)] += 1
            users[id(part.data_storage)] = users[id(whole.data_storage)]
    return placed


def _parts(steps: Sequence[Step], kind: type[Concat] | type[Slice]) -> Iterator[tuple[int, Blob, Blob, int]]:
    """The place of each Concat or Slice, the blob that is whole, one of its parts, and where this starts in it."""
    for index, step in enumerate(steps):
        layer = step.layer
        if type(layer) is not kind or layer.patched:
            continue
        (whole,), parts = (step.top, step.bottom) if kind is Concat else (step.bottom, step.top)
        if len(parts) < 2 or math.prod(whole.shape[: layer.along]) != 1:
            continue
        for part, start in zip(parts, layer.starts(parts), strict=True):
            if sum(part is other for other in parts) == 1:
                yield index, whole, part, start


def _can_lie_in(steps: Sequence[Step], index: int, whole: Blob, part: Blob) -> bool:
    """Whether the step at ``index`` alone makes one of the other, and nothing is changed in either afterwards."""
    makers = [step for step in steps[:index] if any(top is part for top in step.top)]
    later = [top for step in steps[index + 1 :] for top in step.top]
    if any(top is part or top is whole for top in later):
        return False
    if isinstance(steps[index].layer, Slice):
        return not makers
    return bool(makers) and bool(makers[0].bottom) and not any(step.layer.user_defined for step in makers)
