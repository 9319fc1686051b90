"""Layers that bring data into a net: DummyData, Data, ImageData, WindowData, MemoryData."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import fillers, proto
from minicaffe.backend import random
from minicaffe.blob import Blob
from minicaffe.data import varied_crops
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.image_source import ImageSource
from minicaffe.data.source import Batch, BatchSource
from minicaffe.data.transform import CROP_FIELDS
from minicaffe.data.window_source import WindowSource
from minicaffe.errors import DataError, ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.input import Source
from minicaffe.proto.origin import in_utf8

_log = logging.getLogger(__name__)


class DummyData(Source):
    """Tops filled by ``data_filler`` (default: zeros), of given ``shape`` or legacy num, channels, height, width.

    Caffe: tops of a constant filler are filled once, so what a user writes there stays; others anew at each forward.
    Here those that a layer works on in place are filled anew, too.
    """

    type = "DummyData"
    param = "dummy_data_param"
    LEGACY = ("num", "channels", "height", "width")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options = self.layer_param.dummy_data_param
        self.once_or_per_top("data_filler", len(options.data_filler), len(top), optional=True)
        legacy = [getattr(options, field) for field in self.LEGACY]
        self.require(
            not (options.shape and any(legacy)), "Both shape and legacy fields were specified; give only shape", "shape"
        )
        if options.shape:
            self.once_or_per_top("shape", len(options.shape), len(top))
            shapes = [list(shape.dim) for shape in options.shape]
            self.require_sizes(*shapes)
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
            if filler.type != "constant" or i in self.overwritten_tops:
                self.refilled.append((i, filler))

    def fills_once(self, index: int) -> bool:
        return index not in [i for i, _ in self.refilled]

    @staticmethod
    def _of(values: Any, i: int) -> Any:
        return values[i if len(values) > 1 else 0]

    def _fill(self, blob: Blob, filler: proto.FillerParameter) -> None:
        try:
            fillers.fill(blob.data, filler)
        except fillers.LayerError as error:
            raise self.error(str(error), "data_filler") from None

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, filler in self.refilled:
            self._fill(top[i], filler)


class Batches(Source):
    """Base of layers that take batches of images and labels from a source that reads ahead in a thread.

    The position and the random stream are part of a snapshot.
    """

    param: ClassVar[str]
    common_params: ClassVar[Sequence[str]] = ("transform_param",)
    obeys: ClassVar[Collection[str]] = CROP_FIELDS
    tops: Count = 2
    phase_is_fixed = True
    reshape_always = True

    def open(self, options: Any, transform: Any) -> BatchSource:
        """The source of the batches, from copies of the layer's options and of its ``transform_param``, files found."""
        raise NotImplementedError

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options, transform = type(getattr(self.layer_param, self.param))(), proto.TransformationParameter()
        options.CopyFrom(getattr(self.layer_param, self.param))
        transform.CopyFrom(self.layer_param.transform_param)
        for message, field in ((options, "source"), (options, "root_folder"), (transform, "mean_file")):
            if getattr(message, field, ""):
                setattr(message, field, in_utf8(self.find_file(getattr(message, field))))
        try:
            self.batches = self.open(options, transform)
        except DataError as error:
            raise self.data_error(error) from None
        images = (self.batches.batch_size, *self.batches.shape)
        for blob, shape in zip(top, (self.shape_of(images), self.batches.label_shape), strict=False):
            blob.reshape(*shape)

    def shape_of(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the first top for images (N, C, H, W)."""
        return images

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        try:
            batch = self.batch = self.batches.next_batch()
        except DataError as error:
            raise self.data_error(error) from None
        self.put(batch, top)

    def rehearse(self, top: Sequence[Blob]) -> None:
        self.put(self.batches.rehearse(), top)

    def put(self, batch: Batch, top: Sequence[Blob]) -> None:
        """Put a batch into the tops."""
        for blob, shape in zip(top, (self.shape_of(batch.pixels.shape), batch.label.shape), strict=False):
            blob.reshape(*shape)
        images = top[0].data.reshape(batch.pixels.shape)
        if self.dtype == np.float32:
            batch.write_to(images)
        else:
            images[...] = batch.data
        for blob in top[1:]:
            blob.data[...] = batch.label

    def state(self) -> dict[str, Any]:
        """Where reading stands, for a snapshot."""
        return self.batches.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on reading from a ``state``."""
        try:
            self.batches.restore(state)
        except DataError as error:
            raise self.data_error(error) from None

    def draw_anew(self) -> None:
        self.batches.draw_anew(random.stream())

    def close(self) -> None:
        """Stop reading ahead, and close what is read from."""
        self.batches.close()


class Data(Batches):
    """Batches of images and labels from a database of Datums (LMDB or LevelDB).

    Tops: images (batch_size, C, H, W), or as large as the crop; if a second is named, labels (batch_size,).
    ``transform_param``: scale, mean_file or mean_value, crop_size, mirror; of forks crop_h and crop_w, crop_height and
    crop_width, and the crops of ``data.varied_crops``.  At the end of the database reading goes on from its start.  Of
    n solvers that train together, each reads every n-th record.  Of forks: ``shuffle`` draws an order of the records
    for each round, ``shuffle_pool_size`` draws from a pool of so many batches.
    Caffe: ``backend`` is LEVELDB unless set.
    """

    type = "Data"
    param = "data_param"
    shares_records = True
    tops = (1, 2)
    obeys = (*CROP_FIELDS, *varied_crops.FIELDS, "shuffle", "shuffle_pool_size")

    def open(self, options: Any, transform: Any) -> DatumSource:
        return DatumSource(options, transform, self.phase, random.stream(), *self.share())


class ImageData(Batches):
    """Batches of image files that the text file ``source`` lists, a path and a label a line.

    Tops: images (batch_size, C, H, W), or crop_size x crop_size; labels (batch_size,).  ``new_height`` and
    ``new_width`` resize, ``is_color`` (true) asks for BGR, else gray, ``shuffle`` shuffles before each round,
    ``transform_param`` as for Data.
    Caffe: a batch takes the shape of its first image.
    """

    type = "ImageData"
    param = "image_data_param"
    obeys = (*CROP_FIELDS, *varied_crops.FIELDS)
    shares_records = True

    def open(self, options: Any, transform: Any) -> ImageSource:
        depth = self.layer_param.data_param.prefetch
        return ImageSource(options, transform, depth, self.phase, random.stream(), *self.share())


class WindowData(Batches):
    """Batches of windows cut out of images and warped to one size, for detection (R-CNN, Girshick et al. 2014).

    Tops: windows (batch_size, 3, crop_size, crop_size), background before foreground; classes (batch_size,), 0 for
    background. ``source`` lists images and windows; see ``data.window_source`` for its format and the options.
    """

    type = "WindowData"
    param = "window_data_param"
    shares_records = True
    obeys = ()

    def open(self, options: Any, transform: Any) -> WindowSource:
        depth = self.layer_param.data_param.prefetch
        return WindowSource(options, transform, depth, self.phase, random.stream(), *self.share())


class MemoryData(Source):
    """Batches of arrays that a program hands over with ``reset``, again and again.

    Tops: data (batch_size, channels, height, width), or of the shape that ``dim`` (naibaf7/caffe) says; labels.
    Caffe: labels are (batch_size,) until the first forward, (batch_size, 1, 1, 1) from then on; a ``transform_param``
    is not applied.  The position is part of a snapshot here; the arrays are not.
    """

    type = "MemoryData"
    param = "memory_data_param"
    tops = 2
    SIZES = ("batch_size", "channels", "height", "width")
    obeys = ("dim",)
    batch_size: int
    dim: Sequence[int]

    def check_options(self) -> None:
        for field in self.SIZES if not self.dim else ():
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)
        self.require(all(size > 0 for size in self.dim), f"must be positive; found {list(self.dim)}", "dim")
        self.require(
            not self.dim or not self.has("batch_size") or self.batch_size == self.dim[0],
            f"dim says {self.dim[0] if self.dim else 0}; found {self.batch_size}",
            "batch_size",
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.layer_param.HasField("transform_param"):
            _log.warning(
                "layer '%s' (MemoryData): its transform_param is without effect; transform the arrays that you hand "
                "over",
                self.name,
            )
        self.items, *item = self.dim or [getattr(self, field) for field in self.SIZES]
        self.item = tuple(item)
        self.values: NDArray | None = None
        self.position = 0
        top[0].reshape(self.items, *self.item)
        top[1].reshape(self.items)

    def reset(self, data: NDArray, labels: NDArray) -> None:
        """Serve these from the next forward on: data (n, channels, height, width), n labels, n full batches.

        The arrays are used as they are, not copied, where their dtype and order allow.  Raises ShapeError for other
        shapes.
        """
        values = np.ascontiguousarray(data, self.dtype)
        labels = np.ascontiguousarray(labels, self.dtype)
        n = len(values) if values.ndim else 0
        self.require(
            values.shape == (n, *self.item),
            f"data must have the shape (n, {', '.join(map(str, self.item))}); found {values.shape}",
            kind=ShapeError,
        )
        self.require(
            labels.size == n,
            f"data and labels must have the same first dimension; found {n} and {labels.shape}",
            kind=ShapeError,
        )
        self.require(
            n > 0 and n % self.items == 0,
            f"n must be a multiple of batch size; found {n} items",
            "batch_size",
            ShapeError,
        )
        self.values, self.labels, self.position = values, labels.reshape(n, 1, 1, 1), 0

    def set_input_arrays(self, data: NDArray, labels: NDArray) -> None:
        """``reset`` as pycaffe asks for it: float32 arrays in C order, used in place; data (n, channels, height,
        width), labels (n, 1, 1, 1) or (n,).  Raises ShapeError for others."""
        if labels.ndim == 1:
            labels = labels.reshape(-1, 1, 1, 1)
        for what, values, item in (("data", data, self.item), ("labels", labels, (1, 1, 1))):
            demands = (
                (values.flags.c_contiguous, "be C contiguous"),
                (values.ndim == 1 + len(item), f"be {1 + len(item)}-d"),
                (values.dtype == np.float32, "be float32"),
                (values.shape[1:] == item, f"have the shape (n, {', '.join(map(str, item))})"),
            )
            for met, demand in demands:
                self.require(
                    met, f"{what} array must {demand}; found {values.dtype} of shape {values.shape}", kind=ShapeError
                )
        self.reset(data, labels)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.values is None:
            raise self.error("MemoryData needs to be initialized by calling reset (or the net's set_input_arrays)")
        rows = slice(self.position, self.position + self.items)
        for blob, values in zip(top, (self.values, self.labels), strict=True):
            blob.reshape(self.items, *values.shape[1:])
            blob.data[...] = values[rows]
        self.position = rows.stop % len(self.values)

    def state(self) -> dict[str, Any]:
        """Where reading stands, for a snapshot."""
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``, with the arrays that were handed over since."""
        self.position = state["position"]
