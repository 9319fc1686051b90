"""The matrix products behind convolutions and their gradients: compiled parts, and the loops that hand them out."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.conv.packing import (
    columns_to_panel,
    frame_to_image,
    gather,
    image_to_frame,
    panel_to_columns,
    scatter,
)
from minicaffe.kernels.cpu.conv.tables import from_table
from minicaffe.kernels.cpu.matmul.microkernel import (
    DEPTH,
    L2,
    LONGEST_TILE,
    PANEL,
    ROWS,
    multiply,
    panel_depth,
    panel_vectors,
)
from minicaffe.kernels.cpu.runtime.address import align, load, size_of, store
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import CHUNK, WIDTH, fill_row, prefetch_rows, prefetch_rows_to_write, transpose
from minicaffe.kernels.cpu.simd.sums import add_sums_part, row_sum


@part_kernel()
def _turn_weights_part(part, parts, w, wt, like):
    """w (group, m, c, taps) -> wt (group, c, m, taps backward), at an address: the weights of the transposed
    convolution.
    """
    group, m, c, taps = w.shape
    size = size_of(like)
    low, high = share(part, parts, c)
    for g in range(group):
        source, target = w.ctypes.data + g * m * c * taps * size, wt + g * m * c * taps * size
        if taps == 1:
            transpose(target + low * m * size, m * size, source + low * size, c * size, m, high - low, like)
            continue
        for channel in range(low, high):
            for i in range(m):
                first, last = (
                    source + (i * c + channel) * taps * size,
                    target + ((channel * m + i) * taps + taps - 1) * size,
                )
                for tap in range(taps):
                    store(last - tap * size, load(first + tap * size, like))


@part_kernel()
def _gather_weights_part(part, parts, w, wt, blocks, like):
    """w (group, m, c, taps) -> wt (group, block of c, taps, c in block, m), at an address."""
    group, m, c, taps = w.shape
    size = size_of(like)
    low, high = share(part, parts, c)
    for g in range(group):
        for block in range(blocks):
            first, last = share(block, blocks, c)
            for channel in range(max(first, low), min(last, high)):
                target = wt + ((g * c + first) * taps + channel - first) * m * size
                source = w.ctypes.data + (g * m * c + channel) * taps * size
                transpose(target, (last - first) * m * size, source, c * taps * size, m, taps, like)


@kernel(inline=True)
def _panels_at_a_time(rows):
    """How many panels of so many rows fit into the L2 cache, beside what they are multiplied with."""
    return max(1, L2 // (rows * PANEL))


# --- the three products -----------------------------------------------------------------------------------------


@part_kernel()
def _convolve_part(part, parts, worker, row_parts, code, x, w, bias, y, base, stride, like, plan):
    frame, direct, channel, together, taps, offsets, panels, runs = plan
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, k = y.shape[2], c * (taps.size // c)
    low_m, high_m = share(part % row_parts, row_parts, m)
    positions, width = offsets.size, PANEL // size
    image, frames_image = x[0, 0].size * size, c * channel * size
    area = base + worker * stride
    count, step = panels.size - 1, _panels_at_a_time(k)
    # a panel that more rows of filters want is kept whole, and gathered early if it stays in the L2 cache; others are
    # gathered piece by piece, each right before it is multiplied, in the L1 cache
    kept = int(high_m - low_m > ROWS)
    early = kept and k * PANEL <= L2
    panel = align(area + together * frames_image + CHUNK)
    product = align(panel + min(count, step) * k * PANEL + CHUNK)
    scratch = product + ROWS * PANEL
    # what lies between the numbers must not be slow to calculate with, as denormal ones are
    if frame[1].sum() > 0 or n % together > 0:
        fill_row(area, like, together * frames_image // size)
    fill_row(panel - CHUNK, like, (product - panel + CHUNK) // size)
    direct = direct and (group == 1 or together == 1)

    low, high = share(part // row_parts, parts // row_parts, -(-n // together) * group * count)
    for batch in range(low // count, -(-high // count)):
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        places = first_image, g, group, m, positions
        frames = area
        if direct and first_image + together < n:  # not the last image: a chunk is read beyond the end
            frames = x.ctypes.data + (first_image * group + g) * image
        else:
            for i in range(images):
                pixels = x.ctypes.data + ((first_image + i) * group + g) * image
                image_to_frame(pixels, area + i * frames_image, c, frame, like)
        low_p, high_p = max(low - batch * count, 0), min(high - batch * count, -(-images * positions // width))
        for first_p in range(low_p, high_p, step):
            last_p = min(first_p + step, high_p)
            for p in range(first_p, last_p if early else first_p):
                row = panel_vectors(min(width, together * positions - p * width), WIDTH // size) * WIDTH
                b = panel + (p - first_p) * k * PANEL
                for r in range(0, k, DEPTH):
                    ks = taps[r : min(r + DEPTH, k)]
                    gather(b + r * row, row, frames, ks, runs[panels[p] : panels[p + 1]], like)
            for first_m in range(low_m, high_m, ROWS):
                rows, weights = min(ROWS, high_m - first_m), w + (g * m + first_m) * k * size
                for p in range(first_p, last_p):
                    first, last = p * width, min((p + 1) * width, images * positions)
                    vectors = panel_vectors(min(width, together * positions - first), WIDTH // size)
                    row, depth = vectors * WIDTH, panel_depth(vectors)
                    i, q = first // positions, first % positions
                    y_at = y.ctypes.data + ((((first_image + i) * group + g) * m + first_m) * positions + q) * size
                    alone = q + last - first <= positions  # all columns belong to one image
                    if alone:
                        prefetch_rows_to_write(y_at, positions * size, min(LONGEST_TILE, rows), (last - first) * size)
                    begin, begin_row = bias.ctypes.data + (g * m + first_m) * size, 0
                    for r in range(0, k, depth):
                        ks = taps[r : min(r + depth, k)]
                        b = panel + (kept * (p - first_p) * k * PANEL + kept * r * row)
                        if not early and (first_m == low_m or not kept):
                            gather(b, row, frames, ks, runs[panels[p] : panels[p + 1]], like)
                        out, out_row = (y_at, positions * size) if alone and r + depth >= k else (product, row)
                        multiply(
                            code, rows, last - first, ks.size, weights + r * size, k * size, size,
                            b, vectors, begin, begin_row, out, out_row, scratch,
                        )  # fmt: skip
                        begin, begin_row = product, row
                    if not alone:
                        panel_to_columns(
                            product, row, y.ctypes.data, places, first_m, first_m + rows, first, last, like
                        )


@part_kernel()
def _scatter_grad_part(part, parts, worker, code, dy, wt, dx, blocks, base, stride, like, plan):
    frame, _, channel, together, taps, offsets, panels, runs = plan
    size = size_of(like)
    n, group, c = dx.shape[:3]
    m = dy.shape[2]
    positions, width = offsets.size, PANEL // size
    image, frames_image = dx[0, 0].size * size, c * channel * size
    frames = base + worker * stride
    panel = align(frames + together * frames_image + CHUNK)
    product = align(panel + min(panels.size - 1, _panels_at_a_time(m)) * m * PANEL + CHUNK)
    scratch = product + ROWS * PANEL
    row_offsets = np.empty(taps.size, np.int64)
    fill_row(panel, like, (product - panel) // size)

    low, high = share(part, parts, -(-n // together) * group * blocks)
    for item in range(low, high):
        batch, block = item // blocks, item % blocks
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        first_channel, last_channel = share(block, blocks, c)
        channels = last_channel - first_channel
        window = taps.size // c
        k = window * channels
        weights = wt + (g * c + first_channel) * window * m * size
        for tap in range(window):
            for i in range(channels):
                row_offsets[tap * channels + i] = taps[tap] + i * channel * size
        for i in range(together):
            fill_row(frames + i * frames_image, like, channels * channel)
        step, count = _panels_at_a_time(m), -(-images * positions // width)
        for first_p in range(0, count, step):
            last_p = min(first_p + step, count)
            for p in range(first_p, last_p):
                first, last = p * width, min((p + 1) * width, images * positions)
                row = panel_vectors(min(width, together * positions - first), WIDTH // size) * WIDTH
                block = panel + (p - first_p) * m * PANEL
                columns_to_panel(
                    block, row, dy.ctypes.data, (first_image, g, group, m, positions), 0, m, first, last, like
                )
            for first_k in range(0, k, ROWS):
                rows = min(ROWS, k - first_k)
                for p in range(first_p, last_p):
                    vectors = panel_vectors(min(width, together * positions - p * width), WIDTH // size)
                    row = vectors * WIDTH
                    for r in range(0, m, panel_depth(vectors)):
                        depth = min(panel_depth(vectors), m - r)
                        a, b = weights + (first_k * m + r) * size, panel + (p - first_p) * m * PANEL + r * row
                        multiply(
                            code,
                            rows,
                            row // size,
                            depth,
                            a,
                            m * size,
                            size,
                            b,
                            vectors,
                            product if r > 0 else 0,
                            row,
                            product,
                            row,
                            scratch,
                        )
                    ks = row_offsets[first_k : first_k + rows]
                    scatter(frames, product, row, ks, runs[panels[p] : panels[p + 1]], like)
        for i in range(images):
            pixels = dx.ctypes.data + ((first_image + i) * group + g) * image + first_channel * (image // c)
            frame_to_image(pixels, frames + i * frames_image, channels, frame, like)


@part_kernel()
def _weight_grad_part(part, parts, worker, panel_parts, code, x, dy, sums, slopes_sums, base, stride, like, plan):
    """Products summed over some images, for some panels of all groups; panel p's lies at ``sums + p * m * PANEL``.

    All panels are multiplied with one block of dy after the other, which so stays in the cache.  On the way dy is
    summed for the bias, if ``slopes_sums`` (part of the images, group * m) is not empty, along with each group's first
    panel.
    """
    frame, direct, channel, _, taps, offsets, panels, runs = plan
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, positions = dy.shape[2:]
    image, width = x[0, 0].size * size, PANEL // size
    count, window = panels.size - 1, taps.size // c
    direct = direct and window == 1
    low, high = share(part % panel_parts, panel_parts, group * count)
    first_image, last_image = share(part // panel_parts, parts // panel_parts, n)
    sums += part // panel_parts * group * count * m * PANEL
    frames = base + worker * stride
    panel = align(frames + c * channel * size + CHUNK)
    scratch = align(panel + DEPTH * PANEL + CHUNK)
    fill_row(panel - CHUNK, like, (scratch - panel + CHUNK) // size)
    fill_row(sums + low * m * PANEL, like, (high - low) * m * width)
    step = panel_depth(panel_vectors(min(width, taps.size), WIDTH // size))
    together = max(1, L2 // (m * PANEL))  # panels whose products stay in the L2 cache
    totals = np.zeros(m)
    item = low
    while item < high:
        g, first_p = item // count, item % count
        last_p = min(first_p + together, first_p + high - item, count)
        item += last_p - first_p
        first, last = first_p * width // window, -(-min(last_p * width, taps.size) // window)
        summed = slopes_sums.size > 0 and first_p == 0
        totals[:] = 0
        if frame[1].sum() > 0:
            fill_row(frames + first * channel * size, like, (last - first) * channel)
        for i in range(first_image, last_image):
            pixels, slopes = (
                x.ctypes.data + (i * group + g) * image,
                dy.ctypes.data + (i * group + g) * m * positions * size,
            )
            if not direct:
                image_to_frame(
                    pixels + first * (image // c), frames + first * channel * size, last - first, frame, like
                )
                pixels = frames
            for k in range(0, positions, step):
                depth = min(step, positions - k)
                if summed:
                    for r in range(m):
                        totals[r] += row_sum(dy[i, g, r, k : k + depth])
                for p in range(first_p, last_p):
                    columns = min(width, taps.size - p * width)
                    vectors = panel_vectors(columns, WIDTH // size)
                    row, out = vectors * WIDTH, sums + (g * count + p) * m * PANEL
                    if window == 1:
                        source = pixels + (p * width * channel + k) * size
                        transpose(panel, row, source, channel * size, columns, depth, like)
                        if direct and k + depth < positions:
                            prefetch_rows(source + depth * size, channel * size, columns, depth * size)
                    else:
                        gather(panel, row, pixels, offsets[k : k + depth], runs[panels[p] : panels[p + 1]], like)
                    a = slopes + k * size
                    multiply(
                        code,
                        m,
                        row // size,
                        depth,
                        a,
                        positions * size,
                        size,
                        panel,
                        vectors,
                        out,
                        row,
                        out,
                        row,
                        scratch,
                    )
                following = slopes + (k + depth) * size  # or the next image's first
                if k + depth == positions:
                    following = slopes + group * m * positions * size
                if k + depth < positions or i + 1 < last_image:
                    prefetch_rows(
                        following, positions * size, m, min(depth, positions - (k + depth) % positions) * size
                    )
        if summed:
            for r in range(m):
                slopes_sums[part // panel_parts, g * m + r] = totals[r]


@part_kernel()
def _sum_part(part, parts, sums, image_parts, dw, accumulate, like, panels):
    """Add up the products of ``_weight_grad_part`` in the order of the images, and what is in dw if ``accumulate``.

    Some rows of a panel, then those of the next: neither sums nor dw are read in steps of whole pages.
    """
    size = size_of(like)
    group, m, k = dw.shape
    count, width = panels.size - 1, PANEL // size
    blocks = -(-m // LONGEST_TILE)
    low, high = share(part, parts, group * blocks * count)
    for item in range(low, high):
        g, block, p = item // count // blocks, item // count % blocks, item % count
        columns = min(width, k - p * width)
        row = panel_vectors(columns, WIDTH // size) * WIDTH
        for i in range(block * LONGEST_TILE, min((block + 1) * LONGEST_TILE, m)):
            out = dw[g, i, p * width :]
            if not accumulate:
                out[:columns] = like
            for images in range(image_parts):
                source = sums + ((images * group * count + g * count + p) * m) * PANEL + i * row
                for j in range(columns):
                    out[j] += load(source + j * size, like)


# --- parallel loops ---------------------------------------------------------------------------------------------


@kernel()
def convolve(row_parts, code, stride, parts, threads, table, x, w, bias, y, memory):
    like, plan = x.dtype.type(0), from_table(table)
    weights, base = w.ctypes.data, align(memory.ctypes.data)
    parallel_queue(_convolve_part, parts, threads, (row_parts, code, x, weights, bias, y, base, stride, like, plan))


@kernel()
def turned_grad(row_parts, code, zeros, stride, parts, threads, table, dy, w, dx, memory):
    like, plan = dy.dtype.type(0), from_table(table)
    wt = memory.ctypes.data
    base = align(wt + w.size * w.itemsize)
    parallel(_turn_weights_part, threads, (w, wt, like))
    parallel_queue(_convolve_part, parts, threads, (row_parts, code, dy, wt, zeros, dx, base, stride, like, plan))


@kernel()
def scatter_grad(code, blocks, stride, parts, threads, table, dy, w, dx, memory):
    like, plan = dy.dtype.type(0), from_table(table)
    wt = memory.ctypes.data
    base = align(wt + w.size * w.itemsize)
    parallel(_gather_weights_part, threads, (w, wt, blocks, like))
    parallel_queue(_scatter_grad_part, parts, threads, (code, dy, wt, dx, blocks, base, stride, like, plan))


@kernel()
def weight_grad(code, panel_parts, image_parts, stride, threads, table, x, dy, dw, dbias, memory, accumulate):
    like, plan = dy.dtype.type(0), from_table(table)
    panels = plan[6]
    slopes_sums = memory[: image_parts * dbias.size].reshape(image_parts, dbias.size)
    sums = align(memory.ctypes.data + slopes_sums.size * memory.itemsize)
    group, m = dw.shape[:2]
    base = sums + image_parts * group * m * (panels.size - 1) * PANEL
    parallel_queue(
        _weight_grad_part,
        panel_parts * image_parts,
        threads,
        (panel_parts, code, x, dy, sums, slopes_sums, base, stride, like, plan),
    )
    weights = dw.reshape(group, m, dw.shape[2] * dw.shape[3])
    parallel(_sum_part, threads, (sums, image_parts, weights, accumulate, like, panels))
    if dbias.size:
        parallel(add_sums_part, 1, (slopes_sums, dbias))
