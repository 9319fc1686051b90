"""Eltwise: blobs of one shape joined element by element."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.layers.base import Count, Layer, LayerClass


class Eltwise(Layer):
    """Join blobs of one shape element by element: their product, weighted sum or maximum.

    Bottoms: two or more; or one, which is multiplied by its ``coeff`` (FlowNet2).  Top: as they are.  ``operation``:
    PROD, SUM (default, weighted by ``coeff``, one a bottom), MAX (NaN if one is NaN). The gradient of PROD multiplies
    the other bottoms if ``stable_prod_grad`` (default), else divides: NaN or infinite at 0. Caffe (CPU): of equal
    maxima the gradient goes to the earlier bottom, but to bottom 1 rather than 0.
    """

    type = "Eltwise"
    capturable = True
    by_image = True
    takes_halves = True
    param = "eltwise_param"
    fixed = ()
    bottoms: Count = (1, None)  # one goes to EltwiseOfOne
    operation: int
    coeff: Sequence[float]
    stable_prod_grad: bool
    ones: Sequence[float] = ()
    """A coefficient for each bottom, once there are any."""

    PROD, SUM, MAX = range(3)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """FlowNet2's if there is one bottom."""
        return EltwiseOfOne if len(layer_param.bottom) == 1 else cls

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ones = (1.0,) * len(bottom)
        self.check_options()
        self._declare(len(bottom))

    def check_options(self) -> None:
        self.require(not (self.coeff and self.operation == self.PROD), "only SUM takes coefficients", "coeff")
        self.require(
            not (self.coeff and self.ones) or len(self.coeff) == len(self.ones),
            f"must be given for each of the {len(self.ones)} bottoms, or not at all; found {list(self.coeff)}",
            "coeff",
        )

    @property
    def coefficients(self) -> Sequence[float]:
        """What SUM multiplies the bottoms by: ``coeff``, or 1 each."""
        return self.coeff or self.ones

    @coefficients.setter
    def coefficients(self, values: Sequence[float]) -> None:
        self.set_option("coeff", values)

    def _declare(self, bottoms: int) -> None:
        """Whether it may work in place, and what backward reads, follow from the operation."""
        product = self.operation == self.PROD
        self.in_place = "forward" if product else "never"
        self.reads_bottoms = range(bottoms) if product else ()
        self.reads_tops = () if not product or self.stable_prod_grad else (0,)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._declare(len(bottom))
        self.require_same_shape(*bottom)
        top[0].reshape_like(bottom[0])
        if self.operation == self.MAX:
            self.winner = self.scratch_for_backward(bottom[0].shape)

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * (len(bottom) - 1 + len(self.coeff)))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y, (first, second, *others) = top[0].xdata, (blob.xdata for blob in bottom)
        if self.operation == self.PROD:
            self.ops.elementwise(Eltwise.product, (first, second), (), y)
            for x in others:
                self.ops.elementwise(Eltwise.product, (y, x), (), y)
        elif self.operation == self.SUM:
            self.ops.elementwise(Eltwise.weighted_sum, (first, second), self.coefficients[:2], y)
            for x, c in zip(others, self.coefficients[2:], strict=True):
                self.ops.elementwise(Eltwise.weighted_sum, (y, x), (1.0, c), y)
        else:
            if self.winner is not None:
                self.ops.elementwise(Eltwise.first_winner, (first, second), (), self.winner)
            self.ops.elementwise(Eltwise.larger, (second, first), (), y)
            for i, x in enumerate(others, start=2):
                if self.winner is not None:
                    self.ops.elementwise(Eltwise.next_winner, (self.winner, y, x), (float(i),), self.winner)
                self.ops.elementwise(Eltwise.larger, (y, x), (), y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].xdiff
        for i, blob in enumerate(bottom):
            if not propagate_down[i] or (self.hands_on_gradient(i) and blob.diff_storage is top[0].diff_storage):
                continue
            dx = blob.xdiff
            if self.operation == self.SUM:
                self.ops.elementwise(Eltwise.weighted, (dy,), (self.coefficients[i],), dx)
            elif self.operation == self.MAX:
                self.require_kept(self.winner)
                self.ops.elementwise(Eltwise.won, (self.winner, dy), (float(i),), dx)
            elif self.stable_prod_grad:
                factor = dy
                for other in bottom:
                    if other is not blob:
                        self.ops.elementwise(Eltwise.product, (factor, other.xdata), (), dx)
                        factor = dx
            else:
                self.ops.elementwise(Eltwise.quotient, (top[0].xdata, blob.xdata, dy), (), dx)

    def hands_on_gradient(self, index: int) -> bool:
        return self.operation == self.SUM and self.coefficients[index] == 1

    @staticmethod
    def product(a: float, b: float) -> float:
        return a * b

    @staticmethod
    def weighted(a: float, p: float) -> float:
        return p * a

    @staticmethod
    def weighted_sum(a: float, b: float, p: float, q: float) -> float:
        return p * a + q * b

    @staticmethod
    def larger(a: float, b: float) -> float:
        return a if a != a else a if a >= b else b

    @staticmethod
    def first_winner(a: float, b: float) -> float:
        return 0.0 if a != a else 0.0 if a > b else 1.0

    @staticmethod
    def next_winner(winner: float, largest: float, x: float, i: float) -> float:
        return winner if largest != largest else winner if largest >= x else i

    @staticmethod
    def won(winner: float, dy: float, i: float) -> float:
        return dy if winner == i else 0.0

    @staticmethod
    def quotient(y: float, x: float, dy: float) -> float:
        return y / x * dy


class EltwiseOfOne(Eltwise):
    """A blob times its ``coeff``: what a sum of one is."""

    type = ""
    capturable = True
    by_image = True
    fixed = ()
    bottoms = 1

    def _declare(self, bottoms: int) -> None:
        self.in_place = "always"
        self.reads_bottoms = self.reads_tops = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])

    def factor(self) -> float:
        return self.coefficients[0] if self.operation == self.SUM else 1.0

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.elementwise(Eltwise.weighted, (bottom[0].xdata,), (self.factor(),), top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        handed_on = self.hands_on_gradient(0) and bottom[0].diff_storage is top[0].diff_storage
        if propagate_down[0] and not handed_on:
            self.ops.elementwise(Eltwise.weighted, (top[0].xdiff,), (self.factor(),), bottom[0].xdiff)
