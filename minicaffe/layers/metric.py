"""Layers of forks that learn to measure: centres of classes, triplets, distances to learned points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer
from minicaffe.layers.loss import Loss


def nothing(x: float) -> float:
    """The formula of zeros, for ``ops.elementwise``."""
    return 0.0


class CenterLoss(Layer):
    r"""Pull features to a learned centre of their class (Wen et al. 2016).

    .. math:: L = \frac{1}{2M} \sum_i \lVert x_i - c_{y_i} \rVert_2^2, \qquad
        \Delta c_k = \frac{\sum_{i: y_i = k} c_k - x_i}{1 + |\{i: y_i = k\}|}

    Bottoms: x (…, K…), the axes from ``axis`` (1) on flattened into K; integer labels, one for each of the M rows.
    Top: L, a scalar, which counts as a loss only if ``loss_weight`` is given.  Param: c (num_output, K).  The step of
    c does not depend on the loss weight.
    happynear's dialect, said by ``distance_type`` or ``fork: "happynear"``: "L1" is the sum of absolute differences
    over M, and the step of a centre is taken as often as its class is among the labels.
    """

    type = "CenterLoss"
    param = "center_loss_param"
    bottoms = 2
    reads_tops = ()
    reads_bottoms = (1,)
    differentiable = (0,)
    forcible = (0,)
    per_element = 3
    num_output: int
    axis: int
    distance_type: str

    fixed = ("axis", "center_filler")
    dialects = ("caffe-face", "happynear")
    ambiguity = "happynear's takes the step of a centre as often as its class is among the labels"

    def is_ambiguous(self) -> bool:
        return not self.has("distance_type")

    def check_options(self) -> None:
        self.require(
            self.layer_param.fork != "caffe-face" or not self.has("distance_type"),
            "is happynear's, not caffe-face's: leave it out, or the fork",
            "distance_type",
        )
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
        self.require(
            self.distance_type in ("L1", "L2"), f"must be L1 or L2; found {self.distance_type}", "distance_type"
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.width = bottom[0].span(self.axis_of(bottom[0], self.axis))
        self.add_param((self.num_output, self.width), self.layer_param.center_loss_param.center_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        axis = self.axis_of(x, self.axis)
        self.require(
            x.span(axis) == self.width,
            f"the input must keep {self.width} values a row; found {x.shape_string}",
            kind=ShapeError,
        )
        rows = x.span(0, axis)
        self.require(rows > 0, f"the batch has no items; found {x.shape_string}", kind=ShapeError)
        self.require(
            labels.count == rows, f"needs one label for each of {rows} rows; found {labels.shape_string}",
            kind=ShapeError,
        )  # fmt: skip
        self.require_blobs((self.num_output, self.width))
        top[0].reshape()
        self.rows = (rows, self.width)
        self.distance, self.terms = self.scratch("distance", self.rows), self.scratch("terms", self.rows)
        self.sums, self.steps = (self.scratch(name, self.blobs[0].shape) for name in ("sums", "steps"))
        self.ones, self.counts = self.scratch("ones", (rows, 1)), self.scratch("counts", (self.num_output, 1))
        self.ones[...] = 1
        self.bad_label = self.flag("bad_label")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, label = bottom[0].xdata.reshape(self.rows), bottom[1].xdata.reshape(-1)
        self.check_indices(label, self.num_output, self.bad_label, hint=" among the labels; check num_output")
        self.ops.gather_rows(self.blobs[0].xdata, label, self.distance)
        self.xp.subtract(x, self.distance, out=self.distance)
        l1 = self.distance_type == "L1"
        self.ops.elementwise(abs_of if l1 else half_square, (self.distance,), (), self.terms)
        self.xp.sum(self.terms, out=top[0].xdata)
        top[0].xdata[...] /= self.rows[0]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.distance_type == "L1":
            self.ops.elementwise(sign_of, (self.distance,), (), self.terms)
        else:
            self.terms[...] = self.distance
        if self.param_propagate_down[0]:
            self._move_centres(bottom[1].xdata.reshape(-1))
        if propagate_down[0]:
            dx = bottom[0].xdiff.reshape(self.rows)
            self.xp.multiply(self.terms, top[0].xdiff, out=dx)
            dx /= self.rows[0]

    def _move_centres(self, label: Any) -> None:
        for sums in (self.sums, self.counts):
            self.ops.elementwise(nothing, (sums,), (), sums)
        self.ops.scatter_rows(self.terms, label, self.sums)
        self.ops.scatter_rows(self.ones, label, self.counts)
        self.steps[...] = self.counts
        often = self.has("distance_type") or self.layer_param.fork == "happynear"
        self.ops.elementwise(step_often if often else step_once, (self.sums, self.steps), (), self.steps)
        self.blobs[0].xdiff[...] += self.steps


def abs_of(x: float) -> float:
    return abs(x)


def half_square(x: float) -> float:
    return 0.5 * x * x


def sign_of(x: float) -> float:
    return 1.0 if x > 0 else -1.0 if x < 0 else x


def step_once(total: float, count: float) -> float:
    return -total / (1.0 + count)


def step_often(total: float, count: float) -> float:
    return -total * count / (1.0 + count)


class TripletLoss(Loss):
    r"""An anchor must be nearer to its like than to another, by a margin of squared distance (Schroff et al. 2015).

    .. math:: L = \frac{1}{2N} \sum_n \max(m + \lVert a_n - p_n \rVert_2^2 - \lVert a_n - q_n \rVert_2^2, 0)

    Bottoms: anchors a, likes p and others q, one shape (N, C[, 1, 1]).  Top: the loss, a scalar.  ``margin`` m: 1.
    """

    type = "TripletLoss"
    param = "triplet_loss_param"
    bottoms: Count = 3
    reads_bottoms = ()
    differentiable = (0, 1, 2)
    forcible = (0, 1, 2)
    per_element = 6
    margin: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.require_same_shape(*bottom)
        self.rows = (bottom[0].shape[0], bottom[0].span(1))
        self.near, self.far = self.scratch("near", self.rows), self.scratch("far", self.rows)
        self.terms, self.active = self.scratch("terms", self.rows), self.scratch("active", (self.rows[0], 1))
        self.excess = self.scratch("excess", (self.rows[0], 1))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, p, q = (blob.xdata.reshape(self.rows) for blob in bottom)
        self.xp.subtract(a, p, out=self.near)
        self.xp.subtract(a, q, out=self.far)
        self.ops.elementwise(TripletLoss.gap, (self.near, self.far), (), self.terms)
        self.xp.sum(self.terms, axis=1, keepdims=True, out=self.excess)
        self.ops.elementwise(TripletLoss.above, (self.excess,), (self.margin,), self.active)
        self.ops.elementwise(TripletLoss.cost, (self.excess,), (self.margin,), self.excess)
        self.xp.sum(self.excess, out=top[0].xdata)
        top[0].xdata[...] /= 2 * self.rows[0]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.xp.multiply(self.active, top[0].xdiff, out=self.excess)
        self.excess /= self.rows[0]
        for i, pulls, pushes in self.wanted(propagate_down, (0, 1, 1), (1, -1, 0), (2, 0, -1)):
            dx = bottom[i].xdiff.reshape(self.rows)
            self.ops.elementwise(TripletLoss.pulled, (self.near, self.far), (pulls, pushes), dx)
            dx *= self.excess

    @staticmethod
    def gap(near: float, far: float) -> float:
        return near * near - far * far

    @staticmethod
    def above(excess: float, margin: float) -> float:
        return 1.0 if margin + excess > 0 else 0.0

    @staticmethod
    def cost(excess: float, margin: float) -> float:
        return 0.0 if margin + excess <= 0 else margin + excess

    @staticmethod
    def pulled(near: float, far: float, pulls: float, pushes: float) -> float:
        return pulls * near - pushes * far


class InnerDistance(Layer):
    r"""Distances to learned points, where InnerProduct has products.

    .. math:: y_{mn} = \sum_k (x_{mk} - w_{nk})^2 \quad \text{("L2")}, \qquad \sum_k |x_{mk} - w_{nk}| \quad
        \text{("L1")}

    Bottoms: x (…, K…), the axes from ``axis`` (1) on flattened into K, M rows; optionally the points w (N, K); last of
    all, with ``update_center_only``, integer labels (M).  Top: (…, num_output or N).  Param, unless w is a bottom:
    w (num_output, K).  ``normalize``: points that are a param are scaled to length 1 in each forward pass.
    ``update_center_only``: only the right classes' points learn.  ``bias_term`` is read and has no effect, as in
    happynear's last version; ``transpose`` is refused.
    """

    type = "InnerDistance"
    param = "inner_distance_param"
    bottoms = (1, 3)
    reads_tops = ()
    per_element = 3
    num_output: int
    axis: int
    transpose: bool
    distance_type: str
    normalize: bool
    update_center_only: bool

    fixed = ("axis", "update_center_only", "weight_filler")

    def check_options(self) -> None:
        self.require(not self.transpose, "is not in minicaffe for distances; give the points as (N, K)", "transpose")
        self.require(
            self.distance_type in ("L1", "L2"), f"must be L1 or L2; found {self.distance_type}", "distance_type"
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.given_points = len(bottom) == (3 if self.update_center_only else 2)
        self.require(
            self.given_points or len(bottom) == (2 if self.update_center_only else 1),
            f"takes x, perhaps the points, and labels only with update_center_only; found {len(bottom)} bottoms",
            "bottom",
        )
        self.differentiable = (0, 1) if self.given_points else (0,)
        self.reads_bottoms = (len(bottom) - 1,) if self.update_center_only else ()
        self.width = bottom[0].span(self.axis_of(bottom[0], self.axis))
        if not self.given_points:
            self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
            self.add_param((self.num_output, self.width), self.layer_param.inner_distance_param.weight_filler)

    def points(self, bottom: Sequence[Blob]) -> Blob:
        """The blob w."""
        return bottom[1] if self.given_points else self.blobs[0]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.given_points:
            self.require_blobs((self.num_output, self.width))
        x, w = bottom[0], self.points(bottom)
        axis = self.axis_of(x, self.axis)
        rows = x.span(0, axis)
        self.require(
            x.span(axis) == self.width and len(w.shape) > 0 and w.span(1) == self.width,
            f"input and points must have {self.width} values a row; found {x.shape_string} and {w.shape_string}",
            kind=ShapeError,
        )
        if self.update_center_only:
            self.require(
                bottom[-1].count == rows,
                f"needs one label for each of {rows} rows; found {bottom[-1].shape_string}",
                kind=ShapeError,
            )
            self.bad_label = self.flag("bad_label")
            self.classes = self.scratch("classes", (1, w.shape[0]))
            self.classes[0] = self.xp.arange(w.shape[0], dtype=self.dtype)
            self.right = self.scratch("right", (rows, w.shape[0]))
        self.sizes = (rows, w.shape[0], self.width)
        top[0].reshape(*x.shape[:axis], w.shape[0])
        self.gaps, self.terms = (self.scratch(name, self.sizes) for name in ("gaps", "terms"))
        self.lengths = self.scratch("lengths", (w.shape[0], 1))
        self.steps = self.scratch("steps", self.sizes[1:])
        self.squares = self.scratch("squares", self.sizes[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rows, points, width = self.sizes
        w = self.points(bottom).xdata.reshape(points, width)
        if self.normalize and not self.given_points:
            self.xp.multiply(w, w, out=self.squares)
            self.xp.sum(self.squares, axis=1, keepdims=True, out=self.lengths)
            self.ops.elementwise(InnerDistance.length, (self.lengths,), (), self.lengths)
            w /= self.lengths
        if self.update_center_only:
            label = bottom[-1].xdata.reshape(-1)
            self.check_indices(label, points, self.bad_label, hint=" among the labels")
        self.xp.subtract(bottom[0].xdata.reshape(rows, 1, width), w, out=self.gaps)
        l1 = self.distance_type == "L1"
        self.ops.elementwise(abs_of if l1 else InnerDistance.square, (self.gaps,), (), self.terms)
        self.xp.sum(self.terms, axis=2, out=top[0].xdata.reshape(rows, points))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        rows, points, width = self.sizes
        dy = top[0].xdiff.reshape(rows, points, 1)
        slope = sign_of if self.distance_type == "L1" else InnerDistance.slope
        self.ops.elementwise(slope, (self.gaps,), (), self.terms)
        self.terms *= dy
        if propagate_down[0]:
            self.xp.sum(self.terms, axis=1, out=bottom[0].xdiff.reshape(rows, width))
        if propagate_down[1] if self.given_points else self.param_propagate_down[0]:
            self._move_points(bottom)

    def _move_points(self, bottom: Sequence[Blob]) -> None:
        if self.update_center_only:
            self.xp.equal(bottom[-1].xdata.reshape(-1, 1), self.classes, out=self.right, casting="unsafe")
            self.terms *= self.right[:, :, None]
        self.xp.sum(self.terms, axis=0, out=self.steps)
        dw = self.points(bottom).xdiff.reshape(self.steps.shape)
        if self.given_points:
            self.ops.elementwise(nothing, (dw,), (), dw)
        dw -= self.steps

    @staticmethod
    def square(x: float) -> float:
        return x * x

    @staticmethod
    def slope(x: float) -> float:
        return 2.0 * x

    @staticmethod
    def length(total: float) -> float:
        return (total + 1e-6) ** 0.5


class Pairwise(Layer):
    """Join every row of one input with every row of another: ``y[m, n] = a x[m] + b z[n]`` (SUM, the default), their
    product (PROD) or the larger of the two (MAX).

    Bottoms: x (M, K), z (N, K).  Top: (M, N, K).  ``coeff``: a and b (1), of SUM.  On ties all gradient of MAX goes to
    z; what is NaN is the larger.
    """

    type = "Pairwise"
    param = "pairwise_param"
    bottoms = 2
    reads_tops = ()
    operation: int
    coeff: Sequence[float]

    SUM, PROD, MAX = range(1, 4)

    fixed = ("operation",)

    def check_options(self) -> None:
        self.require(
            len(self.coeff) in ((0, 2) if self.operation == self.SUM else (0,)),
            f"takes two values, and those only for SUM; found {len(self.coeff)}",
            "coeff",
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.reads_bottoms = () if self.operation == self.SUM else (0, 1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, z = bottom
        if any(len(blob.shape) < 2 or blob.count != blob.span(0, 2) for blob in bottom) or x.shape[1] != z.shape[1]:
            found = f"{x.shape_string} and {z.shape_string}"
            raise self.error(f"bottoms must be (M, K) and (N, K); found {found}", kind=ShapeError)
        self.factors = tuple(self.coeff) or (1.0, 1.0)
        self.sizes = (x.shape[0], z.shape[0], x.shape[1])
        top[0].reshape(*self.sizes)
        self.first, self.second = (self.scratch(name, self.sizes) for name in ("first", "second"))

    def _spread(self, bottom: Sequence[Blob]) -> None:
        rows, others, width = self.sizes
        self.first[...] = bottom[0].xdata.reshape(rows, 1, width)
        self.second[...] = bottom[1].xdata.reshape(1, others, width)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._spread(bottom)
        formula = {self.SUM: Pairwise.sum, self.PROD: Pairwise.product, self.MAX: Pairwise.larger}[self.operation]
        self.ops.elementwise(formula, (self.first, self.second), self.factors, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, axis in self.wanted(propagate_down, (0, 1), (1, 0)):
            self._spread(bottom)
            if self.operation == self.SUM:
                self.ops.elementwise(Pairwise.scaled, (top[0].xdiff,), (self.factors[i],), self.first)
            elif self.operation == self.PROD:
                self.xp.multiply(self.second if i == 0 else self.first, top[0].xdiff, out=self.first)
            else:
                chosen = Pairwise.first_larger if i == 0 else Pairwise.second_larger
                self.ops.elementwise(chosen, (self.first, self.second, top[0].xdiff), (), self.first)
            self.xp.sum(self.first, axis=axis, out=bottom[i].xdiff.reshape(-1, self.sizes[2]))

    @staticmethod
    def sum(x: float, z: float, a: float, b: float) -> float:
        return a * x + b * z

    @staticmethod
    def product(x: float, z: float, a: float, b: float) -> float:
        return x * z

    @staticmethod
    def larger(x: float, z: float, a: float, b: float) -> float:
        return z if z != z else z if x <= z else x

    @staticmethod
    def scaled(dy: float, a: float) -> float:
        return a * dy

    @staticmethod
    def first_larger(x: float, z: float, dy: float) -> float:
        return 0.0 if z != z else 0.0 if x <= z else dy

    @staticmethod
    def second_larger(x: float, z: float, dy: float) -> float:
        return dy if z != z else dy if x <= z else 0.0
