"""Layers that bring data into a net: Input, DummyData, Data."""

from __future__ import annotations

from typing import Any

from minicaffe import fillers, proto
from minicaffe.backend import random
from minicaffe.data.source import DatumSource
from minicaffe.errors import DataError
from minicaffe.layers.base import Layer


class Source(Layer):
    """Base of layers without bottoms: nothing flows backward."""

    bottoms = 0
    tops = (1, None)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass

    def data_error(self, problem: object) -> DataError:
        """A DataError naming this layer and where it stands."""
        place = self.definition.where(self.name, self.phase, None)
        return DataError(f"{place + ': ' if place else ''}layer '{self.name}' ({self.type}): {problem}")

    def once_or_per_top(self, field: str, found: int, tops: int, optional: bool = False) -> None:
        """``field`` must be given once, or once for each top; or not at all if it is optional."""
        if found not in (1, tops) and not (optional and found == 0):
            raise self.error(f"must be given once, or once for each of the {tops} tops; found {found}", field)


class Input(Source):
    """Tops that the user fills before each forward: ``input_param.shape`` gives their shapes, once or once a top.

    Caffe: without a shape the tops stay empty until the user reshapes them.
    """

    type = "Input"
    param = "input_param"

    def setup(self, bottom, top):
        shapes = self.layer_param.input_param.shape
        self.once_or_per_top("shape", len(shapes), len(top), optional=True)
        for i, blob in enumerate(top if shapes else ()):
            blob.reshape(*shapes[i if len(shapes) > 1 else 0].dim)


class DummyData(Source):
    """Tops filled by ``data_filler`` (default: zeros), of given ``shape`` or legacy num, channels, height, width.

    Caffe: tops of a constant filler are filled once, so what a user writes there stays; others anew at each forward.
    """

    type = "DummyData"
    param = "dummy_data_param"
    LEGACY = ("num", "channels", "height", "width")

    def setup(self, bottom, top):
        options = self.layer_param.dummy_data_param
        self.once_or_per_top("data_filler", len(options.data_filler), len(top), optional=True)
        legacy = [getattr(options, field) for field in self.LEGACY]
        self.require(
            not (options.shape and any(legacy)), "Both shape and legacy fields were specified; give only shape", "shape"
        )
        if options.shape:
            self.once_or_per_top("shape", len(options.shape), len(top))
            shapes = [list(shape.dim) for shape in options.shape]
        else:
            for field, values in zip(self.LEGACY, legacy, strict=True):
                self.once_or_per_top(field, len(values), len(top))
            shapes = [[self._of(values, i) for values in legacy] for i in range(max(map(len, legacy)))]
        given = list(options.data_filler) or [proto.FillerParameter()]
        self.refilled = []
        for i, blob in enumerate(top):
            blob.reshape(*self._of(shapes, i))
            filler = self._of(given, i)
            self._fill(blob, filler)
            if filler.type != "constant":
                self.refilled.append((i, filler))

    @staticmethod
    def _of(values: Any, i: int) -> Any:
        return values[i if len(values) > 1 else 0]

    def _fill(self, blob, filler):
        try:
            fillers.fill(blob.data, filler)
        except fillers.LayerError as error:
            raise self.error(str(error), "data_filler") from None

    def forward(self, bottom, top):
        for i, filler in self.refilled:
            self._fill(top[i], filler)


class Data(Source):
    """Batches of images and labels from a database of Datums (LMDB or LevelDB), read and transformed ahead in a thread.

    Tops: images (batch_size, C, H, W), or crop_size × crop_size; if a second is named, labels (batch_size,).
    ``transform_param``: scale, mean_file or mean_value, crop_size, mirror.  At the end of the database reading goes on from
    its start.
    Caffe: ``backend`` is LEVELDB unless set.  The position and the random stream are part of a snapshot here.
    """

    type = "Data"
    param = "data_param"
    tops = (1, 2)
    reshape_always = True

    def setup(self, bottom, top):
        options = proto.DataParameter()
        options.CopyFrom(self.layer_param.data_param)
        transform = proto.TransformationParameter()
        transform.CopyFrom(self.layer_param.transform_param)
        options.source = self.find_file(options.source)
        if transform.mean_file:
            transform.mean_file = self.find_file(transform.mean_file)
        try:
            self.batches = DatumSource(options, transform, self.phase, random.stream())
        except DataError as error:
            raise self.data_error(error) from None
        num = options.batch_size
        for blob, shape in zip(top, ((num, *self.batches.shape), (num,)), strict=False):
            blob.reshape(*shape)

    def forward(self, bottom, top):
        try:
            batch = self.batches.next_batch()
        except DataError as error:
            raise self.data_error(error) from None
        for blob, values in zip(top, (batch.data, batch.label), strict=False):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def state(self) -> dict[str, Any]:
        """Where reading stands, for a snapshot."""
        return self.batches.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on reading from a ``state``."""
        self.batches.restore(state)

    def close(self) -> None:
        """Stop reading ahead, and close the database."""
        self.batches.close()
