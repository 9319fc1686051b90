"""Every primitive in plain NumPy: the oracle of the tests, and what a backend falls back on.

The faster versions in ``kernels/cpu`` (Numba) and ``kernels/cuda`` (RawKernel) have the same names and signatures.
Arrays are C-contiguous and of one dtype, float32 or float64; integer arrays are int32.  A function writes into the
arrays it is given and returns nothing; "accumulates" means ``+=``, everything else overwrites.  A scalar result goes
into an array of shape ``()``, so that no backend has to wait for its device.  Shapes use N for the batch, C for
channels, ``*in`` and ``*out`` for the spatial axes of a window's input and output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.reference_layers import *  # noqa: F403
from minicaffe.kernels.reference_layers import is_valid
from minicaffe.kernels.window import Window

Array = NDArray
FLT_MIN = float(np.finfo(np.float32).tiny)
FLT_MAX = float(np.finfo(np.float32).max)

FULL, VALID, BATCH_SIZE, NONE = range(4)
"""Values of LossParameter.NormalizationMode."""


# --- linear algebra ---------------------------------------------------------------------------------------------


def gemm(
    a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
) -> None:
    """Matrix product ``out = op(a) op(b)`` of 2-D arrays, added to ``out`` if ``accumulate``."""
    product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    if accumulate:
        out += product
    else:
        out[...] = product


def dot(a: Array, b: Array, out: Array) -> None:
    """Accumulates the inner product of two arrays of equal size into the scalar ``out``."""
    out += np.dot(a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64))


def bias_add(y: Array, bias: Array) -> None:
    """Adds bias (C,) to y (N, C, ...) along axis 1."""
    y += bias.reshape(-1, *(1,) * (y.ndim - 2))


def bias_grad(dy: Array, dbias: Array) -> None:
    """Accumulates dy (N, C, ...), summed over all axes but axis 1, into dbias (C,)."""
    dbias += dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64)


# --- windows ----------------------------------------------------------------------------------------------------


def _taps(window: Window, in_shape: Sequence[int], out_shape: Sequence[int]) -> Iterator[tuple[int, tuple, tuple]]:
    """For each kernel tap: its index and the slices that pair output positions with the input pixels they read."""
    for tap, offsets in enumerate(itertools.product(*map(range, window.kernel))):
        source, target = [], []
        for q, s, p, d, size, positions in zip(
            offsets, window.stride, window.pad, window.dilation, in_shape, out_shape, strict=True
        ):
            first = q * d - p
            low = max(0, -(first // s))
            high = min(positions, (size - 1 - first) // s + 1)
            high = max(low, high)
            target.append(slice(low, high))
            source.append(slice(first + low * s, first + high * s, s) if high > low else slice(0, 0))
        yield tap, tuple(source), tuple(target)


def im2col(x: Array, columns: Array, window: Window) -> None:
    """Lays out the pixels under the window: x (N, C, *in) -> columns (N, C * taps, *out); padding gives 0.

    Row ``c * taps + q`` of an image's columns holds, for every output position, the pixel of channel c under tap q.
    """
    n, c = x.shape[:2]
    out = columns.shape[2:]
    view = columns.reshape(n, c, window.taps, *out)
    view[...] = 0
    for tap, source, target in _taps(window, x.shape[2:], out):
        view[(slice(None), slice(None), tap, *target)] = x[(slice(None), slice(None), *source)]


def col2im(columns: Array, x: Array, window: Window) -> None:
    """The transpose of im2col: every column entry is added back to its pixel of x (N, C, *in)."""
    n, c = x.shape[:2]
    out = columns.shape[2:]
    view = columns.reshape(n, c, window.taps, *out)
    x[...] = 0
    for tap, source, target in _taps(window, x.shape[2:], out):
        x[(slice(None), slice(None), *source)] += view[(slice(None), slice(None), tap, *target)]


def convolution_workspace(x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
    """Elements of scratch memory that the three convolution functions need for these shapes."""
    return int(np.prod(x_shape[:2]) * window.taps * np.prod(y_shape[2:]))


def _columns_of(x: Array, y_shape: Sequence[int], window: Window, workspace: Array) -> Array:
    n, c = x.shape[:2]
    shape = (n, c * window.taps, *y_shape[2:])
    columns = workspace[: int(np.prod(shape))].reshape(shape)
    im2col(x, columns, window)
    return columns


def convolve(x: Array, w: Array, bias: Array | None, y: Array, window: Window, group: int, workspace: Array) -> None:
    """Cross-correlation: x (N, C, *in), w (M, C / group, *kernel), bias (M,) or None -> y (N, M, *out)."""
    n, m = y.shape[:2]
    columns = _columns_of(x, y.shape, window, workspace).reshape(n, group, w[0].size, -1)
    np.matmul(w.reshape(group, m // group, -1), columns, out=y.reshape(n, group, m // group, -1))
    if bias is not None:
        bias_add(y, bias)


def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """Gradient of ``convolve`` with respect to x: dy (N, M, *out), w -> dx (N, C, *in)."""
    n, m = dy.shape[:2]
    shape = (n, dx.shape[1] * window.taps, *dy.shape[2:])
    columns = workspace[: int(np.prod(shape))].reshape(shape)
    np.matmul(
        w.reshape(group, m // group, -1).transpose(0, 2, 1),
        dy.reshape(n, group, m // group, -1),
        out=columns.reshape(n, group, w[0].size, -1),
    )
    col2im(columns, dx, window)


def convolve_weight_grad(
    x: Array,
    dy: Array,
    dw: Array,
    window: Window,
    group: int,
    workspace: Array,
    accumulate: bool,
    dbias: Array | None = None,
) -> None:
    """Gradient of ``convolve`` with respect to w, into dw (M, C / group, *kernel); added to dw if ``accumulate``.

    With dbias (M,), ``bias_grad`` is done on the way, for which dy then need not be read again.
    """
    if dbias is not None:
        bias_grad(dy, dbias)
    (n, m), positions = dy.shape[:2], math.prod(dy.shape[2:])
    columns = _columns_of(x, dy.shape, window, workspace).reshape(n, group, dw[0].size, positions)
    slopes = dy.reshape(n, group, m // group, positions)
    total = np.matmul(slopes, columns.transpose(0, 1, 3, 2)).sum(axis=0).reshape(dw.shape)
    if accumulate:
        dw += total
    else:
        dw[...] = total


def _pool_windows(window: Window, pixels: Sequence[int], pooled: Sequence[int]) -> Iterator[tuple]:
    """Each output position with its window clipped to the image, and the divisor of average pooling."""
    (height, width), (kh, kw), (sh, sw), (ph, pw) = pixels, window.kernel, window.stride, window.pad
    for i, j in itertools.product(range(pooled[0]), range(pooled[1])):
        top, left = i * sh - ph, j * sw - pw
        bottom, right = min(top + kh, height + ph), min(left + kw, width + pw)
        area = (bottom - top) * (right - left)
        yield (
            i,
            j,
            slice(max(top, 0), max(min(bottom, height), 0)),
            slice(max(left, 0), max(min(right, width), 0)),
            area,
        )


def max_pool(x: Array, y: Array, mask: Array, window: Window) -> None:
    """Largest pixel of each window: x (N, C, H, W) -> y (N, C, P, Q), mask int32 like y: its place ``h * W + w``.

    The first of equal pixels wins, and the first NaN before all others.  A window with no pixel above -FLT_MAX gives
    -FLT_MAX and mask -1, which gets no gradient (Caffe; it corrupts memory going backward).  Caffe: NaN never wins.
    """
    n, c, height, width = x.shape
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        if patch.size == 0:
            y[:, :, i, j], mask[:, :, i, j] = -FLT_MAX, -1
            continue
        flat = patch.reshape(n, c, -1)
        best = flat.argmax(axis=2)
        value = np.take_along_axis(flat, best[..., None], axis=2)[..., 0]
        h, w = rows.start + best // patch.shape[3], cols.start + best % patch.shape[3]
        y[:, :, i, j] = np.where(value <= -FLT_MAX, -FLT_MAX, value)
        mask[:, :, i, j] = np.where(value <= -FLT_MAX, -1, h * width + w)


def max_pool_grad(dy: Array, mask: Array, dx: Array, window: Window) -> None:
    """Sends each dy (N, C, P, Q) to the pixel of dx (N, C, H, W) that its mask names; serves stochastic pooling too."""
    n, c, height, width = dx.shape
    dx[...] = 0
    planes = dx.reshape(n * c, height * width)
    where = mask.reshape(n * c, -1)
    rows, entries = np.nonzero(where >= 0)
    np.add.at(planes, (rows, where[rows, entries]), dy.reshape(n * c, -1)[rows, entries])


def average_pool(x: Array, y: Array, window: Window) -> None:
    """Sum of each window over its area clipped to H + pad, W + pad: x (N, C, H, W) -> y (N, C, P, Q).

    The area counts padding inside that border, and a window that lies wholly beyond it gives NaN (Caffe).
    """
    for i, j, rows, cols, area in _pool_windows(window, x.shape[2:], y.shape[2:]):
        y[:, :, i, j] = x[:, :, rows, cols].sum(axis=(2, 3)) / area if area else np.nan


def average_pool_grad(dy: Array, dx: Array, window: Window) -> None:
    """Spreads each dy (N, C, P, Q) evenly over its window of dx (N, C, H, W)."""
    dx[...] = 0
    for i, j, rows, cols, area in _pool_windows(window, dx.shape[2:], dy.shape[2:]):
        if area:
            dx[:, :, rows, cols] += (dy[:, :, i, j] / area)[:, :, None, None]


def stochastic_pool(x: Array, u: Array, y: Array, mask: Array, window: Window) -> None:
    """Picks a pixel of each window with probability proportional to its value (Zeiler and Fergus 2013).

    x (N, C, H, W) is not negative; u like y, uniform in (0, 1].  y is the first pixel in raster order whose running sum
    reaches u times the window's sum; mask int32 like y is its place ``h * W + w`` (-1 and y 0 for an empty window).  A
    window that holds NaN gives NaN, and the place of its first.
    """
    n, c, height, width = x.shape
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        if patch.size == 0:
            y[:, :, i, j], mask[:, :, i, j] = 0, -1
            continue
        flat = patch.reshape(n, c, -1)
        running = np.cumsum(flat, axis=2)
        reached = (running >= (u[:, :, i, j] * running[:, :, -1])[..., None]) | np.isnan(running)
        pick = np.where(reached.any(axis=2), reached.argmax(axis=2), flat.shape[2] - 1)
        y[:, :, i, j] = np.take_along_axis(flat, pick[..., None], axis=2)[..., 0]
        mask[:, :, i, j] = (rows.start + pick // patch.shape[3]) * width + cols.start + pick % patch.shape[3]


def stochastic_pool_mean(x: Array, y: Array, window: Window) -> None:
    """What stochastic pooling gives on average, used when testing: ``sum(x^2) / sum(x)``, 0 where the sum is 0 or less."""
    for i, j, rows, cols, _ in _pool_windows(window, x.shape[2:], y.shape[2:]):
        patch = x[:, :, rows, cols]
        total, squares = patch.sum(axis=(2, 3)), (patch * patch).sum(axis=(2, 3))
        y[:, :, i, j] = np.where(total <= 0, 0, squares / np.where(total <= 0, 1, total))


# --- neurons ----------------------------------------------------------------------------------------------------


def elementwise(function: Callable[..., float], arrays: Sequence[Array], scalars: Sequence[float], out: Array) -> None:
    """``out[i] = function(*(a[i] for a in arrays), *scalars)`` for arrays of equal size; ``out`` may be one of them.

    ``function`` is a plain Python function of floats whose body is one return of an expression; it may use ``+ - * /
    **``, comparisons, ``a if c else b``, ``abs``, ``min``, ``max`` and ``exp log sqrt tanh`` of module ``math``.
    """
    values = np.vectorize(lambda *items: function(*items, *scalars), otypes=[np.float64])
    with np.errstate(all="ignore"):
        out.reshape(-1)[...] = values(*(a.reshape(-1).astype(np.float64) for a in arrays)) if out.size else 0


# --- softmax, losses, accuracy ----------------------------------------------------------------------------------


def softmax(x: Array, y: Array) -> None:
    """Softmax over the middle axis: x -> y, both (outer, C, inner); the largest score is subtracted first."""
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)


def softmax_grad(y: Array, dy: Array, dx: Array) -> None:
    """``dx = y * (dy - sum(dy * y))`` over the middle axis of (outer, C, inner) arrays."""
    dx[...] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


def check_labels(label: Array, classes: int | None, ignore_label: int | None, bad: Array) -> None:
    """Writes into int32 ``bad`` () the index of the first label that is neither an integer in 0 .. classes - 1 nor
    ignored, or -1; without ``classes``, that is no integer.
    """
    with np.errstate(invalid="ignore"):
        good = np.isfinite(label) & (label == np.floor(label))
    if classes is not None:
        good &= (label >= 0) & (label < classes)
    index = np.flatnonzero(~good & is_valid(label, ignore_label))
    bad[...] = index[0] if index.size else -1


def loss_normalizer(label: Array, outer: int, ignore_label: int | None, normalization: int, normalizer: Array) -> None:
    """What a loss is divided by (LossParameter.normalization), at least 1, into the scalar ``normalizer``."""
    count = {FULL: label.size, VALID: int(is_valid(label, ignore_label).sum()), BATCH_SIZE: outer, NONE: 1}[
        normalization
    ]
    normalizer[...] = max(count, 1)


def softmax_loss(prob: Array, label: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """Cross entropy of prob (outer, C, inner) against label (outer, inner): sum of -log(max(p, FLT_MIN)) / normalizer.

    Labels are truncated to integers; those equal to ``ignore_label``, or outside 0 .. C - 1, contribute nothing.
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < prob.shape[1])
    p = np.take_along_axis(prob, np.where(valid, index, 0)[:, None, :], axis=1)[:, 0]
    loss[...] = -np.log(np.maximum(p, FLT_MIN))[valid].sum(dtype=np.float64) / normalizer


