"""pycaffe's Detector: a net that classifies windows of images, as R-CNN does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicaffe import io
from minicaffe.errors import ArgumentError, MinicaffeError
from minicaffe.layers import TEST
from minicaffe.net import Net


class Detector(Net):
    """A net in the TEST phase, with its weights, that classifies windows of images.

    Windows are warped to the net's input.  With ``context_pad`` each takes so many pixels, of the net's input, of what
    lies around it; beyond the image that is the mean.  ``mean``, ``input_scale``, ``raw_scale`` and ``channel_swap``
    are settings of its ``transformer`` (see ``io.Transformer``).  Raises what ``Net`` raises, and ArgumentError for
    settings that do not fit its input.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str] | None,
        mean: NDArray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        name, shape = io.image_input(self.inputs, self.blobs)
        self.transformer = io.image_transformer(name, shape, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Take ``context_pad`` pixels of context from now on; none for None.

        ArgumentError where that leaves nothing for the window, or the net's input is not square.
        """
        name = self.inputs[0]
        _, channels, height, width = self.blobs[name].shape
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad
        if context_pad and not (height == width and 0 < 2 * context_pad < width):
            raise ArgumentError(
                f"context_pad {context_pad} needs a square input wider than twice that; found {height} x {width}"
            )
        self.crop_mean = self.transformer.deprocess(name, np.zeros((channels, height, width), np.float32))
        """What lies beyond an image, (height, width, channels), in an image's own values."""

    def crop(self, im: NDArray, window: ArrayLike) -> NDArray[np.float32]:
        """The window (ymin, xmin, ymax, xmax), ends excluded, of an image (height, width, channels); with context as
        large as the net's input.

        ArgumentError for a window that does not meet the image.
        """
        box = np.asarray(window)
        if box.shape != (4,):
            raise ArgumentError(f"a window is (ymin, xmin, ymax, xmax); found {window!r}")
        crop = self._with_context(im, box) if self.context_pad else _part(im, box)
        if crop is None or not crop.size:
            raise ArgumentError(
                f"window {tuple(box.tolist())} (ymin, xmin, ymax, xmax) holds nothing of an image of {im.shape[0]} x "
                f"{im.shape[1]}"
            )
        return crop

    def _with_context(self, im: NDArray, box: NDArray) -> NDArray | None:
        """The window and what lies around it, warped, on the mean; None if no pixel of the image is there."""
        size = int(self.crop_dims[1])
        half = (box[2:] - box[:2] + 1) / 2
        widened = half * size / (size - 2 * (self.context_pad or 0))
        wanted = np.round(np.concatenate([box[:2] + half - widened, box[:2] + half + widened]))
        scale = size / (wanted[2:] - wanted[:2] + 1)
        top, left = np.round(np.maximum(0, -wanted[:2]) * scale).astype(int)
        clipped = wanted.clip(0, [*im.shape[:2]] * 2)
        extent = np.round((clipped[2:] - clipped[:2] + 1) * scale).astype(int)
        height, width = np.minimum(extent, [size - top, size - left])
        inside = _part(im, clipped)
        if not inside.size:
            return None
        out = self.crop_mean.copy()
        if height > 0 and width > 0:
            out[top : top + height, left : left + width] = io.resize_image(inside, (height, width))
        return out

    def detect_windows(self, images_windows: Iterable[tuple[str, Iterable[ArrayLike]]]) -> list[dict[str, Any]]:
        """What the net's first output says of windows (ymin, xmin, ymax, xmax) of images, given as (file, windows).

        A dictionary a window: ``window``, ``prediction`` (the row of the output), ``filename``.
        """
        found: list[dict[str, Any]] = []
        crops = []
        name = self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename, color=self.crop_dims[2] != 1)
            for window in windows:
                crops.append(self.transformer.preprocess(name, self.crop(image, window)))
                found.append({"window": window, "prediction": None, "filename": filename})
        if crops:
            data: dict[str, Any] = {name: np.stack(crops)}
            predictions = self.forward_all(**data)[self.outputs[0]]
            for entry, prediction in zip(found, predictions, strict=True):
                entry["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Refused: Caffe lets a MATLAB program (selective_search_ijcv_with_python) propose windows."""
        raise MinicaffeError(
            "detect_selective_search: the selective search that proposes windows, a MATLAB program, is no part of "
            "minicaffe; propose windows by other means and call detect_windows"
        )


def _part(im: NDArray, box: NDArray) -> NDArray:
    top, left, bottom, right = (int(edge) for edge in box.clip(0))
    return im[top:bottom, left:right]
