"""What pycaffe's passes are called with: names of blobs, arrays for a batch, and any number of items, which go into a
net batch by batch while the rows of its blobs come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.errors import NetError, UnknownNameError

if TYPE_CHECKING:
    from minicaffe.named_passes import NamedPasses

_MISMATCH = {
    "data": ("Input blob arguments do not match net inputs", "Input"),
    "diff": ("Top diff arguments do not match net outputs", "Diff"),
}


def with_named(net: NamedPasses, names: Sequence[str], further: Iterable[str] | None, argument: str) -> list[str]:
    """``names`` and those that ``further`` adds; NetError unless these are blobs' names."""
    if further is None:
        return list(names)
    found = list(further) if isinstance(further, Iterable) else [further]
    if isinstance(further, str) or not all(isinstance(name, str) for name in found):
        wrong = next((name for name in found if not isinstance(name, str)), further)
        kinds = repr(further) if wrong is further else f"{type(further).__name__} of {type(wrong).__name__}"
        inputs = ", ".join(f"{name}=…" for name in net.inputs)
        raise NetError(
            f"net '{net.name}': {argument} takes a list of names of blobs; found {kinds}"
            + (f". Arrays are given by the names of inputs: {inputs}" if inputs else "")
        )
    for name in found:
        try:
            net.blobs[name]
        except UnknownNameError as error:
            raise NetError(f"net '{net.name}': {error}") from None
    return list(dict.fromkeys([*names, *found]))


def assign(net: NamedPasses, expected: Sequence[str], arrays: Mapping[str, Any], part: str) -> None:
    """Copy arrays into the "data" of all inputs or the "diff" of all outputs, ``expected``, by name.

    NetError, before any is copied, unless there is one for each, batch sized and of its shape.
    """
    mismatch, what = _MISMATCH[part]
    if set(arrays) != set(expected):
        raise NetError(f"{mismatch}: found {sorted(arrays)}, expected {list(expected)}")
    fitting = {name: _fitting(values, net.blobs[name].shape, f"{what} '{name}'") for name, values in arrays.items()}
    for name, values in fitting.items():
        getattr(net.blobs[name], part)[...] = values


def _fitting(values: Any, shape: tuple[int, ...], what: str) -> NDArray:
    """``values`` as an array that can be put into a blob of this shape."""
    array = _as_array(values, what)
    while array.ndim > len(shape) and len(array) == 1:
        array = array[0]
    if array.ndim and shape and array.shape[0] != shape[0]:
        raise NetError(
            f"{what} is not batch sized: the blob has shape {shape}, found {array.shape}; forward_all takes any number "
            "of items, and net.blobs[…].reshape(…) changes the blob"
        )
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise NetError(f"{what} must have shape {shape}; found {array.shape}") from None


def _as_array(values: Any, what: str) -> NDArray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise NetError(f"{what} must be an array of numbers ({error})") from None
    if array.dtype.kind not in "buif":
        raise NetError(f"{what} must be an array of numbers; found {array.dtype}")
    return array


def forward_all(net: NamedPasses, blobs: Sequence[str] | None, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
    """See ``Net.forward_all``."""
    names = with_named(net, net.outputs, blobs, "blobs")
    length = _items(net, inputs, net.inputs, "forward_all")
    rows: dict[str, list[NDArray]] = {name: [] for name in names}
    for batch in split(net, inputs):
        _collect(rows, net.forward(blobs, **batch))  # type: ignore[arg-type]
    return _first(length, rows)


def forward_backward_all(
    net: NamedPasses, blobs: Sequence[str] | None, diffs: Sequence[str] | None, arrays: Mapping[str, Any]
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """See ``Net.forward_backward_all``."""
    outs: dict[str, list[NDArray]] = {name: [] for name in with_named(net, net.outputs, blobs, "blobs")}
    grads: dict[str, list[NDArray]] = {name: [] for name in with_named(net, net.inputs, diffs, "diffs")}
    length = _items(net, arrays, [*net.inputs, *net.outputs], "forward_backward_all")
    inputs = {name: values for name, values in arrays.items() if name in net.inputs}
    tops = {name: values for name, values in arrays.items() if name in net.outputs}
    for forward, backward in zip_longest(split(net, inputs), split(net, tops)):
        _collect(outs, net.forward(blobs, **forward or {}))
        _collect(grads, net.backward(diffs, **backward or {}))
    return _first(length, outs), _first(length, grads)


def _items(net: NamedPasses, arrays: Mapping[str, Any], names: Sequence[str], method: str) -> int:
    """How many items there are; NetError unless all arrays have as many, and names that they can have."""
    if not arrays or not set(arrays) <= set(names):
        raise NetError(
            f"net '{net.name}': {method} takes arrays by name, for {', '.join(names)}; found "
            f"{', '.join(arrays) or 'none'}" + ("" if net.inputs else ". A net without inputs runs by forward()")
        )
    shapes = {name: _as_array(values, f"'{name}'").shape for name, values in arrays.items()}
    if not all(shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        raise NetError(f"net '{net.name}': {method} takes equally many items for each name; found shapes {shapes}")
    return next(iter(shapes.values()))[0]


def _collect(rows: dict[str, list[NDArray]], values: Mapping[str, NDArray]) -> None:
    for name, collected in rows.items():
        collected.extend(np.atleast_1d(values[name]).copy())


def _first(length: int, rows: Mapping[str, list[NDArray]]) -> dict[str, NDArray]:
    return {name: np.asarray(values)[:length] for name, values in rows.items()}


def split(net: NamedPasses, arrays: Mapping[str, Any]) -> Iterator[dict[str, NDArray]]:
    """Full batches of the items, the last one padded with zeros; the net's first blob has the size of a batch."""
    if not arrays:
        return
    size = max(1, *net._blobs[0].shape[:1])
    for start in range(0, len(next(iter(arrays.values()))), size):
        batch = {name: np.asarray(values[start : start + size], net.dtype) for name, values in arrays.items()}
        for name, values in batch.items():
            missing = size - len(values)
            if missing:
                batch[name] = np.concatenate([values, np.zeros((missing, *values.shape[1:]), net.dtype)])
        yield batch
