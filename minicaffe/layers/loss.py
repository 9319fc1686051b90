"""Loss layers, and Accuracy."""

from __future__ import annotations

from minicaffe import backend
from minicaffe.errors import LayerError, ShapeError
from minicaffe.kernels.reference import BATCH_SIZE, VALID
from minicaffe.layers.base import Layer


class Loss(Layer):
    """Base of losses: one scalar top that may be left out, weighted 1 unless ``loss_weight`` says otherwise.

    Backward multiplies by the top's gradient, which holds the loss weight.  Labels get no gradient.
    """

    bottoms = 2
    auto_tops = True
    differentiable = (0,)
    forcible = (0,)

    def setup(self, bottom, top):
        if not self.layer_param.loss_weight:
            self.layer_param.loss_weight.extend([1.0] + [0.0] * (len(top) - 1))

    def reshape(self, bottom, top):
        if bottom[0].shape[:1] != bottom[1].shape[:1]:
            raise self.error(
                "the data and the labels must have the same first dimension; "
                f"found {bottom[0].shape_string} and {bottom[1].shape_string}", kind=ShapeError,
            )
        top[0].reshape()


class Labelled(Loss):
    """Base of losses over classes along an axis, with one integer label a position, some of them ignored.

    ``loss_param``: ``ignore_label``; ``normalization`` divides the sum by all positions (FULL), those not ignored (VALID,
    the default), the product of the axes before the class axis (BATCH_SIZE) or nothing (NONE), by at least 1.  The older
    ``normalize`` counts where ``normalization`` is absent: true is VALID, false BATCH_SIZE.
    """

    def setup(self, bottom, top):
        super().setup(bottom, top)
        options = self.layer_param.loss_param
        self.ignore_label = options.ignore_label if options.HasField("ignore_label") else None
        self.normalization = options.normalization
        if not options.HasField("normalization") and options.HasField("normalize"):
            self.normalization = VALID if options.normalize else BATCH_SIZE

    def class_axis(self, bottom, axis):
        """Sizes (outer, classes, inner) about the class axis; sets up label checks and the normaliser."""
        scores, labels = bottom[:2]
        axis = self.axis_of(scores, axis)
        outer, classes, inner = scores.span(0, axis), scores.shape[axis], scores.span(axis + 1)
        if labels.count != outer * inner:
            raise self.error(
                f"the number of labels must match the number of predictions: with class axis {axis} of scores "
                f"{scores.shape_string} there must be {outer * inner} integer labels in 0 .. {classes - 1}; "
                f"found {labels.shape_string}", kind=ShapeError,
            )
        self.bad_label = self.scratch("bad_label", (), "int32")
        return outer, classes, inner

    def check_labels(self, label, classes):
        """Report a label that is no class: at once on the host, at the next synchronisation on a device."""
        self.ops.check_labels(label, classes, self.ignore_label, self.bad_label)
        backend.current().check_later(self.bad_label, lambda index: self._label_error(index, classes))

    def _label_error(self, index: int, classes: int) -> LayerError:
        ignored = "" if self.ignore_label is None else f" (or {self.ignore_label}, which is ignored)"
        return self.error(
            f"label number {index} of the batch is not an integer in 0 .. {classes - 1}{ignored}; the layer below gives "
            f"{classes} scores, so check its num_output and the labels of the data"
        )


class SoftmaxWithLoss(Labelled):
    r"""Multinomial logistic loss of the softmax of the scores, computed together for numerical stability.

    .. math:: L = -\frac{1}{D} \sum_i \log \max(p_{i, y_i}, 2^{-126}), \qquad p = \mathrm{softmax}(x)

    Bottoms: scores x, and integer labels y, one for each position along the class axis (``softmax_param.axis``, 1).  Tops: the
    loss, a scalar; if a second is named, p.  D: see ``Labelled``.
    Caffe: one term is at most 87.33655; the gradient ``(p - onehot(y)) / D`` ignores that floor.  Caffe fails with two tops;
    here the second is p and has no gradient.
    """

    type = "SoftmaxWithLoss"
    param = "softmax_param"
    tops = (1, 2)
    axis: int

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        self.shape = self.class_axis(bottom, self.axis)
        self.prob = self.scratch("prob", self.shape)
        self.normalizer = self.scratch("normalizer", ())
        if len(top) > 1:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom, top):
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), self.prob)
        self.ops.loss_normalizer(label, outer, self.ignore_label, self.normalization, self.normalizer)
        self.ops.softmax_loss(self.prob, label, self.ignore_label, self.normalizer, top[0].xdata)
        if len(top) > 1:
            top[1].xdata[...] = self.prob.reshape(top[1].shape)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            outer, _, inner = self.shape
            label, dx = bottom[1].xdata.reshape(outer, inner), bottom[0].xdiff.reshape(self.shape)
            self.ops.softmax_loss_grad(self.prob, label, self.ignore_label, self.normalizer, top[0].xdiff, dx)


class EuclideanLoss(Loss):
    r"""Half the mean squared distance.

    .. math:: L = \frac{1}{2N} \sum_n \lVert a_n - b_n \rVert_2^2

    Bottoms: a and b, (N, …) with equal numbers of elements a row.  Top: the loss, a scalar.  Both bottoms can get a gradient.
    """

    type = "EuclideanLoss"
    differentiable = (0, 1)
    forcible = (0, 1)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        if bottom[0].span(1) != bottom[1].span(1):
            found = " and ".join(blob.shape_string for blob in bottom)
            raise self.error(f"inputs must have the same dimension; found {found}", kind=ShapeError)
        self.difference = self.scratch("difference", bottom[0].shape)

    def forward(self, bottom, top):
        a, b = bottom[0].xdata, bottom[1].xdata.reshape(bottom[0].shape)
        self.ops.euclidean_loss(a, b, self.difference, top[0].xdata)

    def backward(self, top, propagate_down, bottom):
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            self.ops.euclidean_loss_grad(self.difference, top[0].xdiff, sign, bottom[i].xdiff)


