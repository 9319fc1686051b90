"""Lists of launches that are made again for each image of a batch, each worker's with memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from minicaffe.kernels.cpu.runtime.address import word
from minicaffe.kernels.cpu.runtime.capture import LaunchList, own
from minicaffe.kernels.cpu.runtime.compile import by_name, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, run_launches_alone
from minicaffe.kernels.cpu.simd.memory import copy_row
from minicaffe.kernels.reference import Array

_WORD = 8
_HEAD, _COPY = 4, 3
"""Words at the begin of a worker's row, and of each of its copies."""
_UNIT = np.dtype(np.float32).itemsize
"""Bytes of what copies are counted in."""


class Passage(Protocol):
    """An array of a batch, images along its first axis, and the places that one of them is copied to or from."""

    @property
    def batch(self) -> Array: ...
    @property
    def places(self) -> Sequence[Array]: ...


_run_alone = by_name(run_launches_alone)


@part_kernel()
def _image_part(part, parts, worker, table, row):
    like = np.float32(0)
    place = table.ctypes.data + worker * row * _WORD
    before = place + _HEAD * _WORD
    after = before + word(place + 2 * _WORD) * _COPY * _WORD
    end = after + word(place + 3 * _WORD) * _COPY * _WORD
    for at in range(before, after, _COPY * _WORD):
        image = word(at) + part * word(at + 2 * _WORD) * _UNIT
        copy_row(word(at + _WORD), image, word(at + 2 * _WORD), like)
    _run_alone(word(place), word(place + _WORD))
    for at in range(after, end, _COPY * _WORD):
        image = word(at) + part * word(at + 2 * _WORD) * _UNIT
        copy_row(image, word(at + _WORD), word(at + 2 * _WORD), like)


@kernel()
def _run_images(table, row, images, workers):
    parallel_queue(_image_part, images, workers, (table, row))


def run_images(lists: Sequence[LaunchList], images: int, taken: Sequence[Passage], given: Sequence[Passage]) -> None:
    """For each image of a batch: copy what is ``taken`` to a worker, make all launches of its list, and copy what is
    ``given`` back.  There is a list for each worker, which launches on one thread.
    """
    rows = [
        [*made.span, len(taken), len(given), *(number for each in (*taken, *given) for number in _copy(each, worker))]
        for worker, made in enumerate(lists)
    ]
    own(lists, taken, given)
    table = np.array(rows, np.intp)
    _run_images(table.reshape(-1), table.shape[1], images, len(rows))


def expect_images() -> None:
    """Note, where kernels are only noted, that ``run_images`` will be called; else nothing happens."""
    _run_images(np.zeros(_HEAD, np.intp), _HEAD, 0, 1)


def _copy(passage: Passage, worker: int) -> tuple[int, int, int]:
    place = passage.places[worker]
    return passage.batch.ctypes.data, place.ctypes.data, place.nbytes // _UNIT
