"""Layers of segmentation nets: SegAccuracy, SpatialProduct, BiasChannel, UniqueLabel, DiceCoefLoss."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer
from minicaffe.layers.loss import Loss


class SegAccuracy(Layer):
    """How well the highest score names each pixel (DeepLab, PSPNet).

    Bottoms: scores (N, C, H, W); labels (N, 1, H, W).  Top: (1, 1, 1, 3), which are the share of pixels that are right,
    the mean recall of the classes, and the mean of their intersection over union.  Pixels with one of ``ignore_label``
    do not count; of equal scores the later class counts.  With ``reset: false`` counts go on from pass to pass.
    Classes without a pixel do not count in the mean recall; in the other they count as 1 if no pixel is said to be of
    them, either.  A pixel with a score of NaN is never right.  On a device, too, the numbers are found on the host.
    """

    type = "SegAccuracy"
    param = "seg_accuracy_param"
    fixed: ClassVar[Collection[str] | None] = ()
    bottoms = 2
    reads_bottoms = reads_tops = ()
    differentiable = ()
    ignore_label: Sequence[int]
    reset: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.counts: NDArray[np.int64] | None = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, labels = bottom
        self.require(
            len(scores.shape) == 4 and labels.shape == (scores.shape[0], 1, *scores.shape[2:]),
            f"needs scores (N, C, H, W) and labels (N, 1, H, W); found {scores.shape_string} and {labels.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape(1, 1, 1, 3)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, labels = bottom[0].data, bottom[1].data[:, 0]
        classes = scores.shape[1]
        if self.reset or self.counts is None or len(self.counts) != classes:
            self.counts = np.zeros((classes, classes + 1), np.int64)
        counted = ~np.isin(labels, np.asarray(self.ignore_label, labels.dtype))
        true = labels[counted]
        wrong = true[(true != np.floor(true)) | (true < 0) | (true >= classes) | np.isnan(true)]
        if wrong.size:
            raise self.error(
                f"label {wrong[0]:g} is no whole number in 0 .. {classes - 1}; name it in ignore_label if it is none"
            )
        best = classes - 1 - scores[:, ::-1].argmax(axis=1)
        found = np.where(np.isnan(scores).any(axis=1), classes, best)[counted]
        places = true.astype(np.int64) * (classes + 1) + found
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)
        top[0].data[...] = self._measures(self.counts)

    @staticmethod
    def _measures(counts: NDArray[np.int64]) -> tuple[float, float, float]:
        right, true, found = counts.diagonal(), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
        union = true + found - right
        recall = (right[true > 0] / true[true > 0]).sum() / max((true > 0).sum(), 1)
        shared = np.where(union > 0, right / np.maximum(union, 1), 1)
        return right.sum() / max(counts.sum(), 1), recall, shared.mean()


class SpatialProduct(Layer):
    """Multiply all channels by one map (DeepLab): ``y = x m``.

    Bottoms: x (N, C, H, W); the map m (N, 1, H, W).  Top: as x.
    """

    type = "SpatialProduct"
    bottoms = 2
    reads_tops = ()
    per_element = 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, weight = bottom
        self.require(
            len(x.shape) == 4 and weight.shape == (x.shape[0], 1, *x.shape[2:]),
            f"needs (N, C, H, W) and a map (N, 1, H, W); found {x.shape_string} and {weight.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.product = self.scratch("product", x.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.xp.multiply(bottom[0].xdata, bottom[1].xdata, out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].xdiff
        if propagate_down[1]:
            self.xp.multiply(dy, bottom[0].xdata, out=self.product)
            self.xp.sum(self.product, axis=1, keepdims=True, out=bottom[1].xdiff)
        if propagate_down[0]:
            self.xp.multiply(dy, bottom[1].xdata, out=bottom[0].xdiff)


class BiasChannel(Layer):
    """Add a bias to the channels of the classes that an image has (DeepLab's weakly supervised training).

    Bottoms: scores (N, C, H, W); the image's labels (N, L, 1, 1).  Top: as the scores, plus ``bg_bias`` (1) in channel
    0 and ``fg_bias`` (2) in each other channel, where these are among the labels.  Negative labels, and those of
    ``ignore_label``, count for none.
    """

    type = "BiasChannel"
    param = "bias_channel_param"
    fixed: ClassVar[Collection[str] | None] = ()
    bottoms = 2
    reads_bottoms = reads_tops = ()
    per_element = 1
    differentiable = (0,)
    bg_bias: float
    fg_bias: float
    label_type: int
    ignore_label: Sequence[int]

    def check_options(self) -> None:
        self.require(not self.has("label_type"), "is not known here: labels are those of the image", "label_type")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        self.require(
            len(x.shape) == 4 and labels.shape[:1] == x.shape[:1],
            f"needs (N, C, H, W) and labels of N images; found {x.shape_string} and {labels.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.bias = self.scratch("bias", x.shape[:2])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        labels = bottom[1].data.reshape(bottom[1].shape[0], bottom[1].span(1))
        bias = np.zeros(bottom[0].shape[:2], self.dtype)
        for row, values in zip(bias, labels, strict=True):
            for label in np.unique(values):
                if label in self.ignore_label or label < 0:
                    continue
                if label != np.floor(label) or not label < len(row):
                    raise self.error(f"label {label:g} is no whole number in 0 .. {len(row) - 1}")
                row[int(label)] = self.bg_bias if label == 0 else self.fg_bias
        self.bias[...] = self.xp.asarray(bias)
        self.xp.add(bottom[0].xdata, self.bias[:, :, None, None], out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff[...] = top[0].xdiff


MOST_LABELS = 1 << 20
"""As many as ``UniqueLabel`` makes room for, for each image."""


class UniqueLabel(Layer):
    """The labels that occur in each map, in rising order, then -1 (DeepLab).

    Bottom: (N, 1, H, W).  Top: (N, max_labels, 1, 1).  Labels of ``ignore_label`` are left out.  On a
    device, too, they are found on the host.
    """

    type = "UniqueLabel"
    param = "unique_label_param"
    fixed: ClassVar[Collection[str] | None] = ()
    reads_bottoms = reads_tops = ()
    differentiable = ()
    max_labels: int
    ignore_label: Sequence[int]

    def check_options(self) -> None:
        self.require(self.max_labels > 0, f"must be given, and positive; found {self.max_labels}", "max_labels")
        self.require(
            self.max_labels <= MOST_LABELS, f"may be {MOST_LABELS} at most; found {self.max_labels}", "max_labels"
        )
        self.require(not self.has("force_label"), "is not known here", "force_label")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(len(bottom[0].shape) > 0, "needs a map for each image; found a scalar", kind=ShapeError)
        top[0].reshape(bottom[0].shape[0], self.max_labels, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rows = top[0].data.reshape(-1, self.max_labels)
        rows[...] = -1
        for row, labels in zip(rows, bottom[0].data, strict=True):
            self.require_whole(labels, "labels")
            found = np.unique(labels)
            found = found[~np.isin(found, np.asarray(self.ignore_label, found.dtype))]
            if len(found) > self.max_labels:
                raise self.error(f"an image has {len(found)} labels: more than {self.max_labels}", "max_labels")
            row[: len(found)] = found


class DiceCoefLoss(Loss):
    r"""How little prediction and truth overlap (DeepDetect):

    .. math:: L = \frac1N \sum_n 1 - \frac{2 \sum x t + 0.5}{\sum x^2 + \sum t^2 + 0.5}

    the sums being those over all values of image n.  Bottoms: x (N, C, …), probabilities; and labels (N, 1, …), from
    which t is 1 in the channel of the label; or t itself, of the shape of x.  The channel ``ignore_label`` is left out.
    A label that is neither a channel nor that is an error.
    DeepDetect: the gradient is N times as large; weighted generalizations are not known here.
    """

    type = "DiceCoefLoss"
    param = "dice_coef_loss_param"
    reads_bottoms = ()
    fixed: ClassVar[Collection[str] | None] = ()
    per_element = 6
    generalization: int
    ignore_label: int

    NONE, MULTICLASS = range(2)
    SMOOTH = 0.5

    def check_options(self) -> None:
        self.require(
            self.generalization in (self.NONE, self.MULTICLASS), "must be NONE or MULTICLASS here", "generalization"
        )
        self.require(not self.has("contour_shape"), "is not known here", "contour_shape")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        x, label = bottom
        self.given_truth = label.shape == x.shape
        self.require(
            len(x.shape) > 1 and (self.given_truth or label.shape == (x.shape[0], 1, *x.shape[2:])),
            f"needs (N, C, …) and (N, 1, …), or one shape; found {x.shape_string} and {label.shape_string}",
            kind=ShapeError,
        )
        self.rows = (*x.shape[:2], x.span(2))
        self.truth, self.kept = self.scratch("truth", self.rows), self.scratch("kept_x", self.rows)
        self.product = self.scratch("product", self.rows)
        self.is_class = self.scratch("is_class", self.rows, "bool")
        self.channel = self.scratch("channel", (1, x.shape[1], 1))
        self.channel.reshape(-1)[...] = self.xp.arange(x.shape[1], dtype=self.dtype)
        self.keep = self.scratch("keep", (1, x.shape[1], 1))
        self.keep[...] = 1 if not self.has("ignore_label") else self.channel != self.ignore_label
        self.inside, self.outside = self.scratch("inside", (x.shape[0],)), self.scratch("outside", (x.shape[0],))
        self.sums = self.scratch("sums", (x.shape[0],))
        self.bad_label = self.flag("bad_label")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        xp, x = self.xp, bottom[0].xdata.reshape(self.rows)
        label = bottom[1].xdata.reshape(self.rows[0], -1, self.rows[2])
        if self.given_truth:
            self.truth[...] = label
        else:
            ignored = self.ignore_label if self.has("ignore_label") else None
            self.check_indices(label, self.rows[1], self.bad_label, ignored, " among the labels")
            xp.equal(label, self.channel, out=self.is_class)
            self.truth[...] = self.is_class
        self.truth *= self.keep
        xp.multiply(x, self.keep, out=self.kept)
        self._dot(self.kept, self.truth, self.inside)
        self.inside *= 2
        self.inside += self.SMOOTH
        self._dot(self.kept, self.kept, self.outside)
        self._dot(self.truth, self.truth, self.sums)
        self.outside += self.sums
        self.outside += self.SMOOTH
        xp.divide(self.inside, self.outside, out=self.sums)
        xp.mean(self.sums, out=top[0].xdata)
        xp.subtract(1, top[0].xdata, out=top[0].xdata)

    def _dot(self, a: Any, b: Any, out: Any) -> None:
        """The sum of a times b for each image."""
        self.xp.multiply(a, b, out=self.product)
        self.xp.sum(self.product, axis=(1, 2), out=out)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            # -2 (t - x inside / outside) / outside
            dx = bottom[0].xdiff.reshape(self.rows)
            self.xp.multiply(self.kept, self.sums[:, None, None], out=dx)
            dx -= self.truth
            dx *= 2
            dx /= self.outside[:, None, None]
            dx *= top[0].xdiff
