"""The matrix product of two arrays."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from minicaffe.kernels.cpu.jit import kernel, share
from minicaffe.kernels.cpu.tile import (
    CHUNK,
    DEPTH,
    LONGEST_TILE,
    PANEL,
    WIDTH,
    align,
    copy_row,
    multiplier,
    multiply,
    panel_depth,
    panel_vectors,
    size_of,
    transpose,
)
from minicaffe.kernels.reference import Array


@kernel()
def _product(code, a, a_row, a_step, rows, b, b_row, transposed_b, first, columns, k, c, c_row, accumulate, panel, scratch, like):
    """Columns [first, first + columns) of C (rows, ...) = A B, at most a panel's worth; B is stored (k, n), or (n, k)."""
    size = size_of(like)
    vectors = panel_vectors(columns, WIDTH // size)
    for low in range(0, k, panel_depth(vectors)):
        depth = min(panel_depth(vectors), k - low)
        if transposed_b:
            transpose(panel, vectors * WIDTH, b + first * b_row + low * size, b_row, columns, depth, like)
        else:
            for i in range(depth):
                copy_row(panel + i * vectors * WIDTH, b + (low + i) * b_row + first * size, columns, like)
        multiply(code, rows, columns, depth, a + low * a_step, a_row, a_step, panel, vectors, c, c_row, accumulate or low > 0, scratch)


@kernel(parallel=True)
def _gemm(code, a, a_row, a_step, b, transposed_b, c, transposed_c, shape, accumulate, row_parts, panel_parts):
    m, n, k = shape
    like = c.dtype.type(0)
    size = size_of(like)
    b_row, c_row = b.shape[1] * size, c.shape[1] * size
    width = PANEL // size
    for t in prange(row_parts * panel_parts):
        row_part, panel_part = divmod(np.intp(t), panel_parts)
        low, high = share(row_part, row_parts, m)
        first_panel, last_panel = share(panel_part, panel_parts, -(-n // width))
        rows = high - low
        memory = np.zeros((DEPTH + LONGEST_TILE + (rows if transposed_c else 0)) * PANEL + 2 * CHUNK + 64, np.uint8)
        panel = align(memory.ctypes.data)
        scratch = panel + DEPTH * PANEL
        part = scratch + LONGEST_TILE * PANEL
        for p in range(first_panel, last_panel):
            first = p * width
            columns = min(width, n - first)
            if transposed_c:
                row = panel_vectors(columns, WIDTH // size) * WIDTH
            else:
                part, row = c.ctypes.data + low * c_row + first * size, c_row
            x = a.ctypes.data + low * a_row
            _product(
                code, x, a_row, a_step, rows, b.ctypes.data, b_row, transposed_b, first, columns, k, part, row, accumulate, panel, scratch, like
            )
            if transposed_c:
                transpose(c.ctypes.data + first * c_row + low * size, c_row, part, row, rows, columns, like)


def _cost(m: int, n: int, k: int, transposed_b: bool, transposed_c: bool, lanes: int) -> float:
    """Roughly the cycles a product takes."""
    width = PANEL // WIDTH * lanes
    rest = n % width
    columns = n - rest + min(unit for unit in (0, lanes, 2 * lanes, width) if unit >= rest)
    return columns * k * (m / lanes / 2 + (0.5 if transposed_b else 0.1)) + (m * n if transposed_c else 0)


def _split(threads: int, rows: int, panels: int) -> tuple[int, int]:
    """Into how many parts to split rows and panels so that the threads finish soonest; rather panels than rows."""
    return min(
        ((threads // p, p) for p in range(min(threads, panels), 0, -1)), key=lambda s: -(-rows // s[0]) * -(-panels // s[1])
    )


def gemm(a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False) -> None:
    """See ``reference.gemm``."""
    (m, n), k = out.shape, a.shape[0] if transpose_a else a.shape[1]
    if m * n * k == 0:
        if not accumulate:
            out[...] = 0
        return
    lanes = WIDTH // out.itemsize
    transposed = not accumulate and _cost(n, m, k, not transpose_a, True, lanes) < _cost(m, n, k, transpose_b, False, lanes)
    if transposed:  # out.T = b.T a.T
        a, b, m, n, transpose_a, transpose_b = b, a, n, m, not transpose_b, not transpose_a
    steps = (a.itemsize, a.shape[1] * a.itemsize) if transpose_a else (a.shape[1] * a.itemsize, a.itemsize)
    parts = _split(get_num_threads(), m, -(-n // (PANEL // out.itemsize)))
    _gemm(multiplier(out.dtype).address, a, *steps, b, transpose_b, out, transposed, (m, n, k), accumulate, *parts)
