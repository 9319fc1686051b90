"""The axes of an array in another order, copied as rows or as transposed blocks of two axes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicaffe.kernels.cpu.runtime.address import size_of
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.memory import copy_row, transpose
from minicaffe.kernels.reference import Array

_PIECE = 64
"""Rows of a block that are moved at a time."""


class _Axis(NamedTuple):
    """An axis of y."""

    length: int
    x_step: int
    """Elements of x, and of y, from one index to the next."""
    y_step: int


class _Blocks(NamedTuple):
    """What to move: blocks of two axes, all alike."""

    starts: Array
    """Where each begins, (blocks, 2): in x and in y, in elements."""
    rows: _Axis
    columns: int
    """Neighbours in x; those in y lie ``column_step`` elements apart."""
    column_step: int


@functools.lru_cache(maxsize=1024)
def _blocks(shape: tuple[int, ...], axes: tuple[int, ...]) -> _Blocks:
    """How to move an array of this shape, which is not empty."""
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.intp)) for axis in range(len(shape))]
    merged: list[_Axis] = []
    for axis in reversed(axes):  # axes that follow one another in both are one
        length, y_step = shape[axis], merged[-1].length * merged[-1].y_step if merged else 1
        if length == 1:
            continue
        if merged and steps[axis] == merged[-1].length * merged[-1].x_step:
            merged[-1] = merged[-1]._replace(length=length * merged[-1].length)
        else:
            merged.append(_Axis(length, steps[axis], y_step))
    merged = merged or [_Axis(1, 1, 1)]
    columns = next(axis for axis in merged if axis.x_step == 1)
    others = [axis for axis in merged if axis is not columns]
    rows = others[0] if others else _Axis(1, 0, 0)
    starts = np.zeros((1, 2), np.intp)
    for axis in others[1:]:
        further = np.arange(axis.length)[:, None] * np.array([axis.x_step, axis.y_step], np.intp)
        starts = (further[:, None] + starts).reshape(-1, 2)
    return _Blocks(starts, rows, columns.length, columns.y_step)


@part_kernel()
def _permute_part(part, parts, x, y, starts, rows, x_row, y_row, columns, column_step):
    like = x.dtype.type(0)
    size = size_of(like)
    pieces = -(-columns // _PIECE) if column_step > 1 else -(-rows // _PIECE)
    low, high = share(part, parts, len(starts) * pieces)
    for item in range(low, high):
        block, first = item // pieces, item % pieces * _PIECE
        source, target = x.ctypes.data + starts[block, 0] * size, y.ctypes.data + starts[block, 1] * size
        if column_step > 1:
            transpose(
                target + first * column_step * size, column_step * size, source + first * size, x_row * size,
                rows, min(_PIECE, columns - first), like,
            )  # fmt: skip
        else:
            for row in range(first, min(first + _PIECE, rows)):
                copy_row(target + row * y_row * size, source + row * x_row * size, columns, like)


@kernel()
def _permute(starts, rows, x_row, y_row, columns, column_step, parts, x, y):
    parallel(_permute_part, parts, (x, y, starts, rows, x_row, y_row, columns, column_step))


@capturable
def permute(x: Array, axes: Sequence[int], y: Array) -> None:
    """See ``reference.permute``."""
    if x.size:
        blocks = _blocks(x.shape, tuple(axes))
        _permute(
            blocks.starts, *blocks.rows, blocks.columns, blocks.column_step, parts(x.size), x.reshape(-1), y.reshape(-1)
        )
