"""Nets that find things in whole images, as SSD and YOLO do: images in, boxes out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import io, proto
from minicaffe.errors import ArgumentError
from minicaffe.layers import TEST
from minicaffe.net import Net

FINDERS = frozenset({"DetectionOutput", "YoloDetectionOutput", "Yolov3DetectionOutput"})
"""Layer types whose tops are rows of item, label, confidence, xmin, ymin, xmax, ymax."""


def finds_boxes(definition: proto.NetParameter) -> bool:
    """Whether a net gives boxes, rather than classes."""
    return any(layer.type in FINDERS for layer in definition.layer)


class Found(NamedTuple):
    """A box that was found, its corners in pixels of the image."""

    label: int
    confidence: float
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class BoxDetector(Net):
    """A net in the TEST phase, with its weights, that ends in a DetectionOutput layer or one of YOLO's.

    Images are warped to the net's input; ``mean``, ``input_scale``, ``raw_scale`` and ``channel_swap`` are settings of
    its ``transformer`` (see ``io.Transformer``).  Raises what ``Net`` raises, and ArgumentError for settings that do
    not fit its input, or a net without such a layer.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str] | None,
        mean: NDArray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        name, shape = io.image_input(self.inputs, self.blobs)
        self.transformer = io.image_transformer(name, shape, mean, input_scale, raw_scale, channel_swap)
        tops = [self.top_names[layer][0] for layer, made in self.layer_dict.items() if made.type in FINDERS]
        if not tops:
            raise ArgumentError(f"net '{self.name}' has no layer that gives boxes: {', '.join(sorted(FINDERS))}")
        self.found = tops[-1]

    def detect(self, image: NDArray, threshold: float = 0.5) -> list[Found]:
        """What is found in an image (height, width, channels), as ``io.load_image`` reads it, with a confidence of at
        least ``threshold``, the most confident first."""
        name = self.inputs[0]
        height, width = image.shape[:2]
        if self.blobs[name].shape[0] != 1:
            self.blobs[name].reshape(1, *self.blobs[name].shape[1:])
        self.blobs[name].data[0] = self.transformer.preprocess(name, image)
        self.run_forward()
        found = self.blobs[self.found]
        rows = found.data.reshape(-1, found.shape[-1])[:, :7]
        rows = rows[(rows[:, 1] >= 0) & (rows[:, 2] >= np.float32(threshold))]
        rows = rows[np.argsort(-rows[:, 2], kind="stable")]
        corners = np.clip(rows[:, 3:], 0, 1) * np.array([width, height, width, height])
        return [
            Found(int(label), float(score), *box)
            for (label, score), box in zip(rows[:, 1:3], corners.tolist(), strict=True)
        ]
