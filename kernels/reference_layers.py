"""More primitives in plain NumPy, with the conventions of ``reference``, which exports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray
LOG_FLOOR = 1e-20
"""The least probability of the losses that take probabilities."""

__all__ = [
    "LOG_FLOOR",
    "channel_sum",
    "channelwise",
    "gather_rows",
    "hinge_loss",
    "hinge_loss_grad",
    "infogain_loss",
    "infogain_loss_grad",
    "lrn",
    "lrn_grad",
    "lrn_within",
    "lrn_within_grad",
    "lstm_unit",
    "lstm_unit_grad",
    "multinomial_loss",
    "multinomial_loss_grad",
    "scale",
    "scale_grad",
    "scatter_rows",
    "sigmoid_loss",
    "sigmoid_loss_grad",
    "standardize",
    "standardize_grad",
]


def is_valid(label: Array, ignore_label: int | None) -> Array:
    """Which labels are not the one to ignore."""
    return np.ones(label.shape, bool) if ignore_label is None else label != ignore_label


# --- formulas with one value a channel ----------------------------------------------------------------------------


def _apply(
    function: Callable[..., float], arrays: Sequence[Array], vectors: Sequence[Array], scalars: Sequence[float]
) -> Array:
    values = np.vectorize(lambda *items: function(*items, *scalars), otypes=[np.float64])
    operands = [*arrays, *(np.broadcast_to(v[:, None], arrays[0].shape) for v in vectors)]
    with np.errstate(all="ignore"):
        return values(*(a.astype(np.float64) for a in operands)) if arrays[0].size else np.zeros(arrays[0].shape)


def channelwise(
    function: Callable[..., float],
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    scalars: Sequence[float],
    out: Array,
) -> None:
    """``out[n, c, i] = function(*(a[n, c, i] for a in arrays), *(v[c] for v in vectors), *scalars)``.

    ``arrays`` and ``out`` (N, C, inner), ``vectors`` (C,); ``out`` may be one of the arrays.  ``function`` as in
    ``elementwise``.
    """
    out[...] = _apply(function, arrays, vectors, scalars)


def channel_sum(
    function: Callable[..., float],
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    scalars: Sequence[float],
    out: Array,
) -> None:
    """Accumulates the values of ``channelwise``, summed over N and inner, into ``out`` (C,)."""
    out += _apply(function, arrays, vectors, scalars).sum(axis=(0, 2))


# --- standardising and scaling channels ---------------------------------------------------------------------------


def _rectified(z: Array, slope: float) -> Array:
    return np.where(z > 0, z, z * z.dtype.type(slope))


def standardize(
    x: Array,
    eps: float,
    mean: Array,
    variance: Array,
    factor: Array,
    y: Array,
    kept: Array | None,
    v: Array | None = None,
    b: Array | None = None,
    slope: float = 1.0,
) -> None:
    """``y = r((x - mean) factor v + b)``, ``factor = 1 / sqrt(variance + eps)``, with each channel's own mean and
    variance.

    x, y (N, C, inner); mean, variance and factor (C,) are written, too.  v and b (C,) are 1 and 0 if they are None, as
    both are or neither.  ``r(z)`` is z if z > 0, else ``slope z``.  ``kept`` gets a copy of x if it is not None; y may
    be x.
    """
    if kept is not None:
        kept[...] = x
    mean[...] = x.mean(axis=(0, 2), dtype=np.float64)
    variance[...] = np.square(x - mean[:, None]).mean(axis=(0, 2), dtype=np.float64)
    factor[...] = 1 / np.sqrt(variance + eps)
    z = (x - mean[:, None]) * factor[:, None]
    if v is not None and b is not None:
        z = z * v[:, None] + b[:, None]
    y[...] = _rectified(z, slope)


def standardize_grad(
    x: Array,
    dy: Array,
    mean: Array,
    factor: Array,
    dy_mean: Array,
    dot_mean: Array,
    dx: Array,
    y: Array | None = None,
    v: Array | None = None,
    dv: Array | None = None,
    db: Array | None = None,
    slope: float = 1.0,
) -> None:
    """Gradients of ``standardize``: ``dx = (g - mean(g) - z mean(g z)) factor v`` with ``z = (x - mean) factor``.

    g is dy where y > 0, else ``slope dy``; y may be None if the slope is 1.  x, dy, y, dx (N, C, inner), the others
    (C,). v is 1 if it is None.  Accumulates g z and g, summed over N and inner, into dv and db if they are not None
    (nor v). ``dy_mean`` and ``dot_mean`` get the means of g and g z.  dx may be dy.
    """
    z = (x - mean[:, None]) * factor[:, None]
    g = dy if y is None else np.where(y > 0, dy, dy * dy.dtype.type(slope))
    dy_mean[...] = g.mean(axis=(0, 2), dtype=np.float64)
    dot_mean[...] = (g * z).mean(axis=(0, 2), dtype=np.float64)
    dx[...] = (g - dy_mean[:, None] - z * dot_mean[:, None]) * factor[:, None]
    if v is not None:
        dx *= v[:, None]
        for total, values in ((dv, g * z), (db, g)):
            if total is not None:
                total += values.sum(axis=(0, 2), dtype=np.float64)


def scale(
    x: Array,
    v: Array,
    b: Array | None,
    y: Array,
    kept: Array | None,
    centre: Array | None = None,
    slope: float = 1.0,
) -> None:
    """``y = r((x - centre) v + b)``: x, y (N, C, inner), v, b and centre (C,).

    b is 0 if it is None, as is centre, which takes a b.  ``r(z)`` is z if z > 0, else ``slope z``.  ``kept`` gets a
    copy of x if it is not None; y may be x.
    """
    if kept is not None:
        kept[...] = x
    z = (x if centre is None else x - centre[:, None]) * v[:, None]
    if b is not None:
        z += b[:, None]
    y[...] = _rectified(z, slope)


def scale_grad(x: Array, dy: Array, v: Array, dx: Array | None, dv: Array | None, db: Array | None) -> None:
    """Gradients of ``y = x v + b``: ``dx = dy v``; accumulates dy x and dy, summed over N and inner, into dv and db.

    Those that are None are not computed; dx may be dy.
    """
    if dv is not None:
        dv += (x * dy).sum(axis=(0, 2), dtype=np.float64)
    if db is not None:
        db += dy.sum(axis=(0, 2), dtype=np.float64)
    if dx is not None:
        np.multiply(dy, v[:, None], out=dx)


# --- rows ---------------------------------------------------------------------------------------------------------


def gather_rows(x: Array, index: Array, y: Array) -> None:
    """``y[m] = x[index[m]]``: x (R, K), index (M,) truncated to integers, y (M, K); zeros where no such row is."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    y[...] = np.where(inside[:, None], x[np.where(inside, row, 0)], 0)


