"""Input, and the base of all layers that bring data into a net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from minicaffe import proto
from minicaffe.backend import ranks
from minicaffe.blob import Blob
from minicaffe.layers.base import Count, Layer


class Source(Layer):
    """Base of layers without bottoms: nothing flows backward."""

    shares_records: ClassVar[bool] = False
    """Whether each of several processes that work together reads its ``share`` of the records."""
    bottoms = 0
    tops: Count = (1, None)
    per_element = 0
    fixed = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        pass

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        pass

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        pass

    def share(self) -> tuple[int, int]:
        """Which records to read: those whose number is the first of the two modulo the second."""
        return ranks.share(self.phase == proto.TRAIN)

    def once_or_per_top(self, field: str, found: int, tops: int, optional: bool = False) -> None:
        """``field`` must be given once, or once for each top; or not at all if it is optional."""
        if found not in (1, tops) and not (optional and found == 0):
            raise self.error(f"must be given once, or once for each of the {tops} tops; found {found}", field)


class Input(Source):
    """Tops that the user fills before each forward: ``input_param.shape`` gives their shapes, once or once a top.

    Caffe: without a shape the tops stay empty until the user reshapes them.
    """

    type = "Input"
    shares_records = True  # by whoever fills it
    param = "input_param"
    moves = False
    capturable = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = self.layer_param.input_param.shape
        self.once_or_per_top("shape", len(shapes), len(top), optional=True)
        self.require_sizes(*(shape.dim for shape in shapes))
        for i, blob in enumerate(top if shapes else ()):
            blob.reshape(*shapes[i if len(shapes) > 1 else 0].dim)

    def fills_once(self, index: int) -> bool:
        return True
