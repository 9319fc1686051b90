"""Softmax, and the loss of its probabilities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import log
from typing import Any, ClassVar

import numpy as np

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import FLT_MIN
from minicaffe.layers.base import Count, Layer, LayerClass
from minicaffe.layers.classification import Normalized


class Softmax(Layer):
    r"""Scores to probabilities along ``axis`` (1): :math:`y_i = e^{x_i} / \sum_j e^{x_j}`.

    Bottom and top: one shape.  The largest score is subtracted first, so that nothing overflows.
    ``scaling_temperature`` (1): the scores are divided by it first.
    DeepDetect: backward does not divide by the temperature.
    """

    type = "Softmax"
    capturable = True
    by_image = True
    obeys = ("scaling_temperature",)
    param = "softmax_param"
    reads_bottoms = ()
    per_element = 5
    in_place = "always"
    axis: int
    scaling_temperature: float

    def check_options(self) -> None:
        self.require(
            self.scaling_temperature > 0, f"must be positive; found {self.scaling_temperature:g}", "scaling_temperature"
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        top[0].reshape_like(x)
        axis = self.axis_of(x, self.axis)
        self.shape = self.about(x, axis, "score")
        self.only_by_image_if(axis > 0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.shape), top[0].xdata.reshape(self.shape)
        if self.scaling_temperature != 1:
            self.ops.elementwise(Softmax.cooled, (x,), (self.scaling_temperature,), y)
            x = y
        self.ops.softmax(x, y)

    @staticmethod
    def cooled(x: float, temperature: float) -> float:
        return x / temperature

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            y, dy = top[0].xdata.reshape(self.shape), top[0].xdiff.reshape(self.shape)
            self.ops.softmax_grad(y, dy, bottom[0].xdiff.reshape(self.shape))


class SoftmaxWithLoss(Normalized):
    r"""Multinomial logistic loss of the softmax of the scores, computed together for numerical stability.

    .. math:: L = -\frac{1}{D} \sum_i \log \max(p_{i, y_i}, 2^{-126}), \qquad p = \mathrm{softmax}(x)

    Bottoms: scores x, and integer labels y, one for each position along the class axis (``softmax_param.axis``, 1).
    Tops: the loss, a scalar; if a second is named, p; if a third is (Cascade R-CNN), the loss of each position, of the
    shape of y, divided by nothing.  D: see ``Normalized``.
    Caffe: one term is at most 87.33655; the gradient ``(p - onehot(y)) / D`` ignores that floor.  Caffe fails with two
    tops; here the second is p and has no gradient.
    """

    type = "SoftmaxWithLoss"
    capturable = True
    capturable_on_device = True
    reads_bottoms: Sequence[int] = (1,)
    param = "softmax_param"
    fixed: ClassVar[Collection[str] | None] = ("weight_by_label_freqs",)
    per_element = 5
    tops: Count = (1, 2)
    axis: int

    obeys: ClassVar[Collection[str]] = ("weight_by_label_freqs", "class_weighting", "pre_fixed_normalizer")

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """SegNet's, which weighs classes, if ``weight_by_label_freqs`` is on; Cascade R-CNN's with three tops."""
        if layer_param.loss_param.weight_by_label_freqs:
            return WeightedSoftmaxWithLoss
        return PositionSoftmaxWithLoss if len(layer_param.top) > 2 else SoftmaxWithLoss

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.capturable = len(top) == 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.shape = self.expect_labels(bottom, self.about_axis(bottom[0], self.axis))
        self.prob = self.scratch("prob", self.shape)
        if len(top) > 1:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), self.prob)
        self.divide_by(label, outer)
        self.ops.softmax_loss(self.prob, label, self.ignored, self.normalizer, top[0].xdata)
        if len(top) > 1:
            top[1].xdata[...] = self.prob.reshape(top[1].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            outer, _, inner = self.shape
            label, dx = bottom[1].xdata.reshape(outer, inner), bottom[0].xdiff.reshape(self.shape)
            self.ops.softmax_loss_grad(self.prob, label, self.ignored, self.normalizer, top[0].xdiff, dx)


class WeightedSoftmaxWithLoss(SoftmaxWithLoss):
    r"""SoftmaxWithLoss in which each class has a weight (SegNet: median frequency balancing).

    .. math:: L = -\frac{1}{D} \sum_i w_{y_i} \log \max(p_{i, y_i}, 10^{-20})

    ``loss_param`` gives w as one ``class_weighting`` for each class, and turns it on by ``weight_by_label_freqs``;
    without that SegNet leaves the weights unread.  D counts positions, not weights.  SegNet: the floor is 2^-126.
    """

    type = ""
    capturable = False
    capturable_on_device = True
    fixed = ("weight_by_label_freqs",)
    class_weighting: Sequence[float]

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        Normalized.setup(self, bottom, top)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        classes = self.shape[1]
        self.require(
            len(self.class_weighting) == classes,
            f"must be given for each of the {classes} classes; found {len(self.class_weighting)}",
            "class_weighting",
        )
        self.gain = self.scratch("gain", (classes, classes))
        self.gain[...] = self.xp.asarray(np.diag(self.class_weighting), dtype=self.dtype)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().forward(bottom, top)
        label = bottom[1].xdata.reshape(self.shape[0], self.shape[2])
        self.ops.infogain_loss(self.prob, label, self.gain, self.ignored, self.normalizer, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            label = bottom[1].xdata.reshape(self.shape[0], self.shape[2])
            how = (self.ignored, self.normalizer, top[0].xdiff, bottom[0].xdiff.reshape(self.shape))
            self.ops.infogain_loss_grad(self.prob, label, self.gain, *how)


class PositionSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss with a third top, the loss of each position."""

    type = ""
    obeys: ClassVar[Collection[str]] = ("pre_fixed_normalizer",)
    tops: Count = (1, 3)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if len(top) > 2:
            top[2].reshape_like(bottom[1])
            self.prepare_positions()

    def prepare_positions(self) -> None:
        """In ``reshape``: make room for ``position_losses``."""
        self.picked = self.scratch("picked", self.shape)
        self.classes = self.scratch("classes", (1, self.shape[1], 1))
        self.classes[...] = self.xp.arange(self.shape[1], dtype=self.dtype)[:, None]

    def position_losses(self, label: Any, losses: Any) -> None:
        """In ``forward``: the loss of each position, (outer, inner), 0 where the label is ignored."""
        self.xp.equal(label[:, None], self.classes, out=self.picked, casting="unsafe")
        self.picked *= self.prob
        self.xp.sum(self.picked, axis=1, out=losses)
        ignored = -1.0 if self.ignored is None else float(self.ignored)  # no label that counts is negative
        self.ops.elementwise(self.position_loss, (losses, label), (FLT_MIN, ignored), losses)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().forward(bottom, top)
        if len(top) > 2:
            outer, _, inner = self.shape
            self.position_losses(*(blob.xdata.reshape(outer, inner) for blob in (bottom[1], top[2])))

    @staticmethod
    def position_loss(p: float, label: float, least: float, ignored: float) -> float:
        return 0.0 if label == ignored else -log(least if p < least else p)


