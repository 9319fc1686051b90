"""The compiled code of ``implicit_gemm``: what a thread does for a part of the work, and the loops over the parts."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.conv.packing import (
    add_panel_to_columns,
    columns_to_panel,
    gather,
    pad_image,
    pad_lines,
    panel_to_columns,
    scatter,
    unpad_image,
)
from minicaffe.kernels.cpu.conv.tables import is_padded, runs_of, some_of, unpack
from minicaffe.kernels.cpu.matmul.microkernel import (
    KC,
    L2,
    MC,
    MR_MAX,
    PANEL,
    macro_kernel,
    panel_kc,
    panel_vectors,
)
from minicaffe.kernels.cpu.runtime.address import align, load, quotient, size_of, store
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, parallel_queue, share
from minicaffe.kernels.cpu.simd.memory import (
    CHUNK,
    WIDTH,
    fill_chunk,
    fill_row,
    prefetch_rows,
    transpose,
)
from minicaffe.kernels.cpu.simd.sums import add_partial_sums_part, row_sum


@part_kernel()
def _rotate_weights_part(part, parts, w, wt, like):
    """w (group, m, c, taps) -> wt (group, c, m, taps in reverse), at an address: filters rotated by 180 degrees."""
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
def _transpose_weights_part(part, parts, w, wt, blocks, like):
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
    """How many panels of so many rows fit into the L2 cache."""
    return max(1, L2 // (rows * PANEL))


@kernel(inline=True)
def _fill_up(panel, row, columns, rows, like):
    """Zeros where a panel's rows, ``row`` bytes long, have no columns: these are multiplied, too, and slowly if they
    happen to be denormal.
    """
    for place in range(columns * size_of(like) // CHUNK * CHUNK, row, CHUNK):
        for r in range(rows):
            fill_chunk(panel + r * row + place, like)


# --- a part of the work -----------------------------------------------------------------------------------------


@part_kernel()
def _pad_part(part, parts, x, base, scratch_per_worker, like, tables):
    """Pad some channels of all images, of which no more lie side by side than there are workers: each in the scratch
    memory of one.
    """
    layout, _, channel, together = tables[:4]
    size = size_of(like)
    n, group, c, pixels = x.shape
    padded_size = c * channel * size
    low, high = share(part, parts, c)
    for batch in range(-(-n // together) * group):
        first_image, g = batch // group * together, batch % group
        for i in range(together):
            padded = base + batch * scratch_per_worker + i * padded_size + low * channel * size
            if is_padded(layout) or first_image + i >= n:
                fill_row(padded, like, (high - low) * channel)
            if first_image + i < n:
                image = x.ctypes.data + (((first_image + i) * group + g) * c + low) * pixels * size
                pad_image(image, padded, high - low, layout, like)


@kernel(inline=True)
def _clear_lines(padded, lines, elements, layout, like):
    """Zeros in the first lines of each phase of padded channels, which have so many elements."""
    height, width = layout[4, 1], layout[4, 2]
    for plane in range(elements // (height * width)):
        fill_row(padded + plane * height * width * size_of(like), like, lines * width)


@kernel(inline=True)
def _lines_under(first, last, window, taps, offsets, layout, size):
    """The lines [low, high) of each phase of a padded image, of one plane, that positions [first, last) need."""
    line = layout[4, 2] * size
    below = taps[window - 1] % (layout[4, 1] * line) // line  # the last tap is the lowest one
    return offsets[first] // line, offsets[last - 1] // line + below + 1


@part_kernel()
def _convolve_part(part, parts, worker, split, codes, x, w, bias, y, slope, base, scratch_per_worker, like, tables):
    """Convolve: ``row_parts`` parts of the filters for each part of the panels.  Images that ``_pad_part`` has not
    padded before are padded here, by each part that reads them: the lines that it needs.  If a panel is multiplied
    ``as_it_lies`` in the image, it is not gathered.

    ``codes`` are those of the macro-kernel and of ``add_rows``; if the latter is 0, nothing is added to y.
    """
    row_parts, padded_before, in_lines, as_it_lies = split
    code, adding = codes
    layout, in_place, channel, together, taps, offsets, panels, runs = tables
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, k = y.shape[2], c * (taps.size // c)
    low_m, high_m = share(part % row_parts, row_parts, m)
    positions, width = offsets.size, PANEL // size
    image, padded_size = x[0, 0].size * size, c * channel * size
    own = base + worker * scratch_per_worker
    count, step = panels.size - 1, _panels_at_a_time(k)
    # a panel that is multiplied with more than MC filters is kept whole, and gathered in advance if it stays in the L2
    # cache; other panels are gathered KC rows at a time, right before these are multiplied, into the L1 cache
    kept = 1 if high_m - low_m > MC else 0
    early = kept and k * PANEL <= L2
    panel = align(own + together * padded_size + CHUNK)
    product = align(panel + min(count, step) * k * PANEL + CHUNK)
    scratch = product + MC * PANEL
    slope_at = scratch + MR_MAX * PANEL
    store(slope_at, slope)
    in_place = in_place and (group == 1 or together == 1)
    cleared_from, cleared_to = 0, 0
    unbroken = taps.size == c and together == 1  # so that of the last image, too, nothing beyond its end is read

    low, high = share(part // row_parts, parts // row_parts, -(-n // together) * group * count)
    for batch in range(low // count, -(-high // count)):
        first_image, g = batch // group * together, batch % group
        images = min(together, n - first_image)
        low_p, high_p = max(low - batch * count, 0), min(high - batch * count, -(-images * positions // width))
        places = first_image, g, group, m, positions
        padded = own
        if in_place and (unbroken or first_image + together < n):  # beyond the end of others up to a chunk is read
            padded = x.ctypes.data + (first_image * group + g) * image
        elif padded_before:
            padded = base + batch * scratch_per_worker
        else:
            first_line, last_line = 0, layout[4, 1]
            if in_lines:
                first, last = low_p * width, min(high_p * width, positions)
                first_line, last_line = _lines_under(first, last, taps.size // c, taps, offsets, layout, size)
            is_clear = first_line == cleared_from and last_line == cleared_to
            if not is_clear and (is_padded(layout) or n % together > 0):
                cleared_from, cleared_to = first_line, last_line
                _clear_lines(own, last_line - first_line, together * c * channel, layout, like)
            padded = own - first_line * layout[4, 2] * size
            for i in range(images):
                pixels = x.ctypes.data + ((first_image + i) * group + g) * image
                pad_lines(pixels, padded + i * padded_size, c, layout, first_line, last_line, like)
        for first_p in range(low_p, high_p, step):
            last_p = min(first_p + step, high_p)
            for p in range(first_p, last_p if early else first_p):
                columns = min(width, together * positions - p * width)
                if as_it_lies and columns == width:
                    continue
                row = panel_vectors(columns, WIDTH // size) * WIDTH
                b = panel + (p - first_p) * k * PANEL
                _fill_up(b, row, columns, k, like)
                for r in range(0, k, KC):
                    ks = some_of(taps, r, min(KC, k - r))
                    gather(b + r * row, row, padded, ks, runs_of(p, panels, runs), like)
            for first_m in range(low_m, high_m, MC):
                rows, weights = min(MC, high_m - first_m), w + (g * m + first_m) * k * size
                for p in range(first_p, last_p):
                    first, last = p * width, min((p + 1) * width, images * positions)
                    columns = min(width, together * positions - first)
                    vectors = panel_vectors(columns, WIDTH // size)
                    row, depth = vectors * WIDTH, panel_kc(vectors)
                    i, q = first // positions, first % positions
                    y_at = y.ctypes.data + ((((first_image + i) * group + g) * m + first_m) * positions + q) * size
                    alone = adding == 0 and q + last - first <= positions  # in one image, and nothing is added
                    initial, initial_row = bias.ctypes.data + (g * m + first_m) * size, 0
                    for r in range(0, k, depth):
                        ks = some_of(taps, r, min(depth, k - r))
                        last_k = r + depth >= k
                        b, b_row, ahead = panel + (kept * (p - first_p) * k * PANEL + kept * r * row), row, 0
                        if as_it_lies and columns == width:
                            b_row = channel * size
                            b = padded + p * PANEL + r * b_row
                            following = batch * count + p + 1
                            if first_m == low_m and not last_k:
                                ahead = b + depth * b_row
                            elif first_m == low_m and following < high:
                                then = quotient(following, count)
                                ahead = x.ctypes.data + then * image + (following - then * count) * PANEL
                        elif not early and (first_m == low_m or not kept):
                            _fill_up(b, row, columns, ks.size, like)
                            gather(b, row, padded, ks, runs_of(p, panels, runs), like)
                        out, out_row = (y_at, positions * size) if alone and last_k else (product, row)
                        macro_kernel(
                            code, rows, last - first, ks.size, weights + r * size, k * size, size,
                            b, b_row, vectors, initial, initial_row, out, out_row, scratch,
                            slope_at if last_k and slope != 1 and adding == 0 else 0, p == first_p, 0, 0, ahead, b_row,
                        )  # fmt: skip
                        initial, initial_row = product, row
                    if adding != 0:
                        add_panel_to_columns(
                            adding, product, row, y.ctypes.data, places, first_m, first_m + rows, first, last, slope_at,
                            like,
                        )  # fmt: skip
                    elif not alone:
                        panel_to_columns(
                            product, row, y.ctypes.data, places, first_m, first_m + rows, first, last, like
                        )


@part_kernel()
def _scatter_grad_part(part, parts, worker, code, dy, wt, dx, blocks, base, scratch_per_worker, like, tables):
    layout, _, channel, together, taps, offsets, panels, runs = tables
    size = size_of(like)
    n, group, c = dx.shape[:3]
    m = dy.shape[2]
    positions, width = offsets.size, PANEL // size
    image, padded_size = dx[0, 0].size * size, c * channel * size
    padded = base + worker * scratch_per_worker
    panel = align(padded + together * padded_size + CHUNK)
    product = align(panel + min(panels.size - 1, _panels_at_a_time(m)) * m * PANEL + CHUNK)
    scratch = product + MC * PANEL
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
            fill_row(padded + i * padded_size, like, channels * channel)
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
            for first_k in range(0, k, MC):
                rows = min(MC, k - first_k)
                for p in range(first_p, last_p):
                    vectors = panel_vectors(min(width, together * positions - p * width), WIDTH // size)
                    row = vectors * WIDTH
                    for r in range(0, m, panel_kc(vectors)):
                        depth = min(panel_kc(vectors), m - r)
                        a, b = weights + (first_k * m + r) * size, panel + (p - first_p) * m * PANEL + r * row
                        macro_kernel(
                            code, rows, row // size, depth, a, m * size, size, b, row, vectors,
                            product if r > 0 else 0, row, product, row, scratch, 0, 0, 0, 0, 0, 0,
                        )  # fmt: skip
                    ks = some_of(row_offsets, first_k, rows)
                    scatter(padded, product, row, ks, runs_of(p, panels, runs), like)
        for i in range(images):
            pixels = dx.ctypes.data + ((first_image + i) * group + g) * image + first_channel * (image // c)
            unpad_image(pixels, padded + i * padded_size, channels, layout, like)


@part_kernel()
def _weight_grad_part(
    part, parts, worker, panel_parts, code, x, dy, sums, dy_sums, base, scratch_per_worker, like, tables
):
    """Products summed over some of the images, for some panels of all groups; that of panel p is at
    ``sums + p * m * PANEL``.

    All panels are multiplied with one block of dy before the next block, so that it stays in the cache.  If ``dy_sums``
    (part of the images, group * m) is not empty, dy is summed for the bias along with each group's first panel.
    """
    layout, in_place, channel, _, taps, offsets, panels, runs = tables
    size = size_of(like)
    n, group, c = x.shape[:3]
    m, positions = dy.shape[2:]
    image, width = x[0, 0].size * size, PANEL // size
    count, window = panels.size - 1, taps.size // c
    in_place = in_place and window == 1
    low, high = share(part % panel_parts, panel_parts, group * count)
    first_image, last_image = share(part // panel_parts, parts // panel_parts, n)
    sums += part // panel_parts * group * count * m * PANEL
    padded = base + worker * scratch_per_worker
    panel = align(padded + c * channel * size + CHUNK)
    scratch = align(panel + KC * PANEL + CHUNK)
    fill_row(panel - CHUNK, like, (scratch - panel + CHUNK) // size)
    fill_row(sums + low * m * PANEL, like, (high - low) * m * width)
    step = panel_kc(panel_vectors(min(width, taps.size), WIDTH // size))
    together = max(1, L2 // (m * PANEL))  # panels whose products stay in the L2 cache
    totals = np.zeros(m)
    item = low
    while item < high:
        g, first_p = item // count, item % count
        last_p = min(first_p + together, first_p + high - item, count)
        item += last_p - first_p
        first, last = first_p * width // window, -(-min(last_p * width, taps.size) // window)
        summed = dy_sums.size > 0 and first_p == 0
        totals[:] = 0
        if is_padded(layout):
            fill_row(padded + first * channel * size, like, (last - first) * channel)
        for i in range(first_image, last_image):
            pixels, dy_at = (
                x.ctypes.data + (i * group + g) * image,
                dy.ctypes.data + (i * group + g) * m * positions * size,
            )
            if not in_place:
                pad_image(pixels + first * (image // c), padded + first * channel * size, last - first, layout, like)
                pixels = padded
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
                        if in_place and k + depth < positions:
                            prefetch_rows(source + depth * size, channel * size, columns, depth * size)
                    else:
                        gather(panel, row, pixels, some_of(offsets, k, depth), runs_of(p, panels, runs), like)
                    a = dy_at + k * size
                    macro_kernel(
                        code, m, row // size, depth, a, positions * size, size, panel, row, vectors, out, row, out, row,
                        scratch, 0, 0, 0, 0, 0, 0,
                    )  # fmt: skip
                following = dy_at + (k + depth) * size
                if k + depth == positions:
                    following = dy_at + group * m * positions * size
                if k + depth < positions or i + 1 < last_image:
                    prefetch_rows(
                        following, positions * size, m, min(depth, positions - (k + depth) % positions) * size
                    )
        if summed:
            for r in range(m):
                dy_sums[part // panel_parts, g * m + r] = totals[r]


@part_kernel()
def _add_up_part(part, parts, sums, image_parts, dw, accumulate, like, panels):
    """Sum the products of ``_weight_grad_part`` in the order of the images, and add dw to them if ``accumulate``.

    Some rows of one panel are followed by those of the next, so that neither sums nor dw are read a page apart.
    """
    size = size_of(like)
    group, m, k = dw.shape
    count, width = panels.size - 1, PANEL // size
    blocks = -(-m // MR_MAX)
    low, high = share(part, parts, group * blocks * count)
    for item in range(low, high):
        g, block, p = item // count // blocks, item // count % blocks, item % count
        columns = min(width, k - p * width)
        row = panel_vectors(columns, WIDTH // size) * WIDTH
        for i in range(block * MR_MAX, min((block + 1) * MR_MAX, m)):
            out = dw[g, i, p * width :]
            if not accumulate:
                out[:columns] = like
            for images in range(image_parts):
                source = sums + ((images * group * count + g * count + p) * m) * PANEL + i * row
                for j in range(columns):
                    out[j] += load(source + j * size, like)


# --- all parts --------------------------------------------------------------------------------------------------


@kernel()
def convolve(
    split,
    codes,
    scratch_per_worker,
    parts,
    threads,
    packed,
    x,
    w,
    bias,
    y,
    memory,
    slope,
):
    like, tables = x.dtype.type(0), unpack(packed)
    weights, base = w.ctypes.data, align(memory.ctypes.data)
    if split[1]:
        parallel(_pad_part, threads, (x, base, scratch_per_worker, like, tables))
    parallel_queue(
        _convolve_part,
        parts,
        threads,
        (split, codes, x, weights, bias, y, x.dtype.type(slope), base, scratch_per_worker, like, tables),
    )


@kernel()
def rotated_grad(
    split,
    codes,
    zeros,
    scratch_per_worker,
    parts,
    threads,
    packed,
    dy,
    w,
    dx,
    memory,
):
    like, tables = dy.dtype.type(0), unpack(packed)
    wt = memory.ctypes.data
    base = align(wt + w.size * w.itemsize)
    parallel(_rotate_weights_part, threads, (w, wt, like))
    if split[1]:
        parallel(_pad_part, threads, (dy, base, scratch_per_worker, like, tables))
    parallel_queue(
        _convolve_part,
        parts,
        threads,
        (split, codes, dy, wt, zeros, dx, dy.dtype.type(1), base, scratch_per_worker, like, tables),
    )


@kernel()
def scatter_grad(code, blocks, scratch_per_worker, parts, threads, packed, dy, w, dx, memory):
    like, tables = dy.dtype.type(0), unpack(packed)
    wt = memory.ctypes.data
    base = align(wt + w.size * w.itemsize)
    parallel(_transpose_weights_part, threads, (w, wt, blocks, like))
    parallel_queue(
        _scatter_grad_part, parts, threads, (code, dy, wt, dx, blocks, base, scratch_per_worker, like, tables)
    )


@kernel()
def weight_grad(
    code, panel_parts, image_parts, scratch_per_worker, threads, packed, x, dy, dw, dbias, memory, accumulate
):
    like, tables = dy.dtype.type(0), unpack(packed)
    panels = tables[6]
    dy_sums = memory[: image_parts * dbias.size].reshape(image_parts, dbias.size)
    sums = align(memory.ctypes.data + dy_sums.size * memory.itemsize)
    group, m = dw.shape[:2]
    base = sums + image_parts * group * m * (panels.size - 1) * PANEL
    parallel_queue(
        _weight_grad_part,
        panel_parts * image_parts,
        threads,
        (panel_parts, code, x, dy, sums, dy_sums, base, scratch_per_worker, like, tables),
    )
    weights = dw.reshape(group, m, dw.shape[2] * dw.shape[3])
    parallel(_add_up_part, threads, (sums, image_parts, weights, accumulate, like, panels))
    if dbias.size:
        parallel(add_partial_sums_part, 1, (dy_sums, dbias))