def scatter_rows(y: Array, index: Array, x: Array) -> None:
    """Accumulates ``x[index[m]] += y[m]``, the transpose of ``gather_rows``."""
    row = index.astype(np.int64)
    inside = (row >= 0) & (row < len(x))
    np.add.at(x, row[inside], y[inside])


# --- local response normalisation -----------------------------------------------------------------------------------


def _neighbours(x: Array, size: int) -> Iterator[Array]:
    """x (N, C, inner) shifted by each of the ``size`` channel offsets of a centred window, zeros coming in."""
    half = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)))
    for offset in range(size):
        yield padded[:, offset : offset + x.shape[1]]


def lrn(x: Array, scale: Array, y: Array, size: int, alpha: float, beta: float, k: float) -> None:
    """Normalisation across ``size`` channels: x, scale, y (N, C, inner).

    ``scale = k + alpha / size * (sum of x^2 over the window)``, ``y = x * scale^-beta``.
    """
    scale[...] = k + alpha / size * sum(_neighbours(x * x, size))
    y[...] = x * scale**-beta


def lrn_grad(x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float) -> None:
    """``dx = dy * scale^-beta - 2 alpha beta / size * x * (sum of dy * y / scale over the window)``."""
    dx[...] = dy * scale**-beta - 2 * alpha * beta / size * x * sum(_neighbours(dy * y / scale, size))


