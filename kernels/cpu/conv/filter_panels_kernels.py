"""The compiled code of ``filter_panels``: packing the filters, and what a thread does for a part of the work."""

from __future__ import annotations

from minicaffe.kernels.cpu.conv.packing import gather, pad_image
from minicaffe.kernels.cpu.conv.tables import is_padded, unpack
from minicaffe.kernels.cpu.matmul.microkernel import KC, MR_MAX, PANEL, macro_kernel, panel_kc, panel_vectors
from minicaffe.kernels.cpu.matmul.panels import pack_rows
from minicaffe.kernels.cpu.runtime.address import LINE, align, size_of, store
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    WIDTH,
    copy_row,
    copy_rows,
    fill_row,
    prefetch_rows_to_write,
    transpose,
)
from minicaffe.kernels.cpu.simd.rectify import add_rows

GATHERED_ROW = PANEL | LINE
"""Bytes from a row of a gathered panel to the next: an odd number of cache lines, so that the lines with the numbers of
neighbouring positions are in different sets of the cache.
"""


@kernel()
def pack(w, u, parts):
    """w (group, m, depth) -> u (group, panel, depth, columns of a panel)."""
    parallel(pack_rows, parts, (w.ctypes.data, *w.shape, u.ctypes.data, w.dtype.type(0)))


@kernel(internal=True)
def _multiply(
    code,
    rows,
    depth,
    a,
    a_step,
    panel,
    vectors,
    following,
    a_following,
    product,
    scratch,
    slope_at,
    target,
    target_row,
    columns,
    like,
):
    """Add the product of some positions and a panel, (rows, depth) times (depth, columns), to what is at ``product``.

    Unless ``following`` is 0 the panel is far away: its rows are prefetched while those before them are multiplied, and
    then those of the panel at ``following``.  Unless ``a_following`` is 0 the numbers of the positions are far away:
    the same goes for these, and those of the positions at ``a_following``.
    """
    row, kc = vectors * WIDTH, panel_kc(vectors)
    steps = -(-depth // kc)
    for step in range(steps):
        k = step * kc
        low, high = share(step, steps, columns)
        prefetch_rows_to_write(target + low * target_row, target_row, high - low, rows * size_of(like))
        ahead, left, a_ahead = panel + (k + kc) * row, min(kc, depth - k - kc), a + (k + kc) * a_step
        if left <= 0:
            ahead, left, a_ahead = following, min(kc, depth), a_following
        macro_kernel(
            code, rows, row // size_of(like), min(kc, depth - k), a + k * a_step, size_of(like), a_step,
            panel + k * row, row, vectors, product, row, product, row, scratch, slope_at if k + kc >= depth else 0, 0,
            ahead if following != 0 else 0, left * row, a_ahead if a_following != 0 else 0, a_step,
        )  # fmt: skip


@part_kernel()
def _convolve_part(part, parts, worker, split, codes, x, u, bias, y, slope, base, scratch_per_worker, like, tables):
    """Convolve some positions with some panels of filters: ``filter_parts`` parts have the same positions.

    The positions of an image come in pieces of ``rows_together``, of which ``together`` are multiplied with all panels
    before the next: if they have to be gathered, no more than stay in the L2 cache.
    """
    filter_parts, together, rows_together = split
    code, adding = codes
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
    gathered = transposed + (0 if adding == 0 else rows_together * PANEL)
    padded = align(gathered + (0 if unbroken else min(together, pieces) * depth * GATHERED_ROW) + CHUNK)
    store(slope_at, slope)
    at_once = slope_at if slope != 1 and adding == 0 else 0
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
                of_piece = runs[runs_of[piece] : runs_of[piece + 1]]
                for k in range(0, depth, KC):  # rows that stay in the L1 cache until they are complete
                    ks = taps[k : min(k + KC, depth)]
                    gather(to + k * GATHERED_ROW, GATHERED_ROW, padded, ks, of_piece, like)
            a_step = GATHERED_ROW
        for p in range(low_p, high_p):
            columns = min(width, m - p * width)
            vectors = panel_vectors(columns, WIDTH // size)
            row, panel = vectors * WIDTH, u + (g * panels + p) * depth * PANEL
            fill_row(start, like, width)
            copy_row(start, bias.ctypes.data + (g * m + p * width) * size, columns, like)
            for piece in range(first_piece, last_piece):
                first = piece * rows_together
                rows = min(rows_together, positions - first)
                rows_at = a + first * size if unbroken else gathered + (piece - first_piece) * depth * GATHERED_ROW
                following = panel + depth * PANEL if piece == first_piece else 0
                a_following = a + (first + rows) * size if unbroken and p == low_p else 0
                target = y.ctypes.data + ((image * m + p * width) * positions + first) * size
                copy_rows(product, row, start, 0, rows, row // size, like)
                _multiply(
                    code, rows, depth, rows_at, a_step, panel, vectors, following, a_following, product, scratch,
                    at_once, target, positions * size, columns, like,
                )  # fmt: skip
                if adding == 0:
                    transpose(target, positions * size, product, row, rows, columns, like)
                else:
                    line = rows_together * size
                    transpose(transposed, line, product, row, rows, columns, like)
                    add_rows(adding, target, positions * size, transposed, line, columns, rows, slope_at)


@kernel()
def convolve(split, codes, scratch_per_worker, parts, threads, packed, x, u, bias, y, memory, slope):
    like, tables, base = x.dtype.type(0), unpack(packed), align(memory.ctypes.data)
    parallel_queue(
        _convolve_part,
        parts,
        threads,
        (split, codes, x, u, bias, y, x.dtype.type(slope), base, scratch_per_worker, like, tables),
    )
