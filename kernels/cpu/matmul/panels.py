"""Rows of matrices packed into panels (see ``microkernel``), with registers that run along a column of the matrix."""

from __future__ import annotations

from minicaffe.kernels.cpu.matmul.microkernel import KC, PANEL, panel_vectors
from minicaffe.kernels.cpu.runtime.address import size_of
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import share
from minicaffe.kernels.cpu.simd.memory import WIDTH, fill_row, transpose


@kernel(inline=True)
def panel_of_rows(u, p, m, k, size):
    """Of the panels at an address of m rows of k elements each: where number p is, its columns, one for each row, and
    the registers that hold them.
    """
    width = PANEL // size
    columns = min(width, m - p * width)
    return u + p * k * PANEL, columns, panel_vectors(columns, WIDTH // size)


@part_kernel()
def pack_rows(part, parts, matrices, count, m, k, u, like):
    """Pack ``count`` matrices (m, k) that follow one another: at u are (count, panels) of k rows, with zeros beyond the
    last of m; both are addresses.
    """
    size = size_of(like)
    width = PANEL // size
    panels, pieces = -(-m // width), -(-k // KC)  # so that a panel can be packed by several threads
    low, high = share(part, parts, count * panels * pieces)
    for item in range(low, high):
        matrix, p, first = item // (panels * pieces), item // pieces % panels, item % pieces * KC
        depth = min(KC, k - first)
        panel, columns, vectors = panel_of_rows(u + matrix * panels * k * PANEL, p, m, k, size)
        row = vectors * WIDTH
        target = panel + first * row
        fill_row(target, like, depth * row // size)
        transpose(target, row, matrices + ((matrix * m + p * width) * k + first) * size, k * size, columns, depth, like)