def _boxes(x: Array, size: int) -> Iterator[Array]:
    """x (N, C, H, W) shifted by each of the ``size`` x ``size`` pixel offsets of a centred window, zeros coming in."""
    half = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    for h, w in np.ndindex(size, size):
        yield padded[:, :, h : h + x.shape[2], w : w + x.shape[3]]


def lrn_within(x: Array, scale: Array, y: Array, size: int, alpha: float, beta: float) -> None:
    """Normalisation within each channel, over ``size`` x ``size`` pixels: x, scale, y (N, C, H, W); ``size`` is odd.

    ``scale = 1 + alpha / size^2 * (sum of x^2 over the window)``, ``y = x * scale^-beta``.
    """
    scale[...] = 1 + alpha / size**2 * sum(_boxes(x * x, size))
    y[...] = x * scale**-beta


def lrn_within_grad(
    x: Array, y: Array, scale: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float
) -> None:
    """``dx = dy * scale^-beta - 2 alpha beta / size^2 * x * (sum of dy * y / scale over the window)``."""
    dx[...] = dy * scale**-beta - 2 * alpha * beta / size**2 * x * sum(_boxes(dy * y / scale, size))


# --- losses ---------------------------------------------------------------------------------------------------------


def sigmoid_loss(x: Array, target: Array, ignore_label: int | None, normalizer: Array, loss: Array) -> None:
    """Cross entropy of sigmoid(x) and targets of the same size, summed, over the scalar ``normalizer``."""
    positive = x >= 0
    with np.errstate(invalid="ignore"):
        terms = np.log(1 + np.exp(np.where(positive, -x, x))) - x * (target - positive)
    loss[...] = terms[is_valid(target, ignore_label)].sum(dtype=np.float64) / normalizer


