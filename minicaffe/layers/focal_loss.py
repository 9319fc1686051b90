"""FocalLoss: cross entropy that cares less for what is right already."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

from minicaffe.blob import Blob
from minicaffe.layers.classification import Normalized


class FocalLoss(Normalized):
    r"""Cross entropy whose terms shrink as their probabilities grow (Lin et al. 2017, as in DeepDetect's Caffe).

    .. math:: L = -\frac{1}{D} \sum_i \alpha (1 - p_i)^\gamma \log \max(p_i, 2^{-126})

    with p the softmax of the scores at the label.  Bottoms: scores, and integer labels, one for each position along
    ``axis`` (1).  Tops: the loss, a scalar; if a second is named, the probabilities.  ``alpha``: 0.25; ``gamma``: 2.
    D: see ``Normalized``.
    happynear's dialect, said by ``type``: the factor is :math:`(\alpha - p)^\gamma`, or :math:`(\alpha + p)^\gamma` for
    ``type: ONEADDP``, and ``alpha`` is 1.
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

    LINEAR, ONEADDP = 1, 2

    def check_options(self) -> None:
        super().check_options()
        focal = self.layer_param.focal_loss_param
        for field in ("beta", "gama"):
            self.require(
                not focal.HasField(field), "is of another fork's FocalLoss; this one has alpha and gamma", field
            )
        self.require(focal.type != self.LINEAR, "LINEAR is not in minicaffe; ORIGIN and ONEADDP are", "type")
        self.by_type = focal.HasField("type")
        self.require(self.gamma >= 0, f"must not be negative; found {self.gamma:g}", "gamma")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.capturable = len(top) == 1 and not self.by_type

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.shape = self.expect_labels(bottom, self.about_axis(bottom[0], self.axis))
        self.how = self.given("alpha", 0.25), self.gamma, self.ignored
        self.prob = self.scratch("prob", self.shape)
        if self.by_type:
            outer, classes, inner = self.shape
            self.classes = self.scratch("classes", (1, classes, 1))
            self.classes[0, :, 0] = self.xp.arange(classes, dtype=self.dtype)
            self.right, self.terms = self.scratch("right", self.shape), self.scratch("terms", self.shape)
            self.pull = self.scratch("pull", (outer, 1, inner))
            sign = 1.0 if self.layer_param.focal_loss_param.type == self.ONEADDP else -1.0
            self.formula = self.given("alpha", 1.0), self.gamma, sign
        if len(top) > 1:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outer, classes, inner = self.shape
        label = bottom[1].xdata.reshape(outer, inner)
        self.check_labels(label, classes)
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), self.prob)
        self.divide_by(label, outer)
        if self.by_type:
            self._find_right(label)
            self.ops.elementwise(FocalLoss.term, (self.prob, self.right), self.formula, self.terms)
            self.xp.sum(self.terms, out=top[0].xdata)
            top[0].xdata[...] /= self.normalizer
        else:
            self.ops.focal_loss(self.prob, label, *self.how, self.normalizer, top[0].xdata)
        if len(top) > 1:
            top[1].xdata[...] = self.prob.reshape(top[1].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            outer, _, inner = self.shape
            label, dx = bottom[1].xdata.reshape(outer, inner), bottom[0].xdiff.reshape(self.shape)
            if self.by_type:
                self._by_type(top, dx)
            else:
                self.ops.focal_loss_grad(self.prob, label, *self.how, self.normalizer, top[0].xdiff, dx)

    def _find_right(self, label: Any) -> None:
        """``right``: 1 where the class is the label's, if that counts."""
        outer, _, inner = self.shape
        self.xp.equal(label.reshape(outer, 1, inner), self.classes, out=self.right, casting="unsafe")
        if self.ignored is not None and 0 <= self.ignored < self.shape[1]:
            self.right[:, self.ignored] = 0

    def _by_type(self, top: Sequence[Blob], dx: Any) -> None:
        """``dL/dp p (1 - p)`` at the label and ``-dL/dp p p_j`` elsewhere."""
        self.ops.elementwise(FocalLoss.slope, (self.prob, self.right), self.formula, self.terms)
        self.xp.sum(self.terms, axis=1, keepdims=True, out=self.pull)
        self.xp.subtract(self.prob, self.right, out=dx)
        dx *= self.pull
        dx *= top[0].xdiff
        dx /= self.normalizer

    @staticmethod
    def term(p: float, right: float, alpha: float, gamma: float, sign: float) -> float:
        return -log(1.2e-38 if p < 1.2e-38 else p) * (alpha + sign * p) ** gamma if right > 0.5 else 0.0

    @staticmethod
    def slope(p: float, right: float, alpha: float, gamma: float, sign: float) -> float:
        return (
            (alpha + sign * p) ** gamma
            * (
                sign
                * gamma
                * log(1.2e-38 if p < 1.2e-38 else p)
                * p
                / (1e-10 if alpha + sign * p < 1e-10 else alpha + sign * p)
                + 1.0
            )
            if right > 0.5
            else 0.0
        )
