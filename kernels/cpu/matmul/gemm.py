"""The matrix product of two arrays: C = A B, or its transpose where that is cheaper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minicaffe.kernels.cpu.matmul import gemv
from minicaffe.kernels.cpu.matmul.microkernel import (
    KC,
    MC,
    MR_MAX,
    PANEL,
    VECTORS,
    compiled_macro_kernel,
    macro_kernel,
    panel_kc,
    panel_vectors,
)
from minicaffe.kernels.cpu.matmul.streamed import streamed
from minicaffe.kernels.cpu.runtime.address import align, size_of
from minicaffe.kernels.cpu.runtime.capture import capturable, not_capturable
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, queue_length, share
from minicaffe.kernels.cpu.runtime.scratch import scratch
from minicaffe.kernels.cpu.runtime.threads import product_threads, thread_count
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH, copy_row, transpose
from minicaffe.kernels.reference import Array

_TOGETHER = 8  # full panels that are packed at a time, at most
_FEW = 64  # rows of A: with so few, reading B takes most of the time


@kernel(inline=True)
def _together(rows, panels, k, transposed_c):
    """How many panels to pack at a time, and MC: how many rows of A to multiply them with before the next rows.

    With few rows, reading B takes most of the time; with a small k, writing C does.  Both are fastest along long pieces
    of a row.
    """
    if not transposed_c and rows <= _FEW:
        return _TOGETHER, rows
    if not transposed_c and k <= KC and panels >= _TOGETHER:
        return _TOGETHER * KC // k, MC
    return 1, rows


@part_kernel()
def _gemm_part(
    part,
    parts,
    worker,
    code,
    a,
    a_row,
    a_step,
    b,
    transposed_b,
    c,
    transposed_c,
    shape,
    accumulate,
    panel_parts,
    memory,
    scratch_per_worker,
):
    m, n, k = shape
    like = c.dtype.type(0)
    size = size_of(like)
    b_row, c_row = b.shape[1] * size, c.shape[1] * size
    width = PANEL // size
    low, high = share(part // panel_parts, parts // panel_parts, m)
    first_panel, last_panel = share(part % panel_parts, panel_parts, -(-n // width))
    rows = high - low
    together, rows_together = _together(rows, last_panel - first_panel, k, transposed_c)
    panels, panel_size = align(memory + worker * scratch_per_worker), min(k, KC) * PANEL
    tile = panels + together * panel_size
    a_part, b_part = a.ctypes.data + low * a_row, b.ctypes.data
    for first_p in range(first_panel, last_panel, together):
        last_p = min(first_p + together, last_panel)
        vectors = panel_vectors(min(width, n - first_p * width), WIDTH // size) if last_p - first_p == 1 else VECTORS
        for r in range(0, k, panel_kc(vectors)):
            depth = min(panel_kc(vectors), k - r)
            if transposed_b:
                for p in range(first_p, last_p):
                    panel, source = panels + (p - first_p) * panel_size, b_part + p * width * b_row + r * size
                    transpose(panel, vectors * WIDTH, source, b_row, min(width, n - p * width), depth, like)
            else:
                for i in range(depth):
                    for p in range(first_p, last_p):
                        panel, source = panels + (p - first_p) * panel_size, b_part + (r + i) * b_row + p * PANEL
                        copy_row(panel + i * vectors * WIDTH, source, min(width, n - p * width), like)
            for first_row in range(0, rows, rows_together):
                for p in range(first_p, last_p):
                    if transposed_c:
                        product, row = tile + MR_MAX * PANEL, vectors * WIDTH
                    else:
                        product, row = c.ctypes.data + (low + first_row) * c_row + p * PANEL, c_row
                    macro_kernel(
                        code, min(rows_together, rows - first_row), min(width, n - p * width), depth,
                        a_part + first_row * a_row + r * a_step, a_row, a_step, panels + (p - first_p) * panel_size,
                        vectors * WIDTH, vectors, product if accumulate or r > 0 else 0, row, product, row, tile,
                        0, 0, 0, 0, 0, 0,
                    )  # fmt: skip
        if transposed_c:
            target, columns = c.ctypes.data + first_p * width * c_row + low * size, min(width, n - first_p * width)
            transpose(target, c_row, tile + MR_MAX * PANEL, vectors * WIDTH, rows, columns, like)


@kernel()
def _gemm(
    code,
    transposed_a,
    transposed_b,
    transposed_c,
    accumulate,
    row_parts,
    panel_parts,
    scratch_per_worker,
    threads,
    a,
    b,
    c,
    memory,
):
    size, row = a.itemsize, a.shape[1] * a.itemsize
    m, k = a.shape[::-1] if transposed_a else a.shape
    a_row, a_step = (size, row) if transposed_a else (row, size)
    shape, place = (m, b.shape[0] if transposed_b else b.shape[1], k), memory.ctypes.data
    arguments = (
        code,
        a,
        a_row,
        a_step,
        b,
        transposed_b != 0,
        c,
        transposed_c != 0,
        shape,
        accumulate != 0,
        panel_parts,
        place,
        scratch_per_worker,
    )
    parallel_queue(_gemm_part, row_parts * panel_parts, threads, arguments)


def _cost(m: int, n: int, k: int, transposed_b: bool, transposed_c: bool, lanes: int) -> float:
    """A rough estimate of the cycles that a product takes."""
    width = PANEL // WIDTH * lanes
    rest = n % width
    columns = n - rest + min(unit for unit in (0, lanes, 2 * lanes, width) if unit >= rest)
    return columns * k * (m / lanes / 2 + (0.5 if transposed_b else 0.1)) + (m * n if transposed_c else 0)


def _split(threads: int, rows: int, panels: int, k: int, transposed: bool) -> tuple[int, int]:
    """Into how many parts to split the rows of A and the panels of B.

    Panels rather than rows, since every part of the rows packs all panels anew; but not with many rows and a small k,
    where writing C takes most of the time and is fastest in whole rows.
    """
    if threads > 1 and not transposed and 2 * k <= KC and rows >= MC * queue_length(threads):
        return queue_length(threads), 1
    panel_parts = min(panels, queue_length(threads))
    return -(-threads // panel_parts) if panel_parts < threads and rows >= MR_MAX * threads else 1, panel_parts


class _Config(NamedTuple):
    """How to compute a product of some shape."""

    transposed: bool
    """Whether to compute ``out.T = b.T a.T`` instead."""
    memory: int
    """Bytes of scratch memory."""
    run: Callable[..., None]
    """Takes a and b (b and a if ``transposed``), out and the scratch memory."""


def _few_rows(parts: int, threads: int, a: Array, b: Array, out: Array, memory: Array) -> None:
    gemv.few_rows(parts, threads, a, b, out)


@functools.lru_cache(maxsize=1024)
def _config(
    a_shape: tuple[int, int],
    out_shape: tuple[int, int],
    transpose_a: bool,
    transpose_b: bool,
    accumulate: bool,
    dtype: np.dtype,
    threads: int,
) -> _Config | None:
    """None if there is nothing to multiply."""
    (m, n), k = out_shape, a_shape[0 if transpose_a else 1]
    if m * n * k == 0:
        return None
    threads = product_threads(m * n * k, threads)
    if m <= gemv.MOST_ROWS and transpose_b and not (transpose_a or accumulate):
        return _Config(False, 0, functools.partial(_few_rows, queue_length(threads), threads))
    if transpose_b and not (transpose_a or accumulate) and (found := streamed(m, n, k, dtype, threads)):
        return _Config(False, *found)
    lanes = WIDTH // dtype.itemsize
    # not if the elements of B, which would then be read one at a time, are far apart
    transposed = (
        transpose_b
        and not accumulate
        and _cost(n, m, k, not transpose_a, True, lanes) < _cost(m, n, k, True, False, lanes)
    )
    if transposed:  # out.T = b.T a.T
        m, n, transpose_a, transpose_b = n, m, False, not transpose_a
    row_parts, panel_parts = _split(threads, m, -(-n // (PANEL // dtype.itemsize)), k, transposed)
    # the panels, a tile, and the product where it has to be transposed
    rows = _TOGETHER * KC + MR_MAX + (-(-m // row_parts) if transposed else 0)
    scratch_per_worker = rows * PANEL + 2 * CHUNK + 64
    forms = map(int, (transpose_a, transpose_b, transposed, accumulate))  # passed in less time than booleans
    run = functools.partial(
        _gemm, compiled_macro_kernel(dtype).address, *forms, row_parts, panel_parts, scratch_per_worker, threads
    )
    return _Config(transposed, threads * scratch_per_worker, run)


@capturable
def gemm(
    a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
) -> None:
    """See ``reference.gemm``."""
    config = _config(a.shape, out.shape, transpose_a, transpose_b, accumulate, out.dtype, thread_count())
    if config is None:
        if not accumulate:
            not_capturable()
            out[...] = 0
        return
    if config.transposed:
        a, b = b, a
    config.run(a, b, out, scratch(config.memory))
