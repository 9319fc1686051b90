"""Lists of launches that are made again for each image of a batch, each worker's with memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicaffe.kernels.cpu.runtime.address import store, word
from minicaffe.kernels.cpu.runtime.capture import LaunchList, own
from minicaffe.kernels.cpu.runtime.compile import by_name, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, run_launches_alone
from minicaffe.kernels.cpu.simd.memory import copy_row
from minicaffe.kernels.reference import Array

_WORD = 8
_HEAD = 5 * _WORD
"""Bytes at the begin of a worker's row: where its launches begin and end, how many addresses are to be set, and how
many copies there are before and behind."""
_ADDRESS, _COPY = 3 * _WORD, 4 * _WORD
"""Bytes of each of them: place, what it is for the first image, and how much more for each other one; of a copy the
worker's array, the batch's, the bytes from image to image, and how many numbers there are."""
_UNIT = np.dtype(np.float32).itemsize
"""Bytes of what copies are counted in."""


class Passage(NamedTuple):
    """An array of a batch, images along its first axis, and where each worker has one image of it, to copy."""

    batch: Array
    places: Sequence[Array]


class Pointed(NamedTuple):
    """An array of a batch, images along its first axis, and for each worker the words of its launches that hold
    addresses within an image, with the bytes from the begin of the image.
    """

    batch: Array
    words: Sequence[Sequence[tuple[int, int]]]


def find_pointers(one: LaunchList, other: LaunchList, place: Array, elsewhere: Array) -> list[tuple[int, int]] | None:
    """The words of a list's launches that hold addresses within ``place``, and the bytes from its begin; ``other`` is
    the same list for the same array ``elsewhere``.  None if other words are as far apart, or these are not.
    """
    first, second = one.words, other.words
    if first.size != second.size:
        return None
    start, distance = place.ctypes.data, elsewhere.ctypes.data - place.ctypes.data
    moved = second - first == distance
    inside = (first >= start) & (first <= start + place.nbytes)
    if np.any(inside != moved):
        return None
    return [(one.span[0] + _WORD * int(k), int(first[k]) - start) for k in np.flatnonzero(moved)]


_run_alone = by_name(run_launches_alone)


@part_kernel()
def _image_part(part, parts, worker, table, row):
    like = np.float32(0)
    place = table.ctypes.data + worker * row
    addresses = place + _HEAD
    before = addresses + word(place + 2 * _WORD) * _ADDRESS
    after = before + word(place + 3 * _WORD) * _COPY
    for at in range(addresses, before, _ADDRESS):
        store(word(at), word(at + _WORD) + part * word(at + 2 * _WORD))
    for at in range(before, after, _COPY):
        copy_row(word(at), word(at + _WORD) + part * word(at + 2 * _WORD), word(at + 3 * _WORD), like)
    _run_alone(word(place), word(place + _WORD))
    for at in range(after, after + word(place + 4 * _WORD) * _COPY, _COPY):
        copy_row(word(at + _WORD) + part * word(at + 2 * _WORD), word(at), word(at + 3 * _WORD), like)


@kernel()
def _run_images(table, row, images, workers):
    parallel_queue(_image_part, images, workers, (table, row))


def run_images(
    lists: Sequence[LaunchList],
    images: int,
    pointed: Sequence[Pointed],
    taken: Sequence[Passage],
    given: Sequence[Passage],
) -> None:
    """For each image of a batch: make all launches of a worker's list, which reads and writes the image where it is if
    that is ``pointed``, or else is ``taken`` to the worker before, or ``given`` back behind.

    There is a list for each worker, which launches on one thread.
    """
    rows = [_row(worker, made, pointed, taken, given) for worker, made in enumerate(lists)]
    table = np.zeros((len(rows), max(map(len, rows))), np.intp)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = numbers
    own(lists, pointed, taken, given)
    _run_images(table.reshape(-1), table.shape[1] * _WORD, images, len(rows))


def expect_images() -> None:
    """Note, where kernels are only noted, that ``run_images`` will be called; else nothing happens."""
    _run_images(np.zeros(_HEAD // _WORD, np.intp), _HEAD, 0, 1)


def _row(
    worker: int,
    made: LaunchList,
    pointed: Sequence[Pointed],
    taken: Sequence[Passage],
    given: Sequence[Passage],
) -> list[int]:
    """A worker's row of the table."""
    addresses = [
        (place, each.batch.ctypes.data + offset, each.batch.strides[0])
        for each in pointed
        for place, offset in each.words[worker]
    ]
    copies = [
        (each.places[worker].ctypes.data, each.batch.ctypes.data, each.batch.strides[0], _units(each.places[worker]))
        for each in (*taken, *given)
    ]
    numbers = [number for entry in (*addresses, *copies) for number in entry]
    return [*made.span, len(addresses), len(taken), len(given), *numbers]


def _units(array: Array) -> int:
    return array.nbytes // _UNIT
