"""Which steps in a row pay if each image of a batch goes through all of them before the next image does.

What is between the layers then stays in a core's cache, but each image reads the weights again.  The estimate knows
shapes and the number of threads only: it finds the same ranges at every time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.kernels.cpu.conv.select import forward_cycles
from minicaffe.layers.convolution import Convolution, Deconvolution
from minicaffe.layers.shape import Concat, Slice

_NEAR = 2 << 20
"""Bytes that a layer may read and write for all images so that they still are near when the next layer reads them."""
_UNEVEN = 1.15
"""How many times as long the thread with the most images may take as if all had equally many."""
_FAR, _FAR_BEHIND_PRODUCTS, _COPIED = 0.13, 0.045, 0.1
"""Cycles to read or write a byte from beyond a core's cache: alone, while others are multiplied, and of a copy.

Roughly measured, like the others.
"""
_STEP = 5000
"""Cycles to begin a layer for one image more."""
_USES_THAT_HIDE = 64
"""So many multiplications with a weight take as long as to read it from beyond the cache."""


class Range(NamedTuple):
    """Steps ``first`` to ``last`` of a net, both included, and the blobs that they take and give, by number."""

    first: int
    last: int
    taken: list[int]
    given: list[int]


def find(steps: Sequence[Step], watched: Collection[int], threads: int) -> list[Range]:
    """The ranges of steps that pay on so many threads, of blobs as they are; each as long as it can be.

    Blobs in ``watched`` are given whether or not a later step reads them.
    """
    found, place = [], 0
    for images, row in groupby(steps, _images):
        count = len(list(row))
        if images >= max(threads, 2) and -(-images // threads) * threads <= _UNEVEN * images:
            best = _best(steps, place, place + count, watched, images)
            found += [best] if best else []
        place += count
    return found


def _images(step: Step) -> int:
    """How many images a step could take one by one; 0 if it could not."""
    layer = step.layer
    if not (layer.by_image and layer.can_be_captured(on_host=True)) or layer.user_defined or step.weighted:
        return 0
    counts = {blob.shape[0] if blob.shape and blob.count else 0 for blob in (*step.bottom, *step.top)}
    return counts.pop() if len(counts) == 1 else 0


def _best(steps: Sequence[Step], start: int, stop: int, watched: Collection[int], images: int) -> Range | None:
    """The range between two places that saves most, if that is more than it costs to copy its images to and fro."""
    most, first, last, total, since = 0.0, start, start, 0.0, start
    for index in range(start, stop):
        if total <= 0:
            total, since = 0.0, index
        total += _saved(steps[index], images)
        if total > most:
            most, first, last = total, since, index
    found = _between(steps, first, last, watched)
    blobs = _blobs(steps[first : last + 1])
    copied = _COPIED * sum(2 * _size(blobs[i]) / images for i in (*found.taken, *found.given))
    apart = len({id(blob.data_storage) for blob in blobs.values()}) == len(blobs)
    return found if most > copied and apart else None


def _between(steps: Sequence[Step], first: int, last: int, watched: Collection[int]) -> Range:
    """The steps between two places, with what they take and give; so they do what they overwrite."""
    taken, written = dict[int, None](), dict[int, None]()
    for step in steps[first : last + 1]:
        taken.update((i, None) for i in step.bottom_ids if i not in written)
        written.update((i, None) for i in step.top_ids)
    read_later = {i for step in steps[last + 1 :] for i in step.bottom_ids}
    given = [i for i in written if i in taken or i in read_later or i in watched]
    return Range(first, last, [*taken], given)


def _blobs(steps: Sequence[Step]) -> dict[int, Blob]:
    """The blobs of some steps, by number."""
    return {
        i: blob
        for step in steps
        for i, blob in zip((*step.bottom_ids, *step.top_ids), (*step.bottom, *step.top), strict=True)
    }


def _size(blob: Blob) -> float:
    """Bytes of a blob's value."""
    return float(blob.count * blob.dtype.itemsize)


def _saved(step: Step, images: int) -> float:
    """Cycles saved for each image by having a step's blobs near, less those it takes to read its weights again."""
    layer = step.layer
    if step.bottom_ids == step.top_ids:
        return 0.0  # it mostly runs as one with the layer before
    moved = sum(map(_size, _blobs([step]).values()))
    if isinstance(layer, (Concat, Slice)):
        return _FAR * moved / images - _STEP  # of one image, parts lie where they are put together (``engine.joined``)
    far = 0.0 if moved < _NEAR else moved / images
    if isinstance(layer, Convolution) and not isinstance(layer, Deconvolution):
        together, apart = _cycles(layer, layer.x_shape[0]), _cycles(layer, layer.x_shape[0] // images)
        if together > 0:  # an inner product has no estimate
            return _FAR_BEHIND_PRODUCTS * far + together / images - apart - _STEP
    weights = sum(map(_size, layer.blobs))
    uses = layer.products(step.bottom, step.top) / (2 * images * layer.blobs[0].count) if weights else 0.0
    return _FAR * (far - weights * max(0.0, 1 - uses / _USES_THAT_HIDE)) - _STEP


def _cycles(layer: Convolution, images: int) -> float:
    """An estimate for a convolution of so many images."""
    shapes = (images, *layer.x_shape[1:]), (images, *layer.y_shape[1:])
    return forward_cycles(*shapes, layer.moved, layer.group, layer.dtype)
