"""The learnable blobs of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe.blob import Blob
from minicaffe.errors import LayerError, ShapeError
from minicaffe.named import Named


class BlobVec(Sequence[Blob]):
    """A layer's learnable blobs, in order; its ``setup`` may append more.

    To put a blob in the place of one of them copies its values into the param, and lets the blob use the param's memory
    from then on: solvers, and layers that share the param, go on with these values.  ShapeError if the shapes differ.
    None is taken away.
    """

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self._blobs: list[Blob] = []
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, index: Any) -> Any:
        return self._blobs[index]

    def __repr__(self) -> str:
        return repr(self._blobs)

    def append(self, blob: Blob) -> None:
        """Take one more."""
        self._blobs.append(blob)

    def add_blob(self, *shape: int) -> Blob:
        """Append a zero-filled blob of this shape; it becomes learnable, with the layer's ``param`` specs."""
        self.append(Blob(shape, self._dtype))
        return self[-1]

    def __setitem__(self, index: Any, blob: Any) -> None:
        old = self[index]
        if not (isinstance(old, Blob) and isinstance(blob, Blob)):
            raise LayerError(f"learnable blobs are replaced one by one, each by a Blob; found {blob!r:.80}")
        if blob is old:
            return
        if blob.shape != old.shape:
            raise ShapeError(
                f"a param of shape {old.shape_string} can be replaced by a blob of the same shape; found "
                f"{blob.shape_string}"
            )
        old.data[...] = blob.peek_data()
        old.diff[...] = blob.peek_diff()
        blob.share_data(old)
        blob.share_diff(old)

    def replace(self, blobs: Sequence[Blob]) -> None:
        """Put these in the place of all; LayerError or ShapeError, before any is replaced, if they do not fit."""
        if not (isinstance(blobs, Sequence) and all(isinstance(blob, Blob) for blob in blobs)):
            raise LayerError(f"learnable blobs are replaced by a list of Blobs; found {blobs!r:.80}")
        if [blob.shape for blob in blobs] != [blob.shape for blob in self]:
            expected, found = (", ".join(blob.shape_string for blob in vec) or "none" for vec in (self, blobs))
            raise ShapeError(f"params of shapes {expected} can be replaced by blobs of the same shapes; found {found}")
        for index, blob in enumerate(blobs):
            self[index] = blob


class ParamsByLayer(Named[BlobVec]):
    """The learnable blobs of a net's layers, by name.  To assign to one of them replaces its blobs one by one."""

    def __init__(self, items: Mapping[str, BlobVec]) -> None:
        super().__init__(items, "layer with params called")

    def __setitem__(self, name: str, blobs: Any) -> None:
        if name in self:
            self[name].replace(blobs)
        else:
            super().__setitem__(name, blobs)