class SoftmaxWithWeightedLoss(PositionSoftmaxWithLoss):
    r"""SoftmaxWithLoss in which each position has a weight (MS-CNN, Cai et al. 2016).

    .. math:: L = -\frac{1}{D} \sum_i w_i \log \max(p_{i, y_i}, 2^{-126}), \qquad p = \mathrm{softmax}(x)

    Bottoms: scores x, integer labels y, one for each position along the class axis (``softmax_param.axis``, 1), and
    optionally weights w, as many as labels, 1 where they are not given.  Tops: the loss, a scalar; if a second is
    named, p.  D counts the positions that are not ignored, or with ``loss_param.normalize: false`` the product of the
    axes before the class axis; see ``Normalized`` for others.
    """

    type = "SoftmaxWithWeightedLoss"
    bottoms: Count = (2, 3)
    tops = (1, 2)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        return cls

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.capturable = False
        self.reads_bottoms = tuple(range(1, len(bottom)))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if len(bottom) > 2:
            self.require(
                bottom[2].count == bottom[1].count,
                f"must have as many weights as labels; found {bottom[2].shape_string} and {bottom[1].shape_string}",
                kind=ShapeError,
            )
            self.losses = self.scratch("losses", (self.shape[0], self.shape[2]))
            self.prepare_positions()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().forward(bottom, top)
        if len(bottom) > 2:
            label, weights = (blob.xdata.reshape(self.losses.shape) for blob in bottom[1:])
            self.position_losses(label, self.losses)
            self.losses *= weights
            self.xp.sum(self.losses, out=top[0].xdata)
            top[0].xdata[...] /= self.normalizer

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        super().backward(top, propagate_down, bottom)
        if propagate_down[0] and len(bottom) > 2:
            dx = bottom[0].xdiff.reshape(self.shape)
            dx *= bottom[2].xdata.reshape(self.losses.shape)[:, None]
