"""The names with an underscore that pycaffe's compiled Net has, and that its Python half and some scripts use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step


class RawViews:
    """Base of Net: layers and blobs by number."""

    steps: Sequence[Step]
    inputs: Sequence[str]
    outputs: Sequence[str]
    blob_loss_weights: Mapping[str, float]
    _blob_list: Sequence[tuple[str, Blob]]

    @property
    def _layer_names(self) -> list[str]:
        return [step.layer.name for step in self.steps]

    @property
    def _blob_names(self) -> list[str]:
        return [name for name, _ in self._blob_list]

    def _names(self, blob_ids: Iterable[int]) -> list[str]:
        """Names of blobs by number."""
        return [self._blob_list[i][0] for i in blob_ids]

    @property
    def _blobs(self) -> list[Blob]:
        return [blob for _, blob in self._blob_list]

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self.blob_loss_weights[name] for name in self._blob_names]

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    def _bottom_ids(self, index: int) -> list[int]:
        return self.steps[index].bottom_ids

    def _top_ids(self, index: int) -> list[int]:
        return self.steps[index].top_ids