def softmax_loss_grad(
    prob: Array, label: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """``dx = (prob - onehot(label)) * weight / normalizer``, 0 at ignored positions; weight and normalizer are scalars."""
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label)
    onehot = np.arange(prob.shape[1])[None, :, None] == index[:, None, :]
    dx[...] = np.where(valid[:, None, :], (prob - onehot) * (weight / normalizer), 0)


def accuracy(
    score: Array, label: Array, top_k: int, ignore_label: int | None, correct: Array, per_class: Array, seen: Array
) -> None:
    """Share of labels among the ``top_k`` scores: score (outer, C, inner), label (outer, inner) -> scalar ``correct``.

    A score that is NaN counts as the highest of others, and is never right itself.

    ``per_class`` (C,) gets each class's own share and is scratch before that, as is ``seen`` (C,).  Ties count against
    the label (Caffe): it is right if at most ``top_k`` classes, itself included, score as high.
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < score.shape[1])
    safe = np.where(valid, index, 0)
    own = np.take_along_axis(score, safe[:, None, :], axis=1)
    hit = ((~(score < own)).sum(axis=1) <= top_k) & ~np.isnan(own[:, 0]) & valid
    seen[...] = np.bincount(safe[valid], minlength=score.shape[1])
    per_class[...] = np.bincount(safe[hit], minlength=score.shape[1]) / np.maximum(seen, 1)
    correct[...] = hit.sum() / max(int(valid.sum()), 1)


def euclidean_loss(a: Array, b: Array, difference: Array, loss: Array) -> None:
    """``loss = sum((a - b)^2) / 2N`` for a, b of N rows; the difference is kept for the gradient."""
    np.subtract(a, b, out=difference)
    flat = difference.reshape(-1).astype(np.float64)
    loss[...] = flat @ flat / (2 * len(a))


def euclidean_loss_grad(difference: Array, weight: Array, sign: float, dx: Array) -> None:
    """``dx = sign * weight * difference / N``; weight is a scalar array."""
    np.multiply(difference, sign * weight / len(difference), out=dx.reshape(difference.shape))


def contrastive_loss(
    a: Array, b: Array, similar: Array, margin: float, legacy: bool, difference: Array, distance: Array, loss: Array
) -> None:
    """Hadsell, Chopra and LeCun (2006): a, b (N, C), similar (N,) -> scalar loss; keeps a - b (N, C) and |a - b|^2
    (N,).
    """
    np.subtract(a, b, out=difference)
    np.sum(difference * difference, axis=1, out=distance)
    apart = margin - distance if legacy else np.maximum(margin - np.sqrt(distance), 0) ** 2
    terms = np.where(similar.astype(np.int64) != 0, distance, np.maximum(apart, 0))
    loss[...] = terms.sum(dtype=np.float64) / (2 * len(a))


def contrastive_loss_grad(
    difference: Array,
    distance: Array,
    similar: Array,
    margin: float,
    legacy: bool,
    weight: Array,
    sign: float,
    dx: Array,
) -> None:
    """Gradient of the contrastive loss for one side: dx (N, C); ``sign`` +1 for a, -1 for b; ``weight`` is a scalar
    array.

    The distance in the denominator gets 1e-4 added (Caffe).
    """
    d = np.sqrt(distance)
    if legacy:
        factor = np.where(margin - distance <= 0, 0.0, -1.0)
    else:
        factor = np.where(margin - d <= 0, 0, -(margin - d) / (d + 1e-4))
    factor = np.where(similar.astype(np.int64) != 0, 1.0, factor)
    dx[...] = (sign * weight / len(dx)) * factor[:, None] * difference


# --- solver updates ---------------------------------------------------------------------------------------------


def clip_by_norm(g: Array, limit: float, norm: Array) -> None:
    """Scales g so that its L2 norm is at most ``limit``; the norm it had goes into the scalar ``norm``."""
    flat = g.reshape(-1).astype(np.float64)
    norm[...] = np.sqrt(flat @ flat)
    if norm > limit:
        g *= limit / norm


def _regularized(w: Array, g: Array, scale: float, decay: float, l1: bool) -> Array:
    return g * scale + decay * (np.sign(w) if l1 else w)


def sgd_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of SGD with momentum on flat w: ``h = momentum * h + rate * g'``, ``w -= h``; g is left holding the
    step.

    ``g' = scale * g + decay * w`` (or ``decay * sign(w)`` if ``l1``), as in every update here.
    """
    h[...] = momentum * h + rate * _regularized(w, g, scale, decay, l1)
    g[...] = h
    w -= h


