"""Losses of R-FCN that tell what each region loses, and the choice of the hardest ones (online hard example mining)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import BATCH_SIZE, FULL, VALID
from minicaffe.layers.base import Count, Layer, LayerClass
from minicaffe.layers.loss import Loss
from minicaffe.layers.smooth_l1_loss import SmoothL1Loss
from minicaffe.layers.softmax import PositionSoftmaxWithLoss


class SoftmaxWithLossOHEM(PositionSoftmaxWithLoss):
    r"""SoftmaxWithLoss that tells the loss of each position: what BoxAnnotatorOHEM ranks by (R-FCN, Dai et al. 2016).

    Bottoms: scores x, and integer labels y, one for each position along the class axis (``softmax_param.axis``, 1).
    Tops: the loss, a scalar; if a second is named, the probabilities; if a third is, the loss of each position, of the
    shape of y: :math:`-\log p_{i, y_i}`, 0 where it is ignored, divided by nothing.
    R-FCN: with three tops the second stays 0.  On a CPU, Intel's code leaves out as many of the last terms of the loss
    as there are ignored positions; here, as on its GPU, none are.
    """

    type = "SoftmaxWithLossOHEM"

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        return cls

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().forward(bottom, top)
        if len(top) > 2:
            top[1].xdata.fill(0)


class SmoothL1LossOHEM(Loss):
    r"""SmoothL1Loss that tells the loss of each region: what BoxAnnotatorOHEM ranks by (R-FCN, Dai et al. 2016).

    .. math:: L = \frac{1}{D} \sum_i f(w_i (a_i - b_i)), \qquad
        f(d) = \frac{d^2}{2} \text{ if } |d| < 1 \text{ else } |d| - \frac{1}{2}

    Bottoms: a and b (N, C, …); optionally weights w of that shape, 1 where they are not given.  Tops: the loss, a
    scalar; if a second is named, the sum over C of f, (N, 1, …).  D, by ``loss_param.normalization``: positions without
    C (VALID, the default, and FULL), N (BATCH_SIZE), ``pre_fixed_normalizer`` (PRE_FIXED) or 1, and at least 1.
    R-FCN: the gradient lacks the factor w, which is 0 or 1 in practice; a ``loss_weight`` must be given.
    """

    type = "SmoothL1LossOHEM"
    obeys = ("pre_fixed_normalizer",)
    bottoms: Count = (2, 3)
    tops: Count = (1, 2)
    differentiable = forcible = (0, 1)
    stops_at = (2,)
    reads_bottoms: Sequence[int] = ()
    empty_batch = True
    per_element = 4
    normalize: bool
    pre_fixed_normalizer: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.require_same_shape(*bottom)
        x = bottom[0]
        self.require(len(x.shape) > 1, f"inputs must be (N, C, …); found {x.shape_string}", kind=ShapeError)
        self.planes = (x.shape[0], x.shape[1], x.span(2))
        self.difference, self.errors = (self.scratch(name, self.planes) for name in ("difference", "errors"))
        self.sums = self.scratch("sums", (self.planes[0], self.planes[2]))
        if len(top) > 1:
            top[1].reshape(x.shape[0], 1, *x.shape[2:], *(1,) * (4 - len(x.shape)))
        default = VALID if not self.has("normalize") or self.normalize else BATCH_SIZE
        positions = self.planes[0] * self.planes[2]
        counts: dict[int, float] = {FULL: positions, VALID: positions, BATCH_SIZE: self.planes[0]}
        counts[proto.LossParameter.PRE_FIXED] = self.pre_fixed_normalizer
        self.divisor = max(counts.get(self.given("normalization", default), 1), 1)

    def check_options(self) -> None:
        value = self.pre_fixed_normalizer
        self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", "pre_fixed_normalizer")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        inputs = tuple(blob.xdata.reshape(self.planes) for blob in bottom)
        formula = SmoothL1Loss.weighted_difference if len(bottom) == 3 else SmoothL1Loss.plain_difference
        self.ops.elementwise(formula, inputs, (), self.difference)
        self.ops.elementwise(SmoothL1Loss.term, (self.difference,), (1.0, 1.0), self.errors)
        self.xp.sum(self.errors, axis=1, out=self.sums)
        self.xp.sum(self.sums, out=top[0].xdata)
        top[0].xdata[...] /= self.divisor
        if len(top) > 1:
            top[1].xdata.reshape(self.sums.shape)[...] = self.sums

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            dx, weight = bottom[i].xdiff.reshape(1, 1, -1), top[0].xdiff.reshape(1)
            difference = self.difference.reshape(1, 1, -1)
            self.ops.channelwise(SmoothL1Loss.gradient, (difference,), (weight,), (1.0, sign / self.divisor), dx)


class BoxAnnotatorOHEM(Layer):
    """Let only the regions count that lose most: ``roi_per_img`` of each image (R-FCN, Dai et al. 2016).

    Bottoms: regions (R, 5, …), rows (item, x1, y1, x2, y2); their losses (R, 1, …); labels (R, 1, …); weights of the
    boxes (R, C, …).  Tops: labels (R, 1, H, W), ``ignore_label`` (-1) for regions that do not count; weights
    (R, C, H, W), 0 for those.  Of equal losses the first counts.
    On the host: the choice goes by values.
    """

    type = "BoxAnnotatorOHEM"
    param = "box_annotator_ohem_param"
    bottoms = 4
    tops = 2
    differentiable = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0
    roi_per_img: int
    ignore_label: int

    def check_options(self) -> None:
        self.require(self.roi_per_img > 0, f"must be positive; found {self.roi_per_img}", "roi_per_img")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = [(blob.shape + (1, 1, 1, 1))[: max(4, len(blob.shape))] for blob in bottom]
        fits = all(
            len(shape) == 4 and (shape[0], *shape[2:]) == (shapes[0][0], *shapes[0][2:]) for shape in shapes
        ) and [shape[1] for shape in shapes[:3]] == [5, 1, 1]
        found = ", ".join(blob.shape_string for blob in bottom)
        self.require(fits, f"must be (R, 5, …), (R, 1, …), (R, 1, …) and (R, C, …); found {found}", kind=ShapeError)
        self.shapes = shapes
        top[0].reshape(*shapes[2])
        top[1].reshape(*shapes[3])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rois, losses, labels, weights = (
            np.moveaxis(blob.data.reshape(shape), 1, 3).reshape(-1, shape[1])
            for blob, shape in zip(bottom, self.shapes, strict=True)
        )
        counts = np.zeros(len(rois), bool)
        order = np.argsort(-losses[:, 0], kind="stable")
        for item in np.unique(rois[:, 0]):
            counts[order[rois[order, 0] == item][: self.roi_per_img]] = True
        chosen = (np.where(counts[:, None], labels, self.ignore_label), np.where(counts[:, None], weights, 0))
        for blob, values in zip(top, chosen, strict=True):
            num, channels, *size = blob.shape
            blob.data[...] = np.moveaxis(values.reshape(num, *size, channels), 3, 1)
