"""Initial values of blobs: Caffe's seven fillers and two of forks, drawn from Caffe's random stream bit for bit.

A filler is a function ``(values, param, stream)`` that overwrites ``values``, an array of one axis or more; ``param``
is a FillerParameter message. In what follows ``n`` is, by ``variance_norm``, the number of inputs of one output
(``FAN_IN = count / shape[0]``), of outputs of one input (``FAN_OUT = count / shape[1]``) or their mean (``AVERAGE``).
Samples are float32; a float64 blob gets the same numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np

from minicaffe import limits, proto
from minicaffe.backend import random
from minicaffe.errors import LayerError

_WORKING = 2.3
"""Bytes that drawing takes for each of the blob, which themselves may not have been touched before."""


def fill(array: np.ndarray, filler_param: Any, stream: random.Stream | None = None) -> None:
    """Overwrite ``array`` (a blob's values, float32 or float64, of the blob's shape) as ``filler_param`` says.

    ``stream`` is the process-wide one unless given. Raises LayerError, naming the filler and its field, for an
    unknown type, a value out of its range, or a blob without elements; OutOfMemoryError if drawing takes more than
    there is.
    """
    name = filler_param.type
    if name not in FILLERS:
        near = difflib.get_close_matches(name, FILLERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LayerError(f"unknown filler type {name!r} (known types: {', '.join(sorted(FILLERS))}){hint}")
    if array.size == 0:
        raise LayerError(f"filler {name!r}: the blob of shape {array.shape} has no elements to fill")
    if name != "gaussian" and filler_param.sparse != -1:
        raise _invalid(filler_param, "sparse", "only the gaussian filler can be sparse: remove the field")
    if name != "constant":
        limits.require_memory(
            int(_WORKING * array.nbytes), f"filling a blob of shape {array.shape}", "check the shapes"
        )
    FILLERS[name](np.atleast_1d(array), filler_param, stream or random.stream())


def _constant(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """Every element is ``value``; no draw is taken."""
    values[...] = param.value


def _uniform(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """U[min, max]."""
    try:
        samples = stream.uniform(param.min, param.max, values.size)
    except ValueError as error:
        raise _invalid(param, "max", f"it must be finite and no less than min, which is {param.min:g}") from error
    values[...] = samples.reshape(values.shape)


def _gaussian(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """N(mean, std^2); ``sparse = k >= 0`` then keeps an element with probability ``k / shape[0]`` and zeroes
    the rest.
    """
    outputs = values.shape[0]
    if not 0 < param.std < np.inf:
        raise _invalid(param, "std", "it must be finite and greater than 0 (the constant filler gives equal values)")
    if not -1 <= param.sparse <= outputs:
        raise _invalid(param, "sparse", f"it must lie in [0, {outputs}], the outputs of this blob, or be -1 for dense")
    values[...] = stream.gaussian(param.mean, param.std, values.size).reshape(values.shape)
    if param.sparse >= 0:
        values *= stream.bernoulli(np.float32(param.sparse) / np.float32(outputs), values.size).reshape(values.shape)


def _gaussian_unitball(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """N(0, 1), whatever ``mean`` and ``std`` are; then each slice along axis 0 is divided by its length (happynear)."""
    rows = stream.gaussian(0, 1, values.size).reshape(len(values), -1)
    values[...] = (rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True) + 1e-12)).reshape(values.shape)


def _identity(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """1 where the first two axes' indices are equal, else 0; no draw is taken.  For as many outputs as inputs of one
    weight each (happynear).
    """
    if values.ndim < 2 or values.shape[0] != values.shape[1] or values.size != len(values) ** 2:
        raise LayerError(
            f"filler 'identity': the blob's shape is {values.shape}, it must have as many outputs as inputs, and one "
            "weight for each two"
        )
    values[...] = np.eye(len(values), dtype=values.dtype).reshape(values.shape)


def _positive_unitball(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """U[0, 1], then each slice along axis 0 is divided by its sum."""
    rows = stream.uniform(0, 1, values.size).reshape(len(values), -1)
    rows /= np.cumsum(rows, axis=1)[:, -1:]  # summed in Caffe's order: np.sum adds pairwise and rounds otherwise
    values[...] = rows.reshape(values.shape)


def _xavier(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """U[-s, s], s = sqrt(3 / n): the variance 1 / n of Glorot & Bengio, "Understanding the difficulty of training deep
    feedforward neural networks" (AISTATS 2010), there with AVERAGE."""
    scale = np.sqrt(np.float32(3) / _fan(values.shape, param.variance_norm))
    values[...] = stream.uniform(-scale, scale, values.size).reshape(values.shape)


def _msra(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """N(0, 2 / n), which keeps the variance through ReLUs: He, Zhang, Ren & Sun, "Delving deep into rectifiers"
    (ICCV 2015).  ``alpha`` (happynear), the slope of a PReLU below 0, makes it ``2 / (n (1 + alpha^2))``.
    """
    if not np.isfinite(param.alpha):
        raise _invalid(param, "alpha", "it must be finite")
    std = np.sqrt(np.float32(2) / _fan(values.shape, param.variance_norm) / np.float32(1 + param.alpha**2))
    values[...] = stream.gaussian(0, std, values.size).reshape(values.shape)


def _bilinear(values: np.ndarray, param: Any, stream: random.Stream) -> None:
    """The kernel of bilinear upsampling, for a Deconvolution of shape (channels, 1, size, size) with one group a
    channel.

    Element (y, x) of every slice is ``(1 - |x / f - c|) (1 - |y / f - c|)`` with ``f = ceil(size / 2)`` and
    ``c = (size - 1) / (2 f)``; no draw is taken.
    """
    if values.ndim != 4 or values.shape[2] != values.shape[3]:
        raise LayerError(
            f"filler 'bilinear': the blob's shape is {values.shape}, it must have 4 axes and a square kernel"
        )
    size = values.shape[3]
    factor = values.dtype.type((size + 1) // 2)
    centre = (size - 1) / (2 * factor)
    slope = 1 - np.abs(np.arange(size, dtype=values.dtype) / factor - centre)
    values[...] = np.outer(slope, slope)


FILLERS: dict[str, Callable[[np.ndarray, Any, random.Stream], None]] = {
    "bilinear": _bilinear,
    "constant": _constant,
    "gaussian": _gaussian,
    "gaussian_unitball": _gaussian_unitball,
    "identity": _identity,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
}


def _fan(shape: tuple[int, ...], variance_norm: int) -> np.float32:
    """The ``n`` of the module's docstring."""
    count = int(np.prod(shape))
    fan_in = count // shape[0]
    fan_out = count // shape[1] if len(shape) > 1 else count
    if variance_norm == proto.FillerParameter.AVERAGE:
        return np.float32(fan_in + fan_out) / np.float32(2)
    return np.float32(fan_out if variance_norm == proto.FillerParameter.FAN_OUT else fan_in)


def _invalid(param: Any, field: str, constraint: str) -> LayerError:
    return LayerError(f"filler {param.type!r}: {field} is {getattr(param, field):g}; {constraint}")
