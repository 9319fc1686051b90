"""Caffe's data transformer, a whole batch at a time: crop, mirror, subtract the mean, scale."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from minicaffe import limits, proto
from minicaffe.backend.random import Stream
from minicaffe.errors import DataError, WeightsError
from minicaffe.kernels.cpu.transform import crop, subtract_mean
from minicaffe.proto.blobs import blob_to_array

CROP_FIELDS = ("crop_h", "crop_w", "crop_height", "crop_width")
"""Forks' fields for a crop of any height and width: SSD's names of the two, and those of PSPNet."""

Placement = tuple[np.ndarray, np.ndarray]
"""First row and column of each image's crop (N, 2), and whether it is mirrored (N,)."""


class Transformer:
    r"""What a ``transform_param`` asks for, applied to batches of images.

    .. math:: out[n, c, y, x] = (in[n, c, y_0 + y, x_0 + x'] - mean[c, y_0 + y, x_0 + x']) \cdot scale

    with :math:`x' = w - 1 - x`, w the width of the output, where image n is mirrored, else :math:`x' = x`. The mean is
    that of the source pixel: it is cropped and mirrored with the image.

    The output is as large as ``crop_size`` says, or ``crop_h`` and ``crop_w``, or ``crop_height`` and ``crop_width``.
    ``phase``: in TRAIN crops are random, in TEST they are centred. ``stream``: where the seed of the transformer's own
    random stream is drawn from, only if it needs one (``mirror``, or a crop in TRAIN). The draws of an image are, in
    this order: mirror, vertical offset, horizontal offset.

    Raises DataError for contradicting fields and an unreadable mean file.
    """

    varies = False
    """Whether each image is changed by itself, by ``prepared`` and ``touch_up``."""

    def __init__(self, param: Any, phase: int, stream: Stream) -> None:
        self.scale = np.float32(param.scale)
        self.crop_size, self.crop = param.crop_size, crop_of(param)
        self.mirror = param.mirror
        self.force_color, self.force_gray = param.force_color, param.force_gray
        if self.force_color and self.force_gray:
            raise DataError("transform_param: cannot set both force_color and force_gray; keep one of them")
        if param.mean_file and param.mean_value:
            raise DataError(
                "transform_param: cannot specify mean_file and mean_value at the same time; keep one of them"
            )
        self._mean_file = param.mean_file
        self._mean = read_mean(param.mean_file) if param.mean_file else np.array(param.mean_value, np.float32)
        self._means: dict[tuple[int, ...], np.ndarray] = {}  # by record shape
        self._random_crop = self.crop is not None and phase == proto.TRAIN
        self._stream: Stream | None = None
        self.seed(stream)

    def seed(self, stream: Stream) -> None:
        """Start the transformer's own stream from a draw of ``stream``, if it needs one."""
        if self.mirror or self._random_crop:
            self._stream = Stream(stream.draw())

    def get_state(self) -> bytes | None:
        """The state of the random stream; None without one."""
        return self._stream.get_state() if self._stream else None

    def set_state(self, state: bytes | None) -> None:
        """Continue where ``get_state`` was called; DataError if that transformer drew other random numbers."""
        if (state is None) != (self._stream is None):
            raise DataError(
                "transform_param: mirror or the crop is not what it was when the snapshot was taken; restore the "
                "net's "
                "definition or start anew"
            )
        if self._stream is not None and state is not None:
            self._stream.set_state(state)

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (channels, height, width) that a record of ``shape`` becomes.

        Raises DataError if the mean does not fit the record, or the record is smaller than the crop.
        """
        self.mean_of(shape)
        channels, height, width = shape
        if self.crop is None:
            return shape
        if self.crop[0] > height or self.crop[1] > width:
            raise DataError(
                f"transform_param: a crop of {_by(self.crop)} is larger than the image, {height} x {width} (height x "
                "width); take a smaller crop or larger images"
            )
        return (channels, *self.crop)

    def __call__(self, batch: np.ndarray, out: np.ndarray) -> None:
        """Transform ``batch`` (N, C, H, W), uint8 or float32, into ``out`` (N, C, h, w), float32."""
        shape = batch.shape[1:]
        if out.shape != (len(batch), *self.output_shape(shape)):
            raise DataError(f"a batch of shape {batch.shape} does not fit the output's shape {out.shape}")
        placement, pixels = self.place(self.draw(len(batch)), shape), np.empty(out.shape, batch.dtype)
        crop(batch, *placement, pixels)
        subtract_mean(pixels, self.mean_of(shape), self.scale, *placement, out)

    def draw(self, num: int) -> np.ndarray:
        """The random numbers of the next ``num`` images, a row each, for ``place``."""
        if self._stream is None:
            return np.empty((num, 0), np.int64)
        return self._stream.draws(num * self.draws_each).reshape(num, -1)

    @property
    def draws_each(self) -> int:
        """How many random numbers an image takes."""
        return self.mirror + 2 * self._random_crop

    def prepared(self, pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """What is cropped of an image (C, H, W), with its draws."""
        return pixels

    def touch_up(self, pixels: np.ndarray, mirrored: bool) -> None:
        """Change the pixels of an image (C, h, w) that is cropped and mirrored already."""

    def place(self, draws: np.ndarray, shape: tuple[int, ...]) -> Placement:
        """Where images of ``shape`` (C, H, W) are cropped, and which are mirrored."""
        offsets, mirror = np.empty((len(draws), 2), np.int64), np.zeros(len(draws), np.bool_)
        room = np.subtract(shape[1:], self.crop) if self.crop else np.zeros(2, np.int64)
        offsets[:] = draws[:, -2:] % (room + 1) if self._random_crop else room // 2
        if self.mirror:
            mirror[:] = draws[:, 0] % 2
        return offsets, mirror

    def mean_of(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The mean to subtract from a record of ``shape``: (C, H, W), or (C, 1, 1) where it is one number a channel."""
        mean = self._means.get(shape)
        if mean is None:
            self._means[shape] = mean = self._fit_mean(shape)
        return mean

    def _fit_mean(self, shape: tuple[int, int, int]) -> np.ndarray:
        channels = shape[0]
        if self._mean_file:
            if self._mean.shape != shape:
                raise DataError(
                    f"transform_param.mean_file: {self._mean_file} is a mean of {_by(self._mean.shape)}, the images "
                    "are "
                    f"{_by(shape)} (channels x height x width, before cropping); compute the mean of this data set"
                )
            return self._mean
        if self._mean.size not in (0, 1, channels):
            raise DataError(
                f"transform_param.mean_value: {self._mean.size} values for images of {channels} channels; "
                f"specify either 1 mean_value or as many as channels: {channels}"
            )
        mean = np.zeros(channels, np.float32)
        if self._mean.size:
            mean[:] = self._mean
        return mean.reshape(channels, 1, 1)


