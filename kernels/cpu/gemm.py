"""The matrix product of two arrays: C = A B, or its transpose where that is cheaper."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from minicaffe.kernels.cpu.jit import kernel, parallel, share
from minicaffe.kernels.cpu.simd import CHUNK, WIDTH, align, copy_row, size_of, transpose
from minicaffe.kernels.cpu.tile import DEPTH, LONGEST_TILE, PANEL, multiplier, multiply, panel_depth, panel_vectors
from minicaffe.kernels.reference import Array


@kernel()
def _gemm_part(part, parts, code, a, a_row, a_step, b, transposed_b, c, transposed_c, shape, accumulate, panel_parts):
    m, n, k = shape
    like = c.dtype.type(0)
    size = size_of(like)
    b_row, c_row = b.shape[1] * size, c.shape[1] * size
    width = PANEL // size
    low, high = share(part // panel_parts, parts // panel_parts, m)
    first_panel, last_panel = share(part % panel_parts, panel_parts, -(-n // width))
    rows = high - low
    memory = np.zeros((DEPTH + LONGEST_TILE + (rows if transposed_c else 0)) * PANEL + 2 * CHUNK + 64, np.uint8)
    panel = align(memory.ctypes.data)
    scratch = panel + DEPTH * PANEL
    a_part = a.ctypes.data + low * a_row
    for p in range(first_panel, last_panel):
        first = p * width
        columns = min(width, n - first)
        vectors = panel_vectors(columns, WIDTH // size)
        if transposed_c:
            product, row = scratch + LONGEST_TILE * PANEL, vectors * WIDTH
        else:
            product, row = c.ctypes.data + low * c_row + first * size, c_row
        for r in range(0, k, panel_depth(vectors)):
            depth = min(panel_depth(vectors), k - r)
            if transposed_b:
                transpose(panel, vectors * WIDTH, b.ctypes.data + first * b_row + r * size, b_row, columns, depth, like)
            else:
                for i in range(depth):
                    copy_row(panel + i * vectors * WIDTH, b.ctypes.data + (r + i) * b_row + first * size, columns, like)
            more = accumulate or r > 0
            multiply(
                code,
                rows,
                columns,
                depth,
                a_part + r * a_step,
                a_row,
                a_step,
                panel,
                vectors,
                product,
                row,
                more,
                scratch,
            )
        if transposed_c:
            transpose(c.ctypes.data + first * c_row + low * size, c_row, product, row, rows, columns, like)
    memory[0] = 0  # Numba frees an array after its last use, and the loop uses only its address


@kernel()
def _gemm(code, a, a_row, a_step, b, transposed_b, c, transposed_c, shape, accumulate, row_parts, panel_parts):
    arguments = (code, a, a_row, a_step, b, transposed_b, c, transposed_c, shape, accumulate, panel_parts)
    parallel(_gemm_part, row_parts * panel_parts, arguments)


def _cost(m: int, n: int, k: int, transposed_b: bool, transposed_c: bool, lanes: int) -> float:
    """Roughly the cycles a product takes."""
    width = PANEL // WIDTH * lanes
    rest = n % width
    columns = n - rest + min(unit for unit in (0, lanes, 2 * lanes, width) if unit >= rest)
    return columns * k * (m / lanes / 2 + (0.5 if transposed_b else 0.1)) + (m * n if transposed_c else 0)


def _split(threads: int, rows: int, panels: int) -> tuple[int, int]:
    """Into how many parts to split rows and panels so that the threads finish soonest; rather panels than rows."""
    return min(
        ((threads // p, p) for p in range(min(threads, panels), 0, -1)),
        key=lambda s: -(-rows // s[0]) * -(-panels // s[1]),
    )


def gemm(
    a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
) -> None:
    """See ``reference.gemm``."""
    (m, n), k = out.shape, a.shape[0] if transpose_a else a.shape[1]
    if m * n * k == 0:
        if not accumulate:
            out[...] = 0
        return
    lanes = WIDTH // out.itemsize
    transposed = not accumulate and _cost(n, m, k, not transpose_a, True, lanes) < _cost(
        m, n, k, transpose_b, False, lanes
    )
    if transposed:  # out.T = b.T a.T
        a, b, m, n, transpose_a, transpose_b = b, a, n, m, not transpose_b, not transpose_a
    steps = (a.itemsize, a.shape[1] * a.itemsize) if transpose_a else (a.shape[1] * a.itemsize, a.itemsize)
    parts = _split(get_num_threads(), m, -(-n // (PANEL // out.itemsize)))
    _gemm(multiplier(out.dtype).address, a, *steps, b, transpose_b, out, transposed, (m, n, k), accumulate, *parts)
