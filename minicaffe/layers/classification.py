"""Losses that compare scores or probabilities with labels, and Accuracy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from typing import Any, ClassVar

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import DataError, ShapeError
from minicaffe.kernels.reference import BATCH_SIZE, VALID
from minicaffe.layers.loss import Loss
from minicaffe.proto.files import read_binary


class Classified(Loss):
    """Base of what compares scores over classes with integer labels, one for each position."""

    ignored: int | None = None
    """The label that does not count."""

    def expect_labels(self, bottom: Sequence[Blob], shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Require one label for each position of scores seen as ``shape`` (outer, classes, inner)."""
        (outer, classes, inner), (scores, labels) = shape, bottom[:2]
        if labels.count != outer * inner:
            raise self.error(
                f"the number of labels must match the number of predictions: scores {scores.shape_string} over "
                f"{classes} classes "
                f"need {outer * inner} integer labels in 0 .. {classes - 1}; found {labels.shape_string}",
                kind=ShapeError,
            )
        self.bad_label = self.flag("bad_label")
        return shape

    def about_axis(self, blob: Blob, axis: int) -> tuple[int, int, int]:
        """The sizes (outer, classes, inner) before, at and after the class axis."""
        return self.about(blob, self.axis_of(blob, axis), "class")

    def check_labels(self, label: Any, classes: int) -> None:
        """Report a label that is no class."""
        hint = f" among the labels; the layer below gives {classes} scores: check its num_output and the data's labels"
        self.check_indices(label, classes, self.bad_label, self.ignored, hint)


class Normalized(Classified):
    """Base of losses that are divided by a count of positions, some of which may be ignored.

    ``loss_param``: ``ignore_label``; ``normalization`` divides the sum by all positions (FULL), those not ignored
    (VALID, the default), the product of the axes before the class axis (BATCH_SIZE), ``pre_fixed_normalizer``
    (PRE_FIXED, R-FCN) or nothing (NONE), by at least 1.
    The older ``normalize`` counts where ``normalization`` is absent: true is VALID, false BATCH_SIZE.
    """

    common_params = ("loss_param",)
    obeys: ClassVar[Collection[str]] = ("pre_fixed_normalizer",)
    empty_batch = True
    default_normalization = VALID
    normalize: bool
    pre_fixed_normalizer: float

    def check_options(self) -> None:
        value = self.pre_fixed_normalizer
        self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", "pre_fixed_normalizer")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.ignored = self.given("ignore_label", None)
        default = self.default_normalization
        if self.has("normalize"):
            default = VALID if self.normalize else BATCH_SIZE
        self.normalization = self.given("normalization", default)
        self.normalizer = self.scratch("normalizer", ())

    def divide_by(self, label: Any, outer: int) -> None:
        """In ``forward``: set ``normalizer``, for these labels and this product of the axes before the classes."""
        how: tuple = (outer, self.ignored, self.normalization)
        if self.normalization == proto.LossParameter.PRE_FIXED:
            how = (self.pre_fixed_normalizer, None, BATCH_SIZE)
        self.ops.loss_normalizer(label, *how, self.normalizer)


