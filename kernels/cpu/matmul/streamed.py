"""The product C = A B^T where B is read from main memory, as the weights of a large inner product are.

A, which has fewer rows, is packed into panels once, for all threads.  Then blocks of rows of B go by, each read once,
in pieces that are multiplied with all panels while they are near; what is needed next is prefetched meanwhile.  The
product of a block is the transpose of a part of C, and stays in the L2 cache until it is complete.

Each number is summed in the order of k, as by ``gemm``: results are equal to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minicaffe.kernels.cpu.matmul.microkernel import (
    KC,
    L2,
    MC,
    MR_MAX,
    PANEL,
    VECTORS,
    compiled_macro_kernel,
    macro_kernel,
    panel_vectors,
)
from minicaffe.kernels.cpu.matmul.panels import pack_rows, panel_of_rows
from minicaffe.kernels.cpu.runtime.address import LINE, align, size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, queue_length, share
from minicaffe.kernels.cpu.simd.memory import WIDTH, prefetch_rows, transpose
from minicaffe.kernels.reference import Array

_FAR = 8 * L2
"""Bytes of B that are not found near."""
_LEAST_DEPTH = 4 * KC
"""Of a product that takes longer to compute than to write."""
_SMALLER = 4
"""How many times as many rows as A B has at least: the panels of A are read again for each block of these."""
_NARROW_BLOCK = 8 * MR_MAX
"""Rows of a block of B for panels that are not full: a multiple of the rows of their tiles, as ``MC`` is of others'."""


class Streamed(NamedTuple):
    """How to compute products of some shape."""

    memory: int
    """Bytes of scratch memory."""
    run: Callable[[Array, Array, Array, Array], None]
    """Takes a, b, out and the scratch memory."""


@kernel(inline=True)
def _rows_at_a_time(vectors, k):
    """Rows of a panel that are multiplied at a time: KC of a full one, which so stay in the L1 cache.

    A narrow one takes as long as it takes to read B.  The processor is fastest at that along whole rows: such a panel
    is read from the L2 cache.
    """
    if vectors == VECTORS:
        return KC
    steps = -(-k * vectors * WIDTH // (2 * L2))
    return -(-k // steps)


@part_kernel()
def _multiply_part(part, parts, worker, code, b, u, c, block, memory, scratch_per_worker):
    like = c.dtype.type(0)
    size = size_of(like)
    (m, n), k = c.shape, b.shape[1]
    panels, b_row = -(-m // (PANEL // size)), k * size
    tile = align(memory + worker * scratch_per_worker)
    product = tile + MR_MAX * PANEL
    kc = _rows_at_a_time(panel_of_rows(u, 0, m, k, size)[2], k)
    low, high = share(part, parts, -(-n // block))
    for start in range(low * block, min(high * block, n), block):
        rows, rows_of_b = min(block, n - start), b.ctypes.data + start * b_row
        for r in range(0, k, kc):
            depth, next_r = min(kc, k - r), r + kc if r + kc < k else 0
            for p in range(panels):
                panel, _, vectors = panel_of_rows(u, p, m, k, size)
                row, result = vectors * WIDTH, product + p * block * PANEL
                next_panel, _, next_vectors = panel_of_rows(u, (p + 1) % panels, m, k, size)
                ahead = next_panel + (r if p + 1 < panels else next_r) * next_vectors * WIDTH
                first = p == 0 and vectors == VECTORS  # along whole rows the processor reads ahead itself
                if first and next_r > 0:
                    prefetch_rows(rows_of_b + next_r * size, b_row, min(MR_MAX, rows), min(kc, k - next_r) * size)
                macro_kernel(
                    code, rows, row // size, depth, rows_of_b + r * size, b_row, size, panel + r * row, row, vectors,
                    result if r > 0 else 0, row, result, row, tile, 0, 1 if first else 0,
                    ahead, kc * next_vectors * WIDTH, 0, 0,
                )  # fmt: skip
        for p in range(panels):
            _, columns, vectors = panel_of_rows(u, p, m, k, size)
            target = c.ctypes.data + (p * (PANEL // size) * n + start) * size
            transpose(target, n * size, product + p * block * PANEL, vectors * WIDTH, rows, columns, like)


@kernel()
def _multiply(code, block, parts, threads, packed, scratch_per_worker, a, b, c, memory):
    u = align(memory.ctypes.data)
    parallel(pack_rows, threads, (a.ctypes.data, 1, *a.shape, u, a.dtype.type(0)))
    parallel_queue(_multiply_part, parts, threads, (code, b, u, c, block, u + packed, scratch_per_worker))


def streamed(m: int, n: int, k: int, dtype: np.dtype, threads: int) -> Streamed | None:
    """How to compute C (m, n) = A (m, k) times the transpose of B (n, k); None where ``gemm`` has a faster way."""
    size = dtype.itemsize
    width, lanes = PANEL // size, WIDTH // size
    block = MC if panel_vectors.py_func(min(m, width), lanes) == VECTORS else _NARROW_BLOCK
    if n * k * size < _FAR or k < _LEAST_DEPTH or n < max(_SMALLER * m, threads * block):
        return None
    panels = -(-m // width)
    packed = panels * k * PANEL
    scratch_per_worker = (MR_MAX + panels * block) * PANEL + LINE
    run = functools.partial(
        _multiply,
        compiled_macro_kernel(dtype).address,
        block,
        queue_length(threads),
        threads,
        packed,
        scratch_per_worker,
    )
    return Streamed(packed + threads * scratch_per_worker + LINE, run)
