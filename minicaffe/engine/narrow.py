"""Blobs that a GPU keeps in 16 bits, in mixed precision: half the memory, and half the bytes that kernels move.

Both sides of a blob are, value and gradient, where every layer that makes or reads it ``takes_halves``.  Params, inputs
and outputs of the net, losses, and the blobs of all other layers stay float32, and so does all that kernels compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.kernels.halves import FORMATS
from minicaffe.storage import Storage


def keep(steps: Sequence[Step], precision: str) -> None:
    """Keep the blobs between these steps in 16 bits, or in float32 again, as ``precision`` says; their numbers stay.

    Layers that must reshape for it will.  Memory that several blobs share is kept as all of them can be; where blobs of
    others lie in it, too, in float32.
    """
    halves = FORMATS.get(precision)
    blobs = {id(blob): blob for step in steps for blob in _blobs(step)}.values()
    own = Counter(id(storage) for blob in blobs for storage in _memory(blob))
    wide = {id(storage) for blob in _wide_blobs(steps) for storage in _memory(blob)}
    for step in steps:
        memory = [storage for blob in _blobs(step) for storage in _memory(blob)]
        shared = [id(storage) in wide or storage.users > own[id(storage)] for storage in memory]
        anew = [storage.keep_in(None if others else halves) for storage, others in zip(memory, shared, strict=True)]
        if any(anew):
            step.layer.changed()


def _wide_blobs(steps: Sequence[Step]) -> Iterator[Blob]:
    """Those that some layer only takes as float32, those with a loss weight, and those that nothing reads."""
    read: set[int] = set()
    for step in reversed(steps):
        layer = step.layer
        if layer.patched or not layer.takes_halves:
            yield from _blobs(step)
        yield from step.weighted
        yield from (blob for i, blob in zip(step.top_ids, step.top, strict=True) if i not in read)
        read.update(step.bottom_ids)


def _blobs(step: Step) -> list[Blob]:
    return [*step.bottom, *step.top, *(copy for _, copy in step.kept)]


def _memory(blob: Blob) -> tuple[Storage, Storage]:
    return blob.data_storage, blob.diff_storage