def crop_of(param: Any) -> tuple[int, int] | None:
    """The height and width that a ``transform_param`` crops to; None for none, DataError if it contradicts itself."""
    sizes = [
        (param.crop_size,) * 2,
        *((getattr(param, h), getattr(param, w)) for h, w in (CROP_FIELDS[:2], CROP_FIELDS[2:])),
    ]
    given = [size for size in sizes if any(size)]
    if len(given) > 1 or (given and not all(given[0])):
        raise DataError(
            "transform_param: give crop_size, or both crop_h and crop_w, or both crop_height and crop_width; found "
            + ", ".join(
                f"{name}: {getattr(param, name)}" for name in ("crop_size", *CROP_FIELDS) if getattr(param, name)
            )
        )
    return given[0] if given else None


def read_mean(path: str) -> np.ndarray:
    """The mean image of a BlobProto file, float32 (channels, height, width); DataError if it cannot be read.

    The images of a mean of C3D, (1, channels, length, height, width), are channels of it.
    """
    where = f"transform_param.mean_file: {os.path.abspath(path)}"
    try:
        mean = blob_to_array(proto.BlobProto.FromString(limits.read_file(path, times=4)))
    except OSError as error:
        missing = path if isinstance(error, FileNotFoundError) else None
        raise DataError(
            f"{where} cannot be read ({error.strerror}); relative to {os.getcwd()}", missing=missing
        ) from error
    except (DecodeError, WeightsError) as error:
        raise DataError(f"{where} is not a mean image ({error}); make it with 'minicaffe data mean'") from error
    if mean.ndim == 5:
        mean = mean.reshape(-1, *mean.shape[-2:]) if mean.shape[0] == 1 else mean
    if mean.size == 0 or mean.ndim not in (3, 4) or mean.size != np.prod(mean.shape[-3:]):
        raise DataError(
            f"{where} holds a blob of shape {_by(mean.shape)}; expected one image, channels x height x width"
        )
    return mean.reshape(mean.shape[-3:]).astype(np.float32)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
