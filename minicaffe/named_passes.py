"""Passes as pycaffe's Net runs them: from a layer to another, with arrays in and out, all by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend, batches
from minicaffe.blob import Blob
from minicaffe.engine.executor import Executor
from minicaffe.errors import NetError
from minicaffe.named import Named
from minicaffe.raw_views import RawViews

_log = logging.getLogger(__name__)


class NamedPasses(RawViews):
    """Base of Net, which runs layers by number: by name."""

    name: str
    dtype: np.dtype
    layers: list[Any]
    blobs: Named[Blob]
    top_names: Named[list[str]]
    bottom_names: Named[list[str]]
    _executor: Executor
    _warned_of_gradients: bool

    def run_forward(self, start: int = 0, end: int | None = None) -> None:
        """See ``Net``."""
        raise NotImplementedError

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """See ``Net``."""
        raise NotImplementedError

    def layer_index(self, name: str) -> int:
        """Place of the first layer of this name; NetError if there is none."""
        for index, step in enumerate(self.steps):
            if step.layer.name == name:
                return index
        raise NetError(
            f"net '{self.name}' has no layer '{name}'; it has: {', '.join(s.layer.name for s in self.steps)}"
        )

    def _range(self, first: str | None, last: str | None) -> tuple[int, int]:
        """Places of two layers, the second not before the first; of the net's ends for None."""
        start = 0 if first is None else self.layer_index(first)
        stop = len(self.steps) - 1 if last is None else self.layer_index(last)
        if start > stop and self.steps:
            raise NetError(f"net '{self.name}': layer '{first}' comes after layer '{last}'")
        return start, stop

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, NDArray]:
        """Run forward from layer ``start`` to ``end`` (names, included) and return outputs by name, as live views.

        ``inputs`` are arrays for all net inputs, by name.  ``blobs`` names further blobs to return.  NetError, before
        anything runs, for a name that nothing has and an array that does not fit.
        """
        first, last = self._range(start, end)
        names = batches.with_named(self, self.outputs if end is None else self.top_names[end], blobs, "blobs")
        if inputs:
            batches.assign(self, self.inputs, inputs, "data")
        self.run_forward(first, last)
        backend.current().run_checks()
        return {name: self.blobs[name].data for name in names}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **output_diffs: Any
    ) -> dict[str, NDArray]:
        """Run backward from layer ``start`` down to ``end`` (names, included) and return the inputs' gradients, as live
        views.

        ``output_diffs`` are gradients for all net outputs, by name.  ``diffs`` names further blobs to return.  NetError
        as of ``forward``.
        """
        last, first = self._range(end, start)
        names = batches.with_named(self, self.inputs if end is None else self.bottom_names[end], diffs, "diffs")
        if output_diffs:
            batches.assign(self, self.outputs, output_diffs, "diff")
        if end is None:
            self._warn_of_missing_gradients()
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in names}

    def _warn_of_missing_gradients(self) -> None:
        """Say once that nothing computes the inputs' gradients, which are then returned as they are: zeros."""
        if self._warned_of_gradients:
            return
        self._warned_of_gradients = True
        missing = [name for name in self.inputs if self._executor.leaves_without_gradient(self._blob_names.index(name))]
        if missing:
            _log.warning(
                "net '%s': backward computes no gradient of %s, which stays 0; set force_backward: true in the net",
                self.name,
                ", ".join(missing),
            )

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, NDArray]:
        """Run forward over any number of items, batch after batch, and return copies of all rows of the outputs.

        ``inputs`` are arrays for all net inputs, by name, ``blobs`` names further blobs.  NetError for arrays that do
        not fit, or none.
        """
        return batches.forward_all(self, blobs, inputs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Run forward and backward over any number of items: inputs and output gradients by name; returns (outs,
        diffs).  NetError as of ``forward_all``.
        """
        return batches.forward_backward_all(self, blobs, diffs, arrays)

    def set_input_arrays(self, data: NDArray, labels: NDArray) -> None:
        """Let the first layer, a MemoryData, serve these arrays from the next forward on; see its
        ``set_input_arrays``.
        """
        from minicaffe.layers.data import MemoryData  # here, as it brings all that reads data

        first = self.layers[0] if self.layers else None
        if not isinstance(first, MemoryData):
            raise NetError(
                f"net '{self.name}': set_input_arrays may only be called if the first layer is a MemoryDataLayer"
            )
        first.set_input_arrays(data, labels)

    _set_input_arrays = set_input_arrays

    def _batch(self, blobs: Mapping[str, NDArray]) -> Iterator[dict[str, NDArray]]:
        return batches.split(self, blobs)
