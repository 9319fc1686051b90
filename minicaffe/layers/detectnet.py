"""DetectNetTransformation: images and boxes as DetectNet learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.backend import random
from minicaffe.backend.random import Stream
from minicaffe.blob import Blob
from minicaffe.boxes.coverage import Coverage
from minicaffe.data import scene_augmentation
from minicaffe.data.opencv_resize import resample_floats
from minicaffe.data.scene_augmentation import Change
from minicaffe.data.source import state_of_text, text_of_state
from minicaffe.data.transform import read_mean
from minicaffe.errors import DataError, ShapeError
from minicaffe.layers.base import TRAIN, Layer

_WHITE = np.float32(255)
_LABEL = 16  # numbers of a box; of these x, y, width, height and class are used
_CLASS = 5


class DetectNetTransformation(Layer):
    """Change images at random in TRAIN, and draw maps of their boxes (DetectNet, NVIDIA's Caffe and DIGITS).

    Bottoms: images (N, 3, H, W) from 0 to 255; labels (N, 1, boxes + 1, 16): a row that begins with the number of boxes
    and 16, then a row for each: x, y, width, height in pixels, angle, class, ….  Tops: images (N, 3, image_size_y,
    image_size_x), less ``mean_value`` or ``mean_file`` of ``transform_param``; maps (N, 8 + classes, rows, columns),
    see ``boxes.coverage``.  In TRAIN ``detectnet_augmentation_param`` says how hue, saturation, size, angle and place
    change, see ``data.scene_augmentation``; in TEST images are resized.  Computed on the host; there is no backward
    pass.
    NVIDIA: turned images are read at whole 32nds of a pixel.
    """

    type = "DetectNetTransformation"
    param = "detectnet_groundtruth_param"
    common_params = ("detectnet_augmentation_param", "transform_param")
    bottoms = tops = 2
    differentiable = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    stride: int
    scale_cvg: float
    image_size_x: int
    image_size_y: int
    mean_file: str
    mean_value: Sequence[float]
    fixed = None
    phase_is_fixed = True

    def check_options(self) -> None:
        for field in ("stride", "image_size_x", "image_size_y", "scale_cvg"):
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)
        self.require(
            len(self.mean_value) in (0, 1, 3), f"must be 1 or 3 values; found {len(self.mean_value)}", "mean_value"
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.stream = Stream(random.stream().draw())
        self.mean_image = self._read_mean() if self.mean_file else None

    def _read_mean(self) -> NDArray:
        try:
            return read_mean(self.find_file(self.mean_file))
        except DataError as error:
            raise self.data_error(error, "mean_file") from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        images, labels = bottom
        self.require(
            len(images.shape) == 4 and images.shape[1] == 3 and 0 not in images.shape[2:],
            f"images must be (N, 3, H, W); found {images.shape_string}",
            kind=ShapeError,
        )
        self.require(
            len(labels.shape) == 4 and labels.shape[::3] == (images.shape[0], _LABEL) and labels.shape[1] == 1,
            f"labels must be (N, 1, boxes + 1, {_LABEL}), N as of the images; found {images.shape_string} and "
            f"{labels.shape_string}",
            kind=ShapeError,
        )
        self.coverage = Coverage(self.layer_param.detectnet_groundtruth_param)
        top[0].reshape(images.shape[0], 3, self.image_size_y, self.image_size_x)
        top[1].reshape(images.shape[0], self.coverage.channels, self.coverage.rows, self.coverage.columns)
        self.mean = self._mean(images.shape[2], images.shape[3])

    def _mean(self, height: int, width: int) -> Any:
        """The mean to take away from images from 0 to 1."""
        if self.mean_image is None:
            return np.array(self.mean_value or [0], np.float32).reshape(-1, 1, 1) / _WHITE
        self.require(len(self.mean_image) == 3, f"must have 3 channels; found {len(self.mean_image)}", "mean_file")
        same = self.mean_image.shape[1:] == (height, width)
        return (self.mean_image if same else resample_floats(self.mean_image, height, width)) / _WHITE

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        crop, old = (self.image_size_y, self.image_size_x), (bottom[0].shape[2], bottom[0].shape[3])
        for n, (image, label) in enumerate(zip(bottom[0].data, bottom[1].data[:, 0], strict=True)):
            boxes, classes = self._boxes(n, label)
            options = self.layer_param.detectnet_augmentation_param
            random_one = self.phase == TRAIN
            change = scene_augmentation.drawn(options, old, crop, self.stream) if random_one else Change(old, crop)
            top[0].data[n] = change.of_image(image.astype(np.float32) / _WHITE, self.mean, crop) * _WHITE
            self.coverage.draw(change.of_boxes(boxes), classes, top[1].data[n])

    def _boxes(self, n: int, label: NDArray) -> tuple[NDArray, NDArray]:
        """Corners (G, 4) and classes (G,) of the boxes of an item."""
        count, length = label[0, 0], label[0, 1]
        self.require(
            length == _LABEL and 0 <= count < len(label) and count == int(count),
            f"item {n} of the labels must begin with the number of its boxes, at most {len(label) - 1}, and {_LABEL}; "
            f"found {count:g} and {length:g}",
        )
        rows = label[1 : 1 + int(count)]
        used = rows[:, [0, 1, 2, 3, _CLASS]]
        self.require(bool(np.isfinite(used).all()), f"item {n} of the labels has boxes that are no numbers")
        return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, _CLASS]

    def state(self) -> dict[str, Any]:
        return {"random": text_of_state(self.stream.get_state())}

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.set_state(state_of_text(state["random"]) or b"")
