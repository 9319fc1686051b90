"""Softmax with a margin: layers of forks that make the right class's score harder to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, sqrt
from typing import Any

from minicaffe.blob import Blob
from minicaffe.c_math import power
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TEST, Layer


class LabelSpecificAdd(Layer):
    """Add a number to the right class's score: the margin of AM-Softmax and ArcFace, ``bias`` being negative.

    Bottoms: scores (N, C, …) seen as N rows; integer labels (N).  Top: as the scores.  A score that is not above
    ``-bias`` stays as it is.  In TEST phase nothing is added.  With ``bias_base`` the number moves: at the i-th forward
    from ``iteration`` (0) on it is ``bias_base + (1 + bias_gamma i)^bias_power - 1``, between ``bias_min`` and
    ``bias_max``.
    happynear: ``transform_test`` has no effect, as it is asked in TRAIN phase only.
    """

    type = "LabelSpecificAdd"
    param = "label_specific_add_param"
    bottoms = 2
    in_place = "always"
    reads_bottoms = reads_tops = ()
    differentiable = forcible = (0,)
    bias: float
    bias_base: float
    bias_gamma: float
    bias_power: float
    bias_min: float
    bias_max: float
    iteration: int

    fixed = ("iteration",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._passes = [self.iteration]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, labels = bottom
        rows = scores.shape[0] if scores.shape else 0
        self.require(
            bool(scores.shape) and labels.count == rows,
            f"needs one label for each row of the scores; found {scores.shape_string} and {labels.shape_string}",
            kind=ShapeError,
        )
        self.size = (rows, scores.span(1))
        top[0].reshape_like(scores)
        self.right = self.scratch("right", self.size)
        self.classes = self.scratch("classes", (1, self.size[1]))
        self.classes[0] = self.xp.arange(self.size[1], dtype=self.dtype)
        self.bad_label = self.flag("bad_label")

    def state(self) -> dict[str, Any]:
        return {"passes": self._passes[0]}

    def restore(self, state: dict[str, Any]) -> None:
        self._passes[0] = state["passes"]

    def _margin(self) -> float:
        if not self.has("bias_base"):
            self.require(not isnan(self.bias), "must be a number; found NaN", "bias")
            return self.bias
        moved = self.bias_base + power(1 + self.bias_gamma * self._passes[0], self.bias_power) - 1
        self.require(not isnan(moved), f"makes a margin of NaN in pass {self._passes[0]}", "bias_gamma")
        self._passes[0] += 1
        return min(max(moved, self.bias_min), self.bias_max)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.size), top[0].xdata.reshape(self.size)
        if self.phase == TEST:
            y[...] = x
            return
        label = bottom[1].xdata.reshape(-1, 1)
        self.check_indices(label, self.size[1], self.bad_label, hint=" among the labels")
        self.xp.equal(label, self.classes, out=self.right, casting="unsafe")
        self.ops.elementwise(LabelSpecificAdd.value, (x, self.right), (self._margin(),), y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] and top[0] is not bottom[0]:
            bottom[0].xdiff[...] = top[0].xdiff

    @staticmethod
    def value(x: float, right: float, bias: float) -> float:
        return (x + bias if x > -bias else x) if right > 0.5 else x


class MarginInnerProduct(Layer):
    r"""Scores with an angular margin (A-Softmax, Liu et al. 2017): a right class is scored as if its angle were m times
    as wide.

    .. math:: y_{ij} = \lVert x_i \rVert \cos\theta_{ij}, \qquad
        y_{i y_i} = \lVert x_i \rVert \frac{\psi_m(\theta) + \lambda \cos\theta}{1 + \lambda}, \qquad
        \psi_m(\theta) = (-1)^k \cos m\theta - 2k \text{ for } \theta \in [k\pi/m, (k+1)\pi/m]

    Bottoms: x (…, K…), the axes from ``axis`` (1) on flattened into K, M rows; integer labels (M).  Tops: y (…,
    num_output); optionally :math:`\lambda` (1).  Param: w (num_output, K), whose rows are scaled to length 1 in each
    forward pass.  ``type``: SINGLE to QUADRUPLE, m = 1 to 4.  At the i-th forward, counted from ``iteration`` (0) + 1,
    :math:`\lambda` is ``base (1 + gamma i)^-power``, at least ``lambda_min``.
    SphereFace: backward takes y for linear in w, and scales the gradient of a right class's score by x to length 1.
    """

    type = "MarginInnerProduct"
    param = "margin_inner_product_param"
    bottoms = 2
    tops = (1, 2)
    reads_bottoms = (0,)
    reads_tops = ()
    differentiable = forcible = (0,)
    num_output: int
    axis: int
    base: float
    gamma: float
    power: float
    iteration: int
    lambda_min: float

    fixed = ("axis", "iteration", "weight_filler")

    def check_options(self) -> None:
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options = self.layer_param.margin_inner_product_param
        self.margin = options.type + 1
        self.width = bottom[0].span(self.axis_of(bottom[0], self.axis))
        self.add_param((self.num_output, self.width), options.weight_filler)
        self._passes = [self.iteration]

    def state(self) -> dict[str, Any]:
        return {"passes": self._passes[0]}

    def restore(self, state: dict[str, Any]) -> None:
        self._passes[0] = state["passes"]

    @property
    def weight_of_cosine(self) -> float:
        r""":math:`\lambda` of the last forward pass."""
        return max(self.base * power(1 + self.gamma * self._passes[0], -self.power), self.lambda_min)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        axis = self.axis_of(x, self.axis)
        rows = x.span(0, axis)
        self.require(
            x.span(axis) == self.width and labels.count == rows,
            f"needs {self.width} values a row and one label for each of {rows} rows; found {x.shape_string} and "
            f"{labels.shape_string}",
            kind=ShapeError,
        )
        self.require_blobs((self.num_output, self.width))
        self.rows = rows
        top[0].reshape(*x.shape[:axis], self.num_output)
        if len(top) > 1:
            top[1].reshape(1)
        self.squares, self.lengths = (
            self.scratch("squares", self.blobs[0].shape),
            self.scratch("lengths", (self.num_output, 1)),
        )
        self.right, self.scores = (self.scratch(name, (rows, self.num_output)) for name in ("right", "scores"))
        self.classes = self.scratch("classes", (1, self.num_output))
        self.classes[0] = self.xp.arange(self.num_output, dtype=self.dtype)
        self.x_squares = self.scratch("x_squares", (rows, self.width))
        names = ("norm", "cosine", "sign", "edge", "offset", "moved", "along_w", "along_x")
        self.norm, self.cosine, self.sign, self.edge, self.offset, self.moved, self.along_w, self.along_x = (
            self.scratch(name, (rows, 1)) for name in names
        )
        self.bad_label = self.flag("bad_label")

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * self.rows * self.width * self.num_output

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._passes[0] += 1
        xp, ops, w = self.xp, self.ops, self.blobs[0].xdata
        xp.multiply(w, w, out=self.squares)
        xp.sum(self.squares, axis=1, keepdims=True, out=self.lengths)
        xp.sqrt(self.lengths, out=self.lengths)
        w /= self.lengths
        x, y = bottom[0].xdata.reshape(self.rows, self.width), top[0].xdata.reshape(self.rows, self.num_output)
        ops.gemm(x, w, y, transpose_b=True)
        if len(top) > 1:
            top[1].xdata.fill(self.weight_of_cosine)
        label = bottom[1].xdata.reshape(-1, 1)
        self.check_indices(label, self.num_output, self.bad_label, hint=" among the labels; check num_output")
        xp.equal(label, self.classes, out=self.right, casting="unsafe")
        if self.margin > 1:
            self._widen(x, y)

    def _widen(self, x: Any, y: Any) -> None:
        """Replace the right classes' scores, and leave what backward needs of them."""
        xp, elementwise = self.xp, self.ops.elementwise
        xp.multiply(x, x, out=self.x_squares)
        xp.sum(self.x_squares, axis=1, keepdims=True, out=self.norm)
        xp.sqrt(self.norm, out=self.norm)
        xp.multiply(y, self.right, out=self.scores)
        xp.sum(self.scores, axis=1, keepdims=True, out=self.cosine)
        elementwise(_ratio, (self.cosine, self.norm), (), self.cosine)
        elementwise(_sign, (self.cosine,), (), self.sign)
        edge, steps, widened, _ = _MARGINS[self.margin]
        elementwise(edge, (self.cosine,), (), self.edge)
        elementwise(steps, (self.sign, self.edge), (), self.offset)
        if self.margin == 4:
            self.edge *= self.sign
        elementwise(widened, (self.cosine, self.edge, self.offset), (), self.moved)
        elementwise(_mixed, (self.moved, self.cosine, self.norm), (self.weight_of_cosine,), self.along_x)
        xp.multiply(self.right, self.along_x, out=self.scores)
        y += self.scores

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x, w = bottom[0].xdata.reshape(self.rows, self.width), self.blobs[0]
        dy = top[0].xdiff.reshape(self.rows, self.num_output)
        if self.param_propagate_down[0]:
            self.ops.gemm(dy, x, w.xdiff, transpose_a=True, accumulate=True)
        if not propagate_down[0]:
            return
        dx = bottom[0].xdiff.reshape(self.rows, self.width)
        self.scores[...] = dy
        if self.margin > 1:
            self._weigh(dy)
        self.ops.gemm(self.scores, w.xdata, dx)
        if self.margin > 1:
            self.xp.multiply(x, self.along_x, out=self.x_squares)
            dx += self.x_squares

    def _weigh(self, dy: Any) -> None:
        """How far the right classes' gradients go along w, in ``scores``, and along x."""
        xp, elementwise, mix = self.xp, self.ops.elementwise, (self.weight_of_cosine,)
        slope = _MARGINS[self.margin][3]
        elementwise(slope, (self.cosine, self.edge), (), self.along_w)
        elementwise(_toward_x, (self.along_w, self.cosine, self.moved, self.norm), (), self.along_x)
        elementwise(_mixed_w, (self.along_w, self.along_x), mix, self.offset)
        elementwise(_mixed_x, (self.along_w, self.along_x), mix, self.along_x)
        xp.multiply(dy, self.right, out=self.scores)
        xp.sum(self.scores, axis=1, keepdims=True, out=self.along_w)
        self.along_x *= self.along_w
        self.scores *= self.offset
        elementwise(_where_right, (self.scores, dy, self.right), (), self.scores)


