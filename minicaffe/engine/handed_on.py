"""Gradients that a layer only hands on, in the memory of those that they come from: no copies for ResNet's shortcuts.

A sum's gradient is that of each of its bottoms.  Where such a bottom is a Split's top that no layer works on in place,
nothing writes over its gradient later in the pass, so the two can be one memory.  They are two again before a pass in
which they may part: one that goes through readers of the sum's top, but not through the sum.  An output of the net is
let alone: callers write its gradient between passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.engine.assembly import Step
from minicaffe.layers.shape import Split
from minicaffe.storage import Storage


class HandedOn:
    """The gradient of bottom ``index`` of the step at ``place``, the last one being at ``last``."""

    def __init__(self, step: Step, place: int, index: int, last: int) -> None:
        self.step, self.place, self.index, self.last = step, place, index, last
        self._blob, self._source = step.bottom[index], step.top[0]
        self._common: Storage | None = None
        """The memory that both were given; callers may have given either other memory since."""

    @property
    def wanted(self) -> bool:
        """Whether the step hands it on when it goes backward."""
        return self.step.need_backward and self.step.propagate_down[self.index]

    def before_backward(self, start: int, end: int) -> None:
        """The steps ``start`` down to ``end`` are about to go backward: one memory for a pass that begins at the end of
        the net, for it makes both anew; two for one that would change the source's contents only.
        """
        if start < self.place:
            return
        runs = end <= self.place and self.wanted
        if not runs or self._source.diff_storage is not self._common:
            self.unshare()
        if runs and start == self.last:
            self.share()

    def share(self, contents_matter: bool = False) -> None:
        """Make them one memory, if none of the blob's own that others share would be given up for it, nor contents that
        matter.
        """
        blob, source = self._blob, self._source
        touched = contents_matter and (blob.diff_storage.touched or source.diff_storage.touched)
        if not (touched or blob.diff_storage.shared or blob.count != source.count):
            blob.share_diff(source)
            self._common = source.diff_storage

    def unshare(self) -> None:
        """Make them two, with the same contents."""
        if self._blob.diff_storage is self._common:
            self._blob.unshare_diff()
        self._common = None


def find_handed_on(steps: Sequence[Step]) -> list[HandedOn]:
    """Those of a net's gradients that can be one memory with another."""
    makers: dict[int, list[Step]] = {}
    for step in steps:
        for i in step.top_ids:
            makers.setdefault(i, []).append(step)
    read = {i for step in steps for i in step.bottom_ids if i not in step.top_ids}
    return [
        HandedOn(step, place, index, len(steps) - 1)
        for place, step in enumerate(steps)
        if step.need_backward and read.issuperset(step.top_ids) and not step.weighted  # ``reshape`` fills these
        for index, i in enumerate(step.bottom_ids)
        if [type(maker.layer) for maker in makers[i]] == [Split]
        and step.propagate_down[index]
        and step.layer.hands_on_gradient(index)
    ]