class ContrastiveLoss(Loss):
    r"""Pull similar pairs together, push others at least ``margin`` apart (Hadsell, Chopra, LeCun 2006, eq. 4).

    .. math:: L = \frac{1}{2N} \sum_n y_n d_n^2 + (1 - y_n) \max(m - d_n, 0)^2, \qquad d_n = \lVert a_n - b_n \rVert_2

    Bottoms: ``a`` and ``b`` (N, C[, 1, 1]), ``y`` (N[, 1, 1, 1]), not 0 where the pair is similar.  Top: the loss, a scalar.
    Caffe: the gradient divides by ``d + 1e-4``; ``legacy_version`` penalises ``max(m - d^2, 0)`` instead.
    """

    type = "ContrastiveLoss"
    param = "contrastive_loss_param"
    bottoms = 3
    differentiable = (0, 1, 2)  # Caffe leaves the gradient of y untouched and says nothing
    forcible = (0, 1)
    margin: float
    legacy_version: bool

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        a, b, y = bottom
        for blob, sizes in ((a, a.shape[2:]), (b, b.shape[2:]), (y, y.shape[1:])):
            if len(blob.shape) > 4 or any(size != 1 for size in sizes):
                raise self.error(
                    f"a and b must be (N, C[, 1, 1]) and y (N[, 1, 1, 1]); found {a.shape_string}, {b.shape_string} "
                    f"and {y.shape_string}", kind=ShapeError,
                )
        if a.num != y.num or a.num != b.num or a.channels != b.channels:
            raise self.error(
                f"a and b must agree in N and C, and y in N; found {a.shape_string}, {b.shape_string} and {y.shape_string}",
                kind=ShapeError,
            )
        self.rows = (a.num, a.channels)
        self.difference = self.scratch("difference", self.rows)
        self.distance = self.scratch("distance", (a.num,))

    def forward(self, bottom, top):
        a, b = bottom[0].xdata.reshape(self.rows), bottom[1].xdata.reshape(self.rows)
        y = bottom[2].xdata.reshape(-1)
        self.ops.contrastive_loss(a, b, y, self.margin, self.legacy_version, self.difference, self.distance, top[0].xdata)

    def backward(self, top, propagate_down, bottom):
        y = bottom[2].xdata.reshape(-1)
        for i, sign in self.wanted(propagate_down, (0, 1.0), (1, -1.0)):
            self.ops.contrastive_loss_grad(
                self.difference, self.distance, y, self.margin, self.legacy_version, top[0].xdiff, sign,
                bottom[i].xdiff.reshape(self.rows),
            )


class HingeLoss(Loss):
    r"""One-versus-all hinge loss, of a linear support vector machine.

    .. math:: L = \frac{1}{N} \sum_{n,k} \max(0, 1 - s_{nk} x_{nk})^p, \qquad s_{nk} = 1 \text{ if } k = y_n \text{ else } -1

    Bottoms: scores x (N, C…), one integer label y each.  Top: the loss, a scalar.  p: 1 for ``norm: L1``, 2 for L2.
    Caffe: at a margin of exactly 0 the gradient is 0.
    """

    type = "HingeLoss"
    param = "hinge_loss_param"
    norm: int

    L1, L2 = 1, 2

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        self.rows = (bottom[0].shape[0], bottom[0].span(1))
        self.check_label_count(bottom, self.rows)
        self.margin = self.scratch("margin", self.rows)

    def forward(self, bottom, top):
        x, label = bottom[0].xdata.reshape(self.rows), bottom[1].xdata.reshape(-1)
        self.check_labels(label, self.rows[1])
        self.ops.hinge_loss(x, label, self.norm == self.L2, self.margin, top[0].xdata)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            label, dx = bottom[1].xdata.reshape(-1), bottom[0].xdiff.reshape(self.rows)
            self.ops.hinge_loss_grad(self.margin, label, self.norm == self.L2, top[0].xdiff, dx)


class Accuracy(Labelled):
    """Share of labels that are among the ``top_k`` highest scores; with a second top, each class's own share.

    Bottoms: scores, and integer labels, one for each position along ``axis`` (1).  Tops: a scalar; (classes,).
    ``ignore_label`` positions do not count.  A class without labels, or a batch without any, gives 0.
    Caffe: ties count against the label, so equal scores everywhere give 0.  It is no loss: its loss weight is 0, and it
    cannot go backward.
    """

    type = "Accuracy"
    param = "accuracy_param"
    tops = (1, 2)
    auto_tops = False
    differentiable = ()
    forcible = None
    top_k: int
    axis: int

    def setup(self, bottom, top):
        self.ignore_label = self.ignore_label if self.has("ignore_label") else None

    def reshape(self, bottom, top):
        self.require(
            self.top_k * bottom[1].count <= bottom[0].count,
            f"top_k must not exceed the number of classes; found {self.top_k} with scores {bottom[0].shape_string} "
            f"and labels {bottom[1].shape_string}", "top_k",
        )
        self.shape = self.class_axis(bottom, self.axis)
        top[0].reshape()
        self.seen = self.scratch("seen", (self.shape[1],))
        self.per_class = self.scratch("per_class", (self.shape[1],))
        if len(top) > 1:
            top[1].reshape(self.shape[1])

    def forward(self, bottom, top):
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        score = bottom[0].xdata.reshape(self.shape)
        self.ops.accuracy(score, label, self.top_k, self.ignore_label, top[0].xdata, self.per_class, self.seen)
        if len(top) > 1:
            top[1].xdata[...] = self.per_class
