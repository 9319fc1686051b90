"""The compiled code of ``filter_panels``: packing the filters, and what a thread does for a part of the work."""

from __future__ import annotations

from minicaffe.kernels.cpu.conv.packing import gather, pad_image
from minicaffe.kernels.cpu.conv.tables import is_padded, unpack
from minicaffe.kernels.cpu.matmul.microkernel import KC, MR_MAX, PANEL, macro_kernel, panel_kc, panel_vectors
from minicaffe.kernels.cpu.runtime.address import LINE, align, size_of, store
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH, copy_row, copy_rows, fill_row, transpose
from minicaffe.kernels.cpu.simd.rectify import add_rows

GATHERED_ROW = PANEL | LINE
"""Bytes from a row of a gathered panel to the next: an odd number of cache lines, so that the lines with the numbers of
neighbouring positions are in different sets of the cache.
"""


@part_kernel()
def _pack_part(part, parts, w, u, like):
    """w (group, m, depth) -> u (group, panel, depth, columns of a panel), at an address."""
    group, m, depth = w.shape
    size = size_of(like)
    width = PANEL // size
    panels = -(-m // width)
    low, high = share(part, parts, group * panels)
    for item in range(low, high):
        g, p = item // panels, item % panels
        columns = min(width, m - p * width)
        row = panel_vectors(columns, WIDTH // size) * WIDTH
        target = u + (g * panels + p) * depth * PANEL
        fill_row(target, like, depth * row // size)
        transpose(target, row, w.ctypes.data + (g * m + p * width) * depth * size, depth * size, columns, depth, like)


@kernel()
def pack(w, u, parts):
    parallel(_pack_part, parts, (w, u.ctypes.data, w.dtype.type(0)))


@part_kernel()
def _convolve_part(
    part,
    parts,
    worker,
    filter_parts,
    together,
    rows_together,
    codes,
    x,
    u,
    bias,
    y,
    slope,
    base,
    scratch_per_worker,
    like,
    tables,
):
    """Convolve: ``filter_parts`` parts of the panels of filters for each part of the positions.

    The positions of an image come in pieces of ``rows_together``, of which ``together`` are multiplied with all panels
    before the next: if they have to be gathered, no more than stay in the L2 cache.
    """
    code, adding = codes
    rectified_at_once = adding == 0 and slope != 1
    layout, in_place, channel, _, taps, offsets, runs_of, runs = tables
    size = size_of(like)
    n, group, c, pixels = x.shape
    m, depth, positions = y.shape[2], taps.size, offsets.size
    width = PANEL // size
    panels, pieces = -(-m // width), -(-positions // rows_together)
    unbroken = depth == c and offsets[positions - 1] == (positions - 1) * size
    blocks = -(-pieces // together)
    slope_at = align(base + worker * scratch_per_worker)
    start = slope_at + LINE
    scratch = start + PANEL
    product = scratch + MR_MAX * PANEL
    transposed = product + rows_together * PANEL
    gathered = transposed + (0 if adding == 0 else width * rows_together * size)
    padded = align(gathered + (0 if unbroken else min(together, pieces) * depth * GATHERED_ROW) + CHUNK)
    store(slope_at, slope)
    if is_padded(layout):
        fill_row(padded, like, c * channel)
    low_p, high_p = share(part % filter_parts, filter_parts, panels)
    low, high = share(part // filter_parts, parts // filter_parts, n * group * blocks)
    for item in range(low, high):
        image, block = item // blocks, item % blocks
        g, first_piece = image % group, block * together
        last_piece = min(first_piece + together, pieces)
        a, a_step = x.ctypes.data + image * c * pixels * size, channel * size
        if not (in_place and unbroken):
            if item == low or block == 0:
                pad_image(a, padded, c, layout, like)
            a = padded
        if not unbroken:
            for piece in range(first_piece, last_piece):
                to = gathered + (piece - first_piece) * depth * GATHERED_ROW
                for k in range(0, depth, KC):  # rows that stay in the L1 cache until they are complete
                    ks = taps[k : min(k + KC, depth)]
                    gather(
                        to + k * GATHERED_ROW, GATHERED_ROW, padded, ks, runs[runs_of[piece] : runs_of[piece + 1]], like
                    )
            a_step = GATHERED_ROW
        for p in range(low_p, high_p):
            columns = min(width, m - p * width)
            vectors = panel_vectors(columns, WIDTH // size)
            row, kc = vectors * WIDTH, panel_kc(vectors)
            panel = u + (g * panels + p) * depth * PANEL
            fill_row(start, like, width)
            copy_row(start, bias.ctypes.data + (g * m + p * width) * size, columns, like)
            for piece in range(first_piece, last_piece):
                first = piece * rows_together
                rows = min(rows_together, positions - first)
                a_piece = a + first * size if unbroken else gathered + (piece - first_piece) * depth * GATHERED_ROW
                copy_rows(product, row, start, 0, rows, row // size, like)
                for k in range(0, depth, kc):
                    ks, following = min(kc, depth - k), panel + (k + kc) * row
                    left = min(kc, depth - k - kc)
                    if left <= 0:
                        following, left = panel + depth * PANEL, min(kc, depth) if p + 1 < high_p else 0
                    macro_kernel(
                        code, rows, row // size, ks, a_piece + k * a_step, size, a_step, panel + k * row, vectors,
                        product, row, product, row, scratch, slope_at if rectified_at_once and k + kc >= depth else 0, 0,
                        following if piece == first_piece else 0, left * row,
                    )  # fmt: skip
                target = y.ctypes.data + ((image * m + p * width) * positions + first) * size
                if adding == 0:
                    transpose(target, positions * size, product, row, rows, columns, like)
                else:
                    line = rows_together * size
                    transpose(transposed, line, product, row, rows, columns, like)
                    add_rows(adding, target, positions * size, transposed, line, columns, rows, slope_at)


@kernel()
def convolve(
    filter_parts,
    together,
    rows_together,
    codes,
    scratch_per_worker,
    parts,
    threads,
    packed,
    x,
    u,
    bias,
    y,
    memory,
    slope,
):
    like, tables, base = x.dtype.type(0), unpack(packed), align(memory.ctypes.data)
    parallel_queue(
        _convolve_part,
        parts,
        threads,
        (
            filter_parts,
            together,
            rows_together,
            codes,
            x,
            u,
            bias,
            y,
            x.dtype.type(slope),
            base,
            scratch_per_worker,
            like,
            tables,
        ),
    )
