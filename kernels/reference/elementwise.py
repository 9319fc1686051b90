"""Any scalar formula, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def elementwise(function: Callable[..., float], arrays: Sequence[Array], scalars: Sequence[float], out: Array) -> None:
    """``out[i] = function(*(a[i] for a in arrays), *scalars)`` for arrays of equal size; ``out`` may be one of them.

    ``function`` is a plain Python function of floats whose body is one return of an expression; it may use ``+ - * /
    **``, comparisons, ``a if c else b``, ``abs``, ``min``, ``max`` and ``exp log sqrt tanh`` of module ``math``.
    """
    values = np.vectorize(lambda *items: function(*items, *scalars), otypes=[np.float64])
    with np.errstate(all="ignore"):
        out.reshape(-1)[...] = values(*(a.reshape(-1).astype(np.float64) for a in arrays)) if out.size else 0
