"""Losses: their base, and those that compare two blobs element by element."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer


class Loss(Layer):
    """Base of losses: one scalar top that may be left out, weighted 1 unless ``loss_weight`` says otherwise.

    Backward multiplies by the top's gradient, which holds the loss weight.  Labels get no gradient.
    """

    bottoms: Count = 2
    common_params: ClassVar[Sequence[str]] = ("loss_param",)
    fixed: ClassVar[Collection[str] | None] = ()
    auto_tops = True
    reads_tops = ()
    differentiable: tuple[int, ...] | None = (0,)
    forcible: tuple[int, ...] | None = (0,)
    empty_batch = False
    """Whether a batch without items has a loss, 0; the mean over its items is not defined."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.layer_param.loss_weight:
            self.layer_param.loss_weight.extend([1.0] + [0.0] * (len(top) - 1))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not bottom[0].shape or bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise self.error(
                "the data and the labels must have the same first dimension; "
                f"found {bottom[0].shape_string} and {bottom[1].shape_string}",
                kind=ShapeError,
            )
        self.require(
            self.empty_batch or bottom[0].shape[0] > 0,
            f"the loss is a mean over the items of the batch, which has none; found {bottom[0].shape_string}",
            kind=ShapeError,
        )
        top[0].reshape()


class EuclideanLoss(Loss):
    r"""Half the mean squared distance.

    .. math:: L = \frac{1}{2N} \sum_n \lVert a_n - b_n \rVert_2^2

    Bottoms: a and b, (N, …) with equal numbers of elements a row.  Top: the loss, a scalar.  Both bottoms can get a
    gradient.
    """

    type = "EuclideanLoss"
    capturable_on_device = True
    reads_bottoms = ()
    per_element = 3
    differentiable = (0, 1)
    forcible = (0, 1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if bottom[0].span(1) != bottom[1].span(1):
            found = " and ".join(blob.shape_string for blob in bottom)
            raise self.error(f"inputs must have the same dimension; found {found}", kind=ShapeError)
        self.difference = self.scratch("difference", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, b = bottom[0].xdata, bottom[1].xdata.reshape(bottom[0].shape)
        self.ops.euclidean_loss(a, b, self.difference, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            self.ops.euclidean_loss_grad(self.difference, top[0].xdiff, sign, bottom[i].xdiff)


class ContrastiveLoss(Loss):
    r"""Pull similar pairs together, push others at least ``margin`` apart (Hadsell, Chopra, LeCun 2006, eq. 4).

    .. math:: L = \frac{1}{2N} \sum_n y_n d_n^2 + (1 - y_n) \max(m - d_n, 0)^2, \qquad d_n = \lVert a_n - b_n \rVert_2

    Bottoms: ``a`` and ``b`` (N, C[, 1, 1]), ``y`` (N[, 1, 1, 1]), integers, not 0 where the pair is similar.  Top: the
    loss, a scalar.
    Caffe: the gradient divides by ``d + 1e-4``; ``legacy_version`` penalises ``max(m - d^2, 0)`` instead.
    """

    type = "ContrastiveLoss"
    capturable = True
    reads_bottoms = (2,)
    param = "contrastive_loss_param"
    per_element = 3
    bottoms = 3
    differentiable = (0, 1, 2)  # Caffe leaves the gradient of y untouched and says nothing
    forcible = (0, 1)
    margin: float
    legacy_version: bool

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        a, b, y = bottom
        for blob, sizes in ((a, a.shape[2:]), (b, b.shape[2:]), (y, y.shape[1:])):
            if len(blob.shape) > 4 or any(size != 1 for size in sizes):
                raise self.error(
                    f"a and b must be (N, C[, 1, 1]) and y (N[, 1, 1, 1]); found {a.shape_string}, {b.shape_string} "
                    f"and {y.shape_string}",
                    kind=ShapeError,
                )
        if a.num != y.num or a.num != b.num or a.channels != b.channels:
            raise self.error(
                f"a and b must agree in N and C, and y in N; found {a.shape_string}, {b.shape_string} and "
                f"{y.shape_string}",
                kind=ShapeError,
            )
        self.rows = (a.num, a.channels)
        self.difference = self.scratch("difference", self.rows)
        self.distance = self.scratch("distance", (a.num,))
        self.bad_label = self.flag("bad_label")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, b = bottom[0].xdata.reshape(self.rows), bottom[1].xdata.reshape(self.rows)
        y = bottom[2].xdata.reshape(-1)
        self.check_indices(y, None, self.bad_label, hint=" among the labels of pairs")
        self.ops.contrastive_loss(
            a, b, y, self.margin, self.legacy_version, self.difference, self.distance, top[0].xdata
        )

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        y = bottom[2].xdata.reshape(-1)
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            self.ops.contrastive_loss_grad(
                self.difference,
                self.distance,
                y,
                self.margin,
                self.legacy_version,
                top[0].xdiff,
                sign,
                bottom[i].xdiff.reshape(self.rows),
            )