def _ratio(score: float, norm: float) -> float:
    return score / norm


def _sign(c: float) -> float:
    return 1.0 if c > 0 else -1.0 if c < 0 else 0.0


def _beyond_half(c: float) -> float:
    return 1.0 if abs(c) > 0.5 else -1.0 if abs(c) < 0.5 else 0.0


def _beyond_eighth(c: float) -> float:
    return 1.0 if 2.0 * c * c > 1.0 else -1.0 if 2.0 * c * c < 1.0 else 0.0


def _steps_of_2(sign: float, edge: float) -> float:
    return sign - 1.0


def _steps_of_3(sign: float, edge: float) -> float:
    return sign * (1.0 + edge) - 2.0


def _steps_of_4(sign: float, edge: float) -> float:
    return 2.0 * sign + sign * edge - 3.0


def _widened_2(c: float, flip: float, steps: float) -> float:
    return flip * (2.0 * c * c - 1.0) + steps


def _widened_3(c: float, flip: float, steps: float) -> float:
    return flip * (4.0 * c * c - 3.0) * c + steps


def _widened_4(c: float, flip: float, steps: float) -> float:
    return flip * (8.0 * c * c * (c * c - 1.0) + 1.0) + steps


def _slope_2(c: float, flip: float) -> float:
    return flip * 4.0 * c


