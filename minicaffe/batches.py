"""pycaffe's passes over any number of items: arrays go into a net batch by batch, and the rows of its blobs
come out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.errors import NetError

if TYPE_CHECKING:
    from minicaffe.net import Net


def assign(blobs: Mapping[str, Blob], arrays: Mapping[str, Any], part: str, what: str) -> None:
    """Copy arrays into the "data" or the "diff" of blobs, by name; NetError for one of another shape."""
    for name, values in arrays.items():
        values, blob = np.asarray(values), blobs[name]
        if values.ndim and blob.shape and values.shape[0] != blob.shape[0]:
            raise NetError(f"{what} is not batch sized: '{name}' has shape {blob.shape}, found {values.shape}")
        try:
            getattr(blob, part)[...] = values
        except ValueError:
            raise NetError(f"{what} '{name}' must have shape {blob.shape}; found {values.shape}") from None


def forward_all(net: Net, blobs: Sequence[str] | None, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
    """See ``Net.forward_all``."""
    length = len(next(iter(inputs.values())))
    rows: dict[str, list[NDArray]] = {name: [] for name in OrderedDict.fromkeys([*net.outputs, *(blobs or ())])}
    for batch in _batches(net, inputs):
        _collect(rows, net.forward(blobs, **batch))  # type: ignore[arg-type]
    return _first(length, rows)


def forward_backward_all(
    net: Net, blobs: Sequence[str] | None, diffs: Sequence[str] | None, arrays: Mapping[str, Any]
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """See ``Net.forward_backward_all``."""
    inputs = {name: values for name, values in arrays.items() if name in net.inputs}
    tops = {name: values for name, values in arrays.items() if name in net.outputs}
    length = len(next(iter(arrays.values())))
    outs: dict[str, list[NDArray]] = {name: [] for name in OrderedDict.fromkeys([*net.outputs, *(blobs or ())])}
    grads: dict[str, list[NDArray]] = {name: [] for name in OrderedDict.fromkeys([*net.inputs, *(diffs or ())])}
    for forward, backward in zip_longest(_batches(net, inputs), _batches(net, tops)):
        _collect(outs, net.forward(blobs, **forward or {}))
        _collect(grads, net.backward(diffs, **backward or {}))
    return _first(length, outs), _first(length, grads)


def _collect(rows: dict[str, list[NDArray]], values: Mapping[str, NDArray]) -> None:
    for name, collected in rows.items():
        collected.extend(np.atleast_1d(values[name]).copy())


def _first(length: int, rows: Mapping[str, list[NDArray]]) -> dict[str, NDArray]:
    return {name: np.asarray(values)[:length] for name, values in rows.items()}


def _batches(net: Net, arrays: Mapping[str, Any]) -> Iterator[dict[str, NDArray]]:
    """Full batches of the items, the last one padded with zeros."""
    if not arrays:
        return
    size = net._blobs[0].shape[0]
    for start in range(0, len(next(iter(arrays.values()))), size):
        batch = {name: np.asarray(values[start : start + size], net.dtype) for name, values in arrays.items()}
        for name, values in batch.items():
            missing = size - len(values)
            if missing:
                batch[name] = np.concatenate([values, np.zeros((missing, *values.shape[1:]), net.dtype)])
        yield batch
