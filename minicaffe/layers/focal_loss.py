"""FocalLoss: cross entropy that cares less for what is right already."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.blob import Blob
from minicaffe.layers.classification import Normalized


class FocalLoss(Normalized):
    r"""Cross entropy whose terms shrink as their probabilities grow (Lin et al. 2017, as in DeepDetect's Caffe).

    .. math:: L = -\frac{1}{D} \sum_i \alpha (1 - p_i)^\gamma \log \max(p_i, 2^{-126})

    with p the softmax of the scores at the label.  Bottoms: scores, and integer labels, one for each position along
    ``axis`` (1).  Tops: the loss, a scalar; if a second is named, the probabilities.  ``alpha``: 0.25; ``gamma``: 2.
    D: see ``Normalized``.
    """

    type = "FocalLoss"
    capturable = True
    reads_bottoms = (1,)
    param = "focal_loss_param"
    per_element = 6
    tops = (1, 2)
    axis: int
    alpha: float
    gamma: float

    def check_options(self) -> None:
        super().check_options()
        focal = self.layer_param.focal_loss_param
        for field in ("type", "beta", "gama"):
            self.require(
                not focal.HasField(field), "is of another fork's FocalLoss; this one has alpha and gamma", field
            )
        self.require(self.gamma >= 0, f"must not be negative; found {self.gamma:g}", "gamma")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.capturable = len(top) == 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.shape = self.expect_labels(bottom, self.about_axis(bottom[0], self.axis))
        self.how = self.given("alpha", 0.25), self.gamma, self.ignored
        self.prob = self.scratch("prob", self.shape)
        if len(top) > 1:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), self.prob)
        self.divide_by(label, outer)
        self.ops.focal_loss(self.prob, label, *self.how, self.normalizer, top[0].xdata)
        if len(top) > 1:
            top[1].xdata[...] = self.prob.reshape(top[1].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            outer, _, inner = self.shape
            label, dx = bottom[1].xdata.reshape(outer, inner), bottom[0].xdiff.reshape(self.shape)
            self.ops.focal_loss_grad(self.prob, label, *self.how, self.normalizer, top[0].xdiff, dx)