class InfogainLoss(Normalized):
    r"""Cross entropy of the softmax of the scores in which each pair of classes has a weight of its own.

    .. math:: L = -\frac{1}{D} \sum_i \sum_k H_{y_i k} \log \max(p_{i, k}, 10^{-20}), \qquad p = \mathrm{softmax}(x)

    Bottoms: scores x; integer labels y, one for each position along ``axis`` (1); optionally H (classes, classes),
    which is read from the BlobProto file ``source`` otherwise.  Tops: the loss, a scalar; if a second is named, p.  D:
    see ``Normalized``.
    Caffe: ``normalize`` is an error; the gradient ignores the floor; two tops need two values of ``loss_weight``.
    """

    type = "InfogainLoss"
    capturable_on_device = True
    param = "infogain_loss_param"
    per_element = 7
    bottoms = (2, 3)
    tops = (1, 2)
    fixed = ("source",)
    axis: int
    source: str

    def check_options(self) -> None:
        super().check_options()
        self.require(not self.has("normalize"), "is deprecated; use normalization", "normalize")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.reads_bottoms = range(1, len(bottom))
        if len(bottom) == 2:
            self.gain = Blob.from_proto(self._read_gain(), self.dtype)

    def _read_gain(self) -> proto.BlobProto:
        self.require(self.source != "", "give the matrix H as a third bottom, or the file that holds it", "source")
        try:
            return read_binary(self.find_file(self.source), proto.BlobProto, "infogain matrix", DataError)
        except DataError as error:
            raise self.data_error(error, "source") from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.shape = self.expect_labels(bottom, self.about_axis(bottom[0], self.axis))
        gain, classes = self.gain_of(bottom), self.shape[1]
        self.require(
            gain.count == classes * classes,
            f"H must hold {classes} x {classes} values; found {gain.shape_string}",
            "source",
            ShapeError,
        )
        self.prob = self.scratch("prob", self.shape)
        if len(top) > 1:
            top[1].reshape_like(bottom[0])

    def gain_of(self, bottom: Sequence[Blob]) -> Blob:
        """The blob that holds H."""
        return bottom[2] if len(bottom) > 2 else self.gain

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outer, classes, inner = self.shape
        label, gain = bottom[1].xdata.reshape(outer, inner), self.gain_of(bottom).xdata.reshape(classes, classes)
        self.check_labels(label, classes)
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), self.prob)
        self.divide_by(label, outer)
        self.ops.infogain_loss(self.prob, label, gain, self.ignored, self.normalizer, top[0].xdata)
        if len(top) > 1:
            top[1].xdata[...] = self.prob.reshape(top[1].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            outer, classes, inner = self.shape
            label, gain = bottom[1].xdata.reshape(outer, inner), self.gain_of(bottom).xdata.reshape(classes, classes)
            dx = bottom[0].xdiff.reshape(self.shape)
            self.ops.infogain_loss_grad(self.prob, label, gain, self.ignored, self.normalizer, top[0].xdiff, dx)


class MultinomialLogisticLoss(Classified):
    r"""Mean negative logarithm of the probability of each item's label.

    .. math:: L = -\frac{1}{N} \sum_n \log \max(p_{n, y_n}, 10^{-20})

    Bottoms: probabilities p (N, C…), one integer label y each.  Top: the loss, a scalar.
    """

    type = "MultinomialLogisticLoss"
    capturable_on_device = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.rows = (bottom[0].shape[0], bottom[0].span(1))
        self.expect_labels(bottom, (*self.rows, 1))

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * bottom[1].count

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        label = bottom[1].xdata.reshape(-1)
        self.check_labels(label, self.rows[1])
        self.ops.multinomial_loss(bottom[0].xdata.reshape(self.rows), label, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            p, dx = bottom[0].xdata.reshape(self.rows), bottom[0].xdiff.reshape(self.rows)
            self.ops.multinomial_loss_grad(p, bottom[1].xdata.reshape(-1), top[0].xdiff, dx)


class HingeLoss(Classified):
    r"""One-versus-all hinge loss, of a linear support vector machine.

    .. math:: L = \frac{1}{N} \sum_{n,k} \max(0, 1 - s_{nk} x_{nk})^p,
              \qquad s_{nk} = 1 \text{ if } k = y_n \text{ else } -1

    Bottoms: scores x (N, C…), one integer label y each.  Top: the loss, a scalar.  p: 1 for ``norm: L1``, 2 for L2.
    Caffe: at a margin of exactly 0 the gradient is 0.
    """

    type = "HingeLoss"
    capturable_on_device = True
    reads_bottoms = (1,)
    param = "hinge_loss_param"
    per_element = 3
    norm: int

    L1, L2 = 1, 2

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.rows = (bottom[0].shape[0], bottom[0].span(1))
        self.expect_labels(bottom, (*self.rows, 1))
        self.margin = self.scratch("margin", self.rows)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, label = bottom[0].xdata.reshape(self.rows), bottom[1].xdata.reshape(-1)
        self.check_labels(label, self.rows[1])
        self.ops.hinge_loss(x, label, self.norm == self.L2, self.margin, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            label, dx = bottom[1].xdata.reshape(-1), bottom[0].xdiff.reshape(self.rows)
            self.ops.hinge_loss_grad(self.margin, label, self.norm == self.L2, top[0].xdiff, dx)


class Accuracy(Classified):
    """Share of labels that are among the ``top_k`` highest scores; with a second top, each class's own share.

    Bottoms: scores, and integer labels, one for each position along ``axis`` (1).  Tops: a scalar; (classes,).
    ``ignore_label`` positions do not count.  A class without labels, or a batch without any, gives 0.
    happynear: with ``min_is_better`` the lowest are counted instead, of distances.
    Caffe: ties count against the label, so equal scores everywhere give 0; NaN counts for it, here against it.  It is
    no loss: its loss weight is 0, and it cannot go backward.
    """

    type = "Accuracy"
    capturable_on_device = True
    reads_bottoms = ()
    param = "accuracy_param"
    obeys = ("min_is_better",)
    fixed = ()
    tops = (1, 2)
    auto_tops = False
    differentiable = ()
    forcible = None
    top_k: int
    axis: int
    min_is_better: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing to do; a loss would weight its top."""

    def check_options(self) -> None:
        self.require(self.top_k > 0, f"must be positive; found {self.top_k}", "top_k")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ignored = self.given("ignore_label", None)
        self.require(
            self.top_k * bottom[1].count <= bottom[0].count,
            f"top_k must not exceed the number of classes; found {self.top_k} with scores {bottom[0].shape_string} "
            f"and labels {bottom[1].shape_string}",
            "top_k",
        )
        self.shape = self.expect_labels(bottom, self.about_axis(bottom[0], self.axis))
        top[0].reshape()
        self.seen = self.scratch("seen", (self.shape[1],))
        self.per_class = self.scratch("per_class", (self.shape[1],))
        self.turned = self.scratch("turned", self.shape) if self.min_is_better else None
        if len(top) > 1:
            top[1].reshape(self.shape[1])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        score = bottom[0].xdata.reshape(self.shape)
        if self.turned is not None:
            self.xp.negative(score, out=self.turned)
            score = self.turned
        self.ops.accuracy(score, label, self.top_k, self.ignored, top[0].xdata, self.per_class, self.seen)
        if len(top) > 1:
            top[1].xdata[...] = self.per_class
