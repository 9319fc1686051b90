"""Nets that label each pixel of an image, as FCN, SegNet and PSPNet do: images in, maps of labels out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe import io
from minicaffe.errors import ArgumentError
from minicaffe.layers import TEST
from minicaffe.net import Net


class Segmenter(Net):
    """A net in the TEST phase, with its weights, that gives scores of classes for each pixel, (N, C, h, w).

    With one channel, it gives labels (ArgMax), or the probability of label 1 (HED).  Images are warped to the net's
    input, or with ``keep_size`` the net takes their size.  ``output`` names the blob of the scores; without it it is
    the last output of the net that is a map.  ``mean`` and the settings after it are those of its ``transformer`` (see
    ``io.Transformer``).  Raises what ``Net`` raises, and ArgumentError for settings that do not fit its input, or a net
    without such a blob.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str] | None,
        mean: NDArray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        output: str = "",
        keep_size: bool = False,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        name, shape = io.image_input(self.inputs, self.blobs)
        self.transformer = io.image_transformer(name, shape, mean, input_scale, raw_scale, channel_swap)
        self.keep_size = keep_size
        self.map = self._find_map(output)

    def _find_map(self, output: str) -> str:
        maps = [name for name, blob in self.blobs.items() if len(blob.shape) == 4 and blob.span(2) > 1]
        if output and output not in maps:
            raise ArgumentError(f"net '{self.name}' has no blob '{output}' that is a map; it has: {', '.join(maps)}")
        found = [name for name in maps if name in self.outputs and name not in self.inputs]
        if not (output or found):
            raise ArgumentError(
                f"net '{self.name}' gives no map (N, C, height, width); its outputs: {', '.join(self.outputs)}"
            )
        return output or found[-1]

    def segment(self, image: NDArray) -> NDArray[np.int64]:
        """The label of each pixel (height, width) of an image (height, width, channels), as ``io.load_image`` reads
        it."""
        name = self.inputs[0]
        blob, size = self.blobs[name], image.shape[:2]
        shape = (1, blob.shape[1], *(size if self.keep_size else blob.shape[2:]))
        if blob.shape != shape:
            blob.reshape(*shape)
            self.transformer.inputs = {**self.transformer.inputs, name: shape}
        blob.data[0] = self.transformer.preprocess(name, image)
        self.run_forward()
        scores = self.blobs[self.map].data[0]
        if len(scores) == 1:
            return _nearest(np.rint(scores[0]).astype(np.int64), size)
        if scores.shape[1:] != size:
            scores = io.resize_image(scores.transpose(1, 2, 0), size).transpose(2, 0, 1)
        return scores.argmax(axis=0)


def _nearest(labels: NDArray, size: Sequence[int]) -> NDArray:
    """A map of labels in another size."""
    rows, columns = (np.arange(new) * old // new for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]