def sigmoid_loss_grad(
    x: Array, target: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """``dx = (sigmoid(x) - target) * weight / normalizer``, 0 where the target is ignored."""
    slope = (0.5 * np.tanh(0.5 * x) + 0.5 - target) * (weight / normalizer)
    dx[...] = np.where(is_valid(target, ignore_label), slope, 0)


def _own(prob: Array, label: Array) -> tuple[Array, Array]:
    """Each row's label as an index, and whether it is one of the classes: prob (N, C), label (N,)."""
    index = label.astype(np.int64)
    inside = (index >= 0) & (index < prob.shape[1])
    return np.where(inside, index, 0), inside


def multinomial_loss(prob: Array, label: Array, loss: Array) -> None:
    """Mean of ``-log(max(p, 1e-20))`` of each label's probability: prob (N, C), label (N,) -> scalar."""
    index, inside = _own(prob, label)
    p = np.maximum(prob[np.arange(len(prob)), index], LOG_FLOOR)[inside]
    loss[...] = -np.log(p).sum(dtype=np.float64) / len(prob)


def multinomial_loss_grad(prob: Array, label: Array, weight: Array, dx: Array) -> None:
    """``-weight / (N max(p, 1e-20))`` at each label's place of dx (N, C), 0 elsewhere."""
    index, inside = _own(prob, label)
    rows = np.flatnonzero(inside)
    dx[...] = 0
    dx[rows, index[rows]] = -weight / (len(prob) * np.maximum(prob[rows, index[rows]], LOG_FLOOR))


def hinge_loss(x: Array, label: Array, squared: bool, margin: Array, loss: Array) -> None:
    """One-versus-all hinge loss: x (N, C), label (N,) -> scalar, the mean over N of the sum of margins (or squares).

    ``margin`` (N, C) keeps ``max(0, 1 - s x)`` for the gradient, s being 1 for the label's class and -1 for others.
    """
    own = label.astype(np.int64)[:, None] == np.arange(x.shape[1])
    np.maximum(0, 1 + np.where(own, -x, x), out=margin)
    wide = margin.astype(np.float64)
    loss[...] = (wide * wide if squared else wide).sum() / len(x)


def hinge_loss_grad(margin: Array, label: Array, squared: bool, weight: Array, dx: Array) -> None:
    """Gradient of ``hinge_loss``, dx (N, C); at a margin of exactly 0 it is 0."""
    own = label.astype(np.int64)[:, None] == np.arange(margin.shape[1])
    slope = 2 * margin if squared else np.sign(margin)
    dx[...] = np.where(own, -slope, slope) * (weight / len(margin))


def infogain_loss(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, loss: Array
) -> None:
    """Sum of ``-gain[label, k] log(max(p[k], 1e-20))`` over the scalar ``normalizer``.

    prob (outer, C, inner), label (outer, inner), gain (C, C).
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < len(gain))
    rows = gain[np.where(valid, index, 0)].transpose(0, 2, 1)
    terms = rows * np.log(np.maximum(prob, LOG_FLOOR))
    loss[...] = -np.where(valid[:, None], terms, 0).sum(dtype=np.float64) / normalizer


def infogain_loss_grad(
    prob: Array, label: Array, gain: Array, ignore_label: int | None, normalizer: Array, weight: Array, dx: Array
) -> None:
    """Gradient with respect to the scores under a softmax.

    ``dx[k] = (p[k] sum_j gain[label, j] - gain[label, k]) weight / normalizer``
    """
    index = label.astype(np.int64)
    valid = is_valid(label, ignore_label) & (index >= 0) & (index < len(gain))
    rows = gain[np.where(valid, index, 0)].transpose(0, 2, 1)
    slope = (prob * rows.sum(axis=1, keepdims=True) - rows) * (weight / normalizer)
    dx[...] = np.where(valid[:, None], slope, 0)


# --- long short-term memory -------------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def lstm_unit(c_before: Array, gates: Array, cont: Array, c: Array, h: Array) -> None:
    """One step of an LSTM: c_before, c, h (N, D), gates (N, 4D) i, f, o, g before their nonlinearities, cont (N,).

    ``c = cont sigmoid(f) c_before + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``; where cont is 0, c_before is not
    read.
    """
    i, f, o, g = np.split(gates, 4, axis=1)
    keep = np.where(cont[:, None] == 0, 0, cont[:, None] * _sigmoid(f) * np.where(cont[:, None] == 0, 0, c_before))
    c[...] = keep + _sigmoid(i) * np.tanh(g)
    h[...] = _sigmoid(o) * np.tanh(c)


def lstm_unit_grad(
    c_before: Array, gates: Array, cont: Array, c: Array, dc: Array, dh: Array, dc_before: Array, dgates: Array
) -> None:
    """Gradients of ``lstm_unit``: dc_before (N, D) and dgates (N, 4D) from dc and dh (N, D); dc_before may be dc.

    Caffe: the gradient of f uses ``cont sigmoid(f)`` as if it were a sigmoid's value, which differs if cont is neither
    0 nor 1.
    """
    i, f, o = (_sigmoid(part) for part in np.split(gates[:, : 3 * c.shape[1]], 3, axis=1))
    g, squashed = np.tanh(gates[:, 3 * c.shape[1] :]), np.tanh(c)
    keep = np.where(cont[:, None] == 0, 0, cont[:, None] * f)
    before = np.where(cont[:, None] == 0, 0, c_before)
    total = dc + dh * o * (1 - squashed * squashed)
    dgates[...] = np.concatenate(
        [
            total * g * i * (1 - i),
            total * before * keep * (1 - keep),
            dh * squashed * o * (1 - o),
            total * i * (1 - g * g),
        ],
        axis=1,
    )
    dc_before[...] = total * keep
