"""DataAugmentation: images cropped and less their running mean, as FlowNet 2 prepares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TRAIN, Layer

_RANDOM = (
    *("mirror", "translate", "rotate", "zoom", "squeeze", "translate_x", "translate_y"),
    *("gamma", "brightness", "contrast", "color"),
    *("lmult_pow", "lmult_mult", "lmult_add", "sat_pow", "sat_mult", "sat_add", "col_pow", "col_mult", "col_add"),
    *("ladd_pow", "ladd_mult", "ladd_add", "col_rotate"),
    *("fog_amount", "fog_size", "motion_blur_angle", "motion_blur_size"),
    *("shadow_angle", "shadow_distance", "shadow_strength", "noise"),
)
_SHY = 1.05  # pixels before the end of a side: FlowNet 2 samples no further


class DataAugmentation(Layer):
    r"""Crop images in the centre and take their mean away (FlowNet 2, Ilg et al. 2017).

    Bottom: (N, C, H, W).  Top: (N, C, ``crop_height``, ``crop_width``) if both are given, sampled between pixels; where
    that would be in the last 1.05 pixels of a side it is at their beginning, so that even a crop as large as the image
    is not the image.  Params with ``recompute_mean: n``: how many batches went by (1, 1, 1, 1), their mean (1, C,
    height, width) and its mean over each channel (1, C, 1, 1), which the first n batches make, in either phase; else
    only the number of batches.  The mean of the pixel is taken away, or with ``mean_per_pixel: false`` that of the
    channel; without ``recompute_mean`` three values of ``mean``, if ``mean_per_pixel`` is false.  A mean in a file that
    has another size gives its means of channels.  There is no backward pass.
    Random changes (mirror, rotate, gamma, … in TRAIN, or with ``augment_during_test``) and coefficients that are handed
    on by further bottoms and tops are refused.
    """

    type = "DataAugmentation"
    param = "augmentation_param"
    differentiable = ()
    reads_bottoms = reads_tops = ()
    fixed = ("recompute_mean",)
    recompute_mean: int
    mean_per_pixel: bool
    augment_during_test: bool
    mean: Sequence[float]
    crop_height: int
    crop_width: int

    def check_options(self) -> None:
        active = self.phase == TRAIN or self.augment_during_test
        random = [field for field in _RANDOM if self.has(field)]
        self.require(
            not (active and random),
            "random changes of images are not in minicaffe; leave them out, or make them before (HDF5Data)",
            random[0] if random else None,
        )
        self.require(
            len(self.mean) in (0, 3) or self.mean_per_pixel, f"must be 3 values; found {len(self.mean)}", "mean"
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.add_param((1, 1, 1, 1))
        if self.recompute_mean:
            num, channels, height, width = self._top_shape(bottom[0])
            self.add_param((1, channels, height, width))
            self.add_param((1, channels, 1, 1))
        specs = self.layer_param.param
        for _ in range(len(self.blobs) - len(specs)):
            specs.add()
        for spec in specs:
            spec.lr_mult = spec.decay_mult = 0

    def _top_shape(self, x: Blob) -> tuple[int, int, int, int]:
        self.require(len(x.shape) == 4, f"the input must be (N, C, H, W); found {x.shape_string}", kind=ShapeError)
        num, channels, height, width = x.shape
        if not self._crops():
            return num, channels, height, width
        for field, given, size in (("crop_height", self.crop_height, height), ("crop_width", self.crop_width, width)):
            self.require(0 < given <= size, f"must be positive and at most {size}; found {given}", field, ShapeError)
        return num, channels, self.crop_height, self.crop_width

    def _crops(self) -> bool:
        return self.has("crop_width") and self.has("crop_height")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = self._top_shape(bottom[0])
        top[0].reshape(*shape)
        if self.recompute_mean:
            self.require_blobs((1, 1, 1, 1), (1, *shape[1:]), (1, shape[1], 1, 1))
            self.batch_mean = self.scratch("batch_mean", (1, *shape[1:]))
        else:
            self.require_blobs((1, 1, 1, 1))
            self.require(
                self.mean_per_pixel or not self.mean or shape[1] == 3,
                f"needs images of 3 channels; found {shape[1]}",
                "mean",
                ShapeError,
            )
        if self._crops():
            self.down = self.scratch("down", (shape[2], bottom[0].shape[2]))
            self.right = self.scratch("right", (shape[3], bottom[0].shape[3]))
            for matrix in (self.down, self.right):
                self._sample(matrix)
            self.between = self.scratch("between", (*shape[:2], bottom[0].shape[2], shape[3]))

    def _sample(self, matrix: Any) -> None:
        """Fill a matrix (new, old) with how much of each old row is in each new one."""
        xp, (new, old) = self.xp, matrix.shape
        places = xp.arange(new, dtype=self.dtype) - new / 2 + old / 2
        places = xp.maximum(xp.minimum(places, old - _SHY), 0)[:, None]
        matrix[...] = xp.maximum(1 - xp.abs(places - xp.arange(old, dtype=self.dtype)), 0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y = top[0].xdata
        if not y.size:
            return
        if self._crops():
            self.xp.matmul(bottom[0].xdata, self.right.T, out=self.between)
            self.xp.matmul(self.down, self.between, out=y)
        else:
            y[...] = bottom[0].xdata
        count = self.blobs[0].data.reshape(-1)
        count += 1
        if self.recompute_mean:
            if count[0] <= self.recompute_mean:
                self._learn(y, float(count[0]))
            y -= self.blobs[1 if self.mean_per_pixel else 2].xdata
        elif self.mean and not self.mean_per_pixel:
            for channel, value in enumerate(self.mean):
                y[:, channel] -= value

    def _learn(self, y: Any, count: float) -> None:
        """Make a batch part of the mean of ``count`` batches."""
        mean = self.blobs[1].xdata
        self.xp.mean(y, axis=0, keepdims=True, out=self.batch_mean)
        mean *= (count - 1) / count
        self.batch_mean /= count
        mean += self.batch_mean
        self.xp.mean(mean, axis=(2, 3), keepdims=True, out=self.blobs[2].xdata)

    def adapted(self, index: int, values: NDArray) -> NDArray | None:
        fits = index == 1 and values.ndim == 4 and values.shape[:2] == self.blobs[1].shape[:2] and values.size
        return np.broadcast_to(values.mean(axis=(2, 3), keepdims=True), self.blobs[1].shape) if fits else None
