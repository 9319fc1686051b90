"""Batches of image files and the images of their labels, read and transformed ahead of their use."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.data.image import read_image
from minicaffe.data.image_source import ImageSource, ListReader, read_pairs
from minicaffe.data.opencv_resize import NEAREST, resample
from minicaffe.data.packed import PackedImage
from minicaffe.data.source import Batch
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop


class LabelMapSource(ImageSource):
    """As ``ImageSource``, but the list names for each image another one, whose gray values are the labels of its
    pixels; it is cropped and mirrored as the image is.

    ``param`` is a DenseImageDataParameter.  Labels are (batch_size, 1, height, width).  Raises DataError, too, where
    both are of different sizes.
    """

    param_name = "dense_image_data_param"

    def reader(self, *how: Any) -> ListReader:
        return _LabelMapReader(*how)


class _LabelMapReader(ListReader):
    remedy = "set dense_image_data_param.new_height and new_width, transform_param.crop_size, or batch_size: 1"

    def __init__(self, param: Any, transformer: Any, stream: Stream, rank: int, shares: int) -> None:
        super().__init__(param, transformer, stream, rank, shares)
        self.labels = (1, *self.shape[1:])

    def read_entries(self) -> list[tuple[str, str]]:
        return read_pairs(self._param.source)

    def read(self, item: int) -> tuple[np.ndarray | PackedImage, np.ndarray]:
        """The image of a line, and its labels, float32 (1, height, width)."""
        name, labels_name = self._entries[item]
        pixels, labels = self.read_image(name), read_image(self._param.root_folder + labels_name, color=False)
        if self._param.new_height:
            labels = resample(labels, self._param.new_height, self._param.new_width, NEAREST)
        if labels.shape[1:] != pixels.shape[1:]:
            raise DataError(
                f"image {name} has {pixels.shape[1]} x {pixels.shape[2]} pixels, its labels {labels_name} "
                f"{labels.shape[1]} x {labels.shape[2]}; set new_height and new_width, or make them equal"
            )
        if self._param.label_divide_factor:
            labels = labels.astype(np.int64) // self._param.label_divide_factor
        return pixels, labels.astype(np.float32)

    def put_label(self, batch: Batch, n: int, label: np.ndarray) -> None:
        shape = (len(batch.pixels), 1, *batch.pixels.shape[2:])
        if batch.label.shape != shape:  # n is 0: no other thread writes to it yet
            batch.label = np.empty(shape, np.float32)
        one = slice(n, n + 1)
        crop(label[np.newaxis], batch.offsets[one], batch.mirror[one], batch.label[one])
