"""Any scalar formula over channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minicaffe.kernels.reference.arrays import Array


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
