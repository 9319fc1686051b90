"""Batches of image files and the labels of their pixels, read and transformed ahead of their use."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.image import read_label_map, resize
from minicaffe.data.image_source import ImageSource, ListReader, read_names, read_pairs
from minicaffe.data.opencv_resize import LINEAR, NEAREST, resample
from minicaffe.data.packed import PackedImage, planes
from minicaffe.data.source import Batch
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop

_log = logging.getLogger(__name__)

_NONE, _IMAGE = proto.ImageDataParameter.NONE, proto.ImageDataParameter.IMAGE
_WHITE = 255


class LabelMapSource(ImageSource):
    """As ``ImageSource``, but the list names for each image another one, whose gray values are the labels of its
    pixels (numbers of colours, where it has a palette); it is cropped and mirrored as the image is.

    ``param`` is a DenseImageDataParameter.  Labels are (batch_size, 1, height, width).  Raises DataError, too, where
    both are of different sizes.
    """

    param_name = "dense_image_data_param"

    def reader(self, *how: Any) -> ListReader:
        return _LabelMapReader(*how)


class SegmentationSource(ImageSource):
    """As ``LabelMapSource``, with an ImageDataParameter, as DeepLab and PSPNet read images.

    ``label_type``: PIXEL, a map of labels for each image; IMAGE, one label for all pixels of an image; NONE, all are
    ``ignore_label``.  Images are scaled by one of the transformation's ``scale_factors``, drawn at random; where they
    are smaller than the crop, the mean and ``ignore_label`` fill what is missing at the right and below.
    """

    def transformer(self, param: Any, phase: int, stream: Stream) -> Transformer:
        return _ScalingTransformer(param, phase, stream)

    def reader(self, *how: Any) -> ListReader:
        return _SegmentationReader(*how)


class EdgeMapSource(ImageSource):
    """As ``LabelMapSource``, with an ImageDataParameter, as HED and its successors read edges.

    Labels are gray values over 255, to the nearest whole number (``label_values: ROUNDED``, HED) or not (FRACTIONS,
    RCF), or the gray values themselves (``normalize: false``).
    """

    def reader(self, *how: Any) -> ListReader:
        return _EdgeMapReader(*how)


class _LabelMapReader(ListReader):
    remedy = "set new_height and new_width, a crop in transform_param, or batch_size: 1"
    mode = NEAREST
    """How labels are resized."""

    def __init__(self, param: Any, transformer: Any, stream: Stream, rank: int, shares: int) -> None:
        super().__init__(param, transformer, stream, rank, shares)
        self.labels = (1, *self.shape[1:])

    def read_entries(self) -> list[Any]:
        return read_pairs(self._param.source)

    def read(self, item: int) -> tuple[np.ndarray | PackedImage, Any]:
        """The image of a line, and its labels, float32 (1, height, width)."""
        name, labels_name = self._entries[item]
        pixels, labels = self.read_image(name), read_label_map(self._param.root_folder + labels_name)
        if self._param.new_height:
            labels = resample(labels, self._param.new_height, self._param.new_width, self.mode)
        if labels.shape[1:] != pixels.shape[1:]:
            raise DataError(
                f"image {name} has {pixels.shape[1]} x {pixels.shape[2]} pixels, its labels {labels_name} "
                f"{labels.shape[1]} x {labels.shape[2]}; set new_height and new_width, or make them equal"
            )
        return pixels, self.values(labels)

    def values(self, labels: np.ndarray) -> np.ndarray:
        """The labels that gray values stand for, float32."""
        factor = self._param.label_divide_factor
        return (labels.astype(np.int64) // factor if factor else labels).astype(np.float32)

    def put_label(self, batch: Batch, n: int, label: Any) -> None:
        shape = (len(batch.pixels), 1, *batch.pixels.shape[2:])
        if batch.label.shape != shape:  # n is 0: no other thread writes to it yet
            batch.label = np.empty(shape, np.float32)
        one = slice(n, n + 1)
        crop(label[np.newaxis], batch.offsets[one], batch.mirror[one], batch.label[one])


class _EdgeMapReader(_LabelMapReader):
    mode = LINEAR

    def __init__(self, param: Any, *how: Any) -> None:
        self._said = param.HasField("normalize") or param.HasField("label_values")
        super().__init__(param, *how)

    def values(self, labels: np.ndarray) -> np.ndarray:
        gray = labels.astype(np.float32)
        if not self._param.normalize:
            return gray
        if not self._said and ((labels > 0) & (labels < _WHITE)).any():
            self._said = True
            _log.warning(
                "list of images %s: labels are neither 0 nor 255 only; they are divided by 255 and rounded, as HED "
                "does: say label_values: FRACTIONS not to round (RCF), or normalize: false for gray values",
                self._param.source,
            )
        share = gray / np.float32(_WHITE)
        return share if self._param.label_values == proto.ImageDataParameter.FRACTIONS else np.rint(share)


class _ScalingTransformer(Transformer):
    """Draws one of the ``scale_factors`` for each image, between its mirror and its crop."""

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        if param.mean_file:
            raise DataError("transform_param.mean_file: images differ in size here; give mean_value instead")
        self.factors = np.array(param.scale_factors, np.float32)
        if not (self.factors > 0).all():
            raise DataError(f"transform_param.scale_factors: must be positive; found {list(param.scale_factors)}")
        super().__init__(param, phase, stream)

    def seed(self, stream: Stream) -> None:
        if self.mirror or self._random_crop or len(self.factors):
            self._stream = Stream(stream.draw())

    @property
    def draws_each(self) -> int:
        return super().draws_each + (len(self.factors) > 0)

    def factor(self, drawn: np.ndarray) -> np.float32:
        """The factor for the image of these random numbers."""
        return self.factors[drawn[int(self.mirror)] % len(self.factors)] if len(self.factors) else np.float32(1)


class _SegmentationReader(_LabelMapReader):
    _transformer: _ScalingTransformer

    def read_entries(self) -> list[Any]:
        if self._param.label_type == _NONE:
            return [(name, self._param.ignore_label) for name in read_names(self._param.source)]
        pairs = read_pairs(self._param.source)
        return [(name, self._number(label)) for name, label in pairs] if self._param.label_type == _IMAGE else pairs

    def _number(self, label: str) -> int:
        try:
            return int(label)
        except ValueError:
            raise DataError(
                f"list of images {self._param.source}: label_type: IMAGE expects whole numbers after the paths; found "
                f"'{label}': label_type: PIXEL reads images of labels"
            ) from None

    def read(self, item: int) -> tuple[np.ndarray | PackedImage, Any]:
        """The image of a line, as large as the crop at least, its labels (1, height, width), and its own size."""
        return self._padded(*self._read(item))

    def prepare(self, item: int, drawn: np.ndarray) -> tuple[np.ndarray | PackedImage, Any]:
        pixels, labels, size = self._read(item)
        factor = self._transformer.factor(drawn)
        if factor != 1:
            height, width = (int(np.float32(side) * factor) for side in size)
            if not (height and width):
                raise DataError(f"scaled by {factor:g}, nothing is left of {size[0]} x {size[1]} pixels")
            pixels, labels = resize(planes(pixels), height, width), resample(labels, height, width, NEAREST)
        return self._padded(pixels, labels, size)

    def _read(self, item: int) -> tuple[np.ndarray | PackedImage, np.ndarray, tuple[int, ...]]:
        if self._param.label_type == proto.ImageDataParameter.PIXEL:
            pixels, labels = super().read(item)
        else:
            name, label = self._entries[item]
            pixels = self.read_image(name)
            labels = np.full((1, *pixels.shape[1:]), label, np.float32)
        return pixels, labels, pixels.shape[1:]

    def values(self, labels: np.ndarray) -> np.ndarray:
        return labels.astype(np.float32)

    def _padded(
        self, pixels: np.ndarray | PackedImage, labels: np.ndarray, size: tuple[int, ...]
    ) -> tuple[np.ndarray | PackedImage, Any]:
        """An image, and labels, with a margin where they are smaller than the crop."""
        height, width = np.maximum(pixels.shape[1:], self._transformer.crop or (0, 0))
        if (height, width) != pixels.shape[1:]:
            area = (slice(None), *(slice(side) for side in pixels.shape[1:]))
            larger = np.empty((pixels.shape[0], height, width), np.float32)
            larger[...] = self._transformer.mean_of(pixels.shape)
            marked = np.full((1, height, width), self._param.ignore_label, np.float32)
            larger[area], marked[area] = planes(pixels), labels
            pixels, labels = larger, marked
        return pixels, (labels, size)

    def put_label(self, batch: Batch, n: int, label: Any) -> None:
        labels, size = label
        super().put_label(batch, n, labels)
        batch.sizes[n] = np.minimum(size, batch.pixels.shape[2:])