def nesterov_update(
    w: Array, g: Array, h: Array, rate: float, momentum: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of Nesterov's accelerated gradient: ``h' = momentum * h + rate * g'``, ``w -= (1 + momentum) h' -
    momentum * h``.
    """
    before = momentum * h
    h[...] = before + rate * _regularized(w, g, scale, decay, l1)
    g[...] = (1 + momentum) * h - before
    w -= g


def adagrad_update(
    w: Array, g: Array, h: Array, rate: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of AdaGrad: ``h += g'^2``, ``w -= rate * g' / (sqrt(h) + delta)``."""
    g[...] = _regularized(w, g, scale, decay, l1)
    h += g * g
    g *= rate / (np.sqrt(h) + delta)
    w -= g


def rmsprop_update(
    w: Array, g: Array, h: Array, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool
) -> None:
    """One step of RMSProp: ``h = memory * h + (1 - memory) g'^2``, ``w -= rate * g' / (sqrt(h) + delta)``."""
    g[...] = _regularized(w, g, scale, decay, l1)
    h[...] = memory * h + (1 - memory) * g * g
    g *= rate / (np.sqrt(h) + delta)
    w -= g


def adadelta_update(
    w: Array,
    g: Array,
    h: Array,
    steps: Array,
    rate: float,
    memory: float,
    delta: float,
    scale: float,
    decay: float,
    l1: bool,
) -> None:
    """One step of AdaDelta: ``h`` and ``steps`` are running means of ``g'^2`` and of ``u^2``.

    ``u = g' * sqrt((steps + delta) / (h + delta))``, with h of this step and steps of the last; ``w -= rate * u``.
    """
    g[...] = _regularized(w, g, scale, decay, l1)
    h[...] = memory * h + (1 - memory) * g * g
    g *= np.sqrt((steps + delta) / (h + delta))
    steps[...] = memory * steps + (1 - memory) * g * g
    g *= rate
    w -= g


def adam_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    rate: float,
    beta1: float,
    beta2: float,
    delta: float,
    scale: float,
    decay: float,
    l1: bool,
) -> None:
    """One step of Adam: m and v are running means of ``g'`` and ``g'^2``; ``w -= rate * m / (sqrt(v) + delta)``.

    ``rate`` holds the correction for the zeros that m and v start from.
    """
    g[...] = _regularized(w, g, scale, decay, l1)
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    g[...] = rate * m / (np.sqrt(v) + delta)
    w -= g
