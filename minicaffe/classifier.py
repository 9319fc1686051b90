"""pycaffe's Classifier: a net that takes images and gives probabilities of classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import io
from minicaffe.errors import ArgumentError
from minicaffe.layers import TEST
from minicaffe.net import Net


class Classifier(Net):
    """A net in the TEST phase, with its weights, that predicts the class of images.

    ``image_dims`` (height, width) is the size that images get before they are cropped to the net's input, whose size
    is the default.  ``mean``, ``input_scale``, ``raw_scale`` and ``channel_swap`` are settings of its ``transformer``
    (see ``io.Transformer``).  ``deploy``: in its deploy form (``Net.deploy``).  Raises what ``Net`` raises, and
    ArgumentError for settings that do not fit its input.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str] | None,
        image_dims: Sequence[int] | None = None,
        mean: NDArray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file, deploy=deploy)
        name, shape = io.image_input(self.inputs, self.blobs)
        self.transformer = io.image_transformer(name, shape, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(shape[2:])
        self.image_dims = shape[2:] if image_dims is None else tuple(map(int, image_dims))
        if len(self.image_dims) != 2 or any(self.crop_dims > self.image_dims):
            raise ArgumentError(
                f"image_dims must be (height, width), at least the net's input, {shape[2:]}; found {self.image_dims}"
            )

    def predict(self, inputs: Sequence[NDArray], oversample: bool = True) -> NDArray[np.float32]:
        """The net's first output, (images, classes), for images (height, width, channels) as ``io.load_image`` gives
        them.

        With ``oversample`` it is the mean over ten crops of each (``io.oversample``), else what the crop in the middle
        gives.
        """
        if len(inputs) == 0 or np.ndim(inputs[0]) != 3:
            raise ArgumentError(
                f"predict takes a list of images (height, width, channels); found "
                f"{f'a list of {np.shape(inputs[0])}' if len(inputs) else 'none'}"
            )
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            crops = io.oversample(images, self.crop_dims)
        else:
            height, width = map(int, self.crop_dims)
            y, x = io.centre(self.image_dims, (height, width))
            crops = images[:, y : y + height, x : x + width, :]
        name = self.inputs[0]
        data: dict[str, Any] = {name: np.stack([self.transformer.preprocess(name, crop) for crop in crops])}
        predictions = self.forward_all(**data)[self.outputs[0]]
        return predictions.reshape(len(images), 10, -1).mean(1) if oversample else predictions