def _slope_3(c: float, flip: float) -> float:
    return flip * (12.0 * c * c - 3.0)


def _slope_4(c: float, flip: float) -> float:
    return flip * (32.0 * c * c - 16.0) * c


def _mixed(moved: float, c: float, norm: float, mix: float) -> float:
    """What is added to a right class's score, norm * c."""
    return norm * (moved - c) / (1.0 + mix)


def _toward_x(slope: float, c: float, moved: float, norm: float) -> float:
    return (moved - slope * c) / norm


def _mixed_w(along_w: float, along_x: float, mix: float) -> float:
    return (along_w / sqrt(along_w * along_w + along_x * along_x) + mix) / (1.0 + mix)


def _mixed_x(along_w: float, along_x: float, mix: float) -> float:
    return along_x / sqrt(along_w * along_w + along_x * along_x) / (1.0 + mix)


def _where_right(weighed: float, dy: float, right: float) -> float:
    return weighed if right > 0.5 else dy


_MARGINS: dict[int, tuple[Callable[..., float], ...]] = {
    2: (_sign, _steps_of_2, _widened_2, _slope_2),
    3: (_beyond_half, _steps_of_3, _widened_3, _slope_3),
    4: (_beyond_eighth, _steps_of_4, _widened_4, _slope_4),
}
"""By margin: where cos(m theta) turns, how many whole steps lie below, the score over |x|, its slope by the cosine."""
