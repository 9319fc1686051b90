"""Neighbouring layers that run as one, so that memory is passed over once where each of them would pass over it.

Every blob, gradient, param and running statistic holds afterwards what it holds when the layers run one by one, but for
rounding.  ``Net`` runs them one by one where somebody looks on (callbacks, ``debug_info``) or asks for some of them
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from minicaffe import backend
from minicaffe.assembly import Step
from minicaffe.kernels import fast_paths
from minicaffe.layers import Layer
from minicaffe.layers.common import Eltwise, Scale
from minicaffe.layers.neuron import ReLU
from minicaffe.layers.normalisation import BatchNorm
from minicaffe.layers.utility import Split


class Pass:
    """The forward or the backward pass of the steps from place ``first`` of a net on."""

    chains: ClassVar[tuple[tuple[type[Layer], ...], ...]]
    """The layers in a row that it is made for; the first chain that is found counts."""

    def __init__(self, first: int, steps: Sequence[Step]) -> None:
        self.first, self.last = first, first + len(steps) - 1
        self.steps = steps

    def fits(self) -> bool:
        """Whether the layers, once set up, are such as can run as one."""
        return True

    def settle(self) -> None:
        """Have the layers keep only what is needed if they do."""

    def reshape(self, where: backend.Backend) -> Pass:
        """Let the layers reshape."""
        for step in self.steps:
            step.reshape(where)
        return self

    def ready(self) -> bool:
        """Whether they can this time."""
        return True

    def run(self) -> None:
        """Run them."""
        raise NotImplementedError

    @property
    def ops(self) -> Any:
        """The primitives of the current backend."""
        return backend.current().ops


class _Standardization(Pass):
    """BatchNorm, a Scale in place that learns factors and biases, and perhaps a ReLU in place."""

    chains: ClassVar[tuple[tuple[type[Layer], ...], ...]] = ((BatchNorm, Scale, ReLU), (BatchNorm, Scale))

    def __init__(self, first: int, steps: Sequence[Step]) -> None:
        super().__init__(first, steps)
        self.norm: Any = steps[0].layer
        self.scale: Any = steps[1].layer
        self.slope = _slope(steps[2]) if len(steps) > 2 and type(steps[2].layer) is ReLU else 1.0
        self.in_place = _in_place(steps[0])

    def fits(self) -> bool:
        return self.scale.bias_term and self.norm.rows == self.scale.rows

    def ready(self) -> bool:
        return self.norm.rows == self.scale.rows

    def factors(self) -> tuple[Any, Any]:
        """What Scale multiplies by, and adds."""
        v, b = (blob.xdata.reshape(-1) for blob in self.scale.blobs)
        return v, b


class StandardizeForward(_Standardization):
    """Forward of ``_Standardization``: what is kept for backward is BatchNorm's input, from which Scale's follows."""

    def settle(self) -> None:
        """Scale needs no copy of its input where that of BatchNorm is kept."""
        kept = not self.in_place or self.norm.kept is not None
        self.scale.settle(self.steps[1].bottom, self.steps[1].top, fused=kept)

    def run(self) -> None:
        norm, (v, b) = self.norm, self.factors()
        x, y = (blob.xdata.reshape(norm.rows) for blob in (self.steps[0].bottom[0], self.steps[0].top[0]))
        kept = self._kept() if self.in_place else None
        if norm.use_global_stats:
            norm.recall()
            self.ops.elementwise(StandardizeForward.product, (norm.factor, v), (), norm.scaled_factor)
            self.ops.scale(x, norm.scaled_factor, b, y, kept, norm.mean, self.slope)
        else:
            self.ops.standardize(x, norm.eps, norm.mean, norm.variance, norm.factor, y, kept, v, b, self.slope)
            norm.remember()
        if self.scale.standardized != self._scale_input:  # to set an attribute ends what was recorded
            self.scale.standardized = self._scale_input

    def _kept(self) -> Any:
        return self.scale.kept if self.norm.kept is None else self.norm.kept

    def _scale_input(self) -> tuple[Any, Any, Any]:
        x = self._kept() if self.in_place else self.steps[0].bottom[0].xdata.reshape(self.norm.rows)
        return x, self.norm.mean, self.norm.factor

    @staticmethod
    def product(a, b):
        return a * b


class StandardizeBackward(_Standardization):
    """Backward of ``_Standardization``, all in place, after ``StandardizeForward``.

    A sum that reads the result may follow: its gradient is then read where it is, and not copied first.
    """

    chains = ((BatchNorm, Scale, Eltwise), *_Standardization.chains)

    def __init__(self, first: int, steps: Sequence[Step]) -> None:
        super().__init__(first, steps)
        self.sum = steps[-1] if type(steps[-1].layer) is Eltwise else None
        self.term = self.sum.bottom_ids.index(steps[0].top_ids[0]) if self.sum else 0

    def fits(self) -> bool:
        handed_on = self.sum is None or self.sum.layer.hands_on_gradient(self.term)
        return super().fits() and handed_on and self.in_place and not self.norm.use_global_stats

    def ready(self) -> bool:
        goes = all(step.need_backward and step.propagate_down[self._term(step)] for step in self.steps)
        return super().ready() and self.scale.standardized is not None and goes

    def _term(self, step: Step) -> int:
        """Which bottom of a step is the blob that it is all about."""
        return self.term if step is self.sum else 0

    def run(self) -> None:
        norm, blob = self.norm, self.steps[0].bottom[0]
        (x, mean, factor), (v, _) = self.scale.standardized(), self.factors()
        y, dx = blob.xdata.reshape(norm.rows), blob.xdiff.reshape(norm.rows)
        dy = dx
        if self.sum is not None:
            others = [down and k != self.term for k, down in enumerate(self.sum.propagate_down)]
            self.sum.layer.backward(self.sum.top, others, self.sum.bottom)
            dy = self.sum.top[0].xdiff.reshape(norm.rows)
        dv, db = (
            blob.xdiff.reshape(-1) if learns else None
            for blob, learns in zip(self.scale.blobs, self.scale.param_propagate_down, strict=True)
        )
        self.ops.standardize_grad(
            x, dy, mean, factor, norm.gradient_mean, norm.gradient_dot, dx, y, v, dv, db, self.slope
        )


class RectifiedSum(Pass):
    """Forward of the weighted sum of two blobs and a ReLU in place."""

    chains = ((Eltwise, ReLU),)

    def fits(self) -> bool:
        layer: Any = self.steps[0].layer
        return layer.operation == layer.SUM and len(self.steps[0].bottom) == 2

    def run(self) -> None:
        step = self.steps[0]
        layer: Any = step.layer
        arrays, scalars = tuple(blob.xdata for blob in step.bottom), (*layer.coefficients, _slope(self.steps[1]))
        self.ops.elementwise(RectifiedSum.value, arrays, scalars, step.top[0].xdata)

    @staticmethod
    def value(a, b, p, q, slope):
        return max(p * a + q * b, 0.0) + slope * min(p * a + q * b, 0.0)


class SplitGradient(Pass):
    """Backward of a ReLU in place and the Split that hands on what it makes to two readers."""

    chains = ((ReLU, Split),)

    def fits(self) -> bool:
        return _in_place(self.steps[0]) and len(self.steps[1].top) == 2

    def ready(self) -> bool:
        return all(step.need_backward and step.propagate_down[0] for step in self.steps)

    def run(self) -> None:
        relu, split = self.steps
        arrays = (relu.top[0].xdata, *(blob.xdiff for blob in split.top))
        self.ops.elementwise(SplitGradient.value, arrays, (_slope(relu),), relu.bottom[0].xdiff)

    @staticmethod
    def value(y, a, b, slope):
        return (a + b) * (1.0 if y > 0 else slope)


def _in_place(step: Step) -> bool:
    return step.bottom_ids == step.top_ids


def _slope(step: Step) -> float:
    layer: Any = step.layer
    return layer.negative_slope


def _is_chain(steps: Sequence[Step], types: Sequence[type[Layer]]) -> bool:
    """Whether these are layers of these types that work in place on the first one's top; the last may make others of
    it.
    """
    if [type(step.layer) for step in steps] != list(types):
        return False
    first, *others, last = steps
    return (
        all(_in_place(step) and step.bottom_ids == first.top_ids for step in others)
        and first.top_ids[0] in last.bottom_ids
        and (_in_place(last) or types[-1].in_place == "never")
        and not any(step.weighted or step.kept for step in steps)
    )


def _find(steps: Sequence[Step], kinds: Sequence[type[Pass]]) -> list[Pass]:
    found: list[Pass] = []
    for first in range(len(steps)):
        if found and first <= found[-1].last:
            continue
        made = [
            kind(first, steps[first : first + len(types)])
            for kind in kinds
            for types in kind.chains
            if _is_chain(steps[first : first + len(types)], types)
        ]
        found += [item for item in made if item.fits()][:1]
    return found


def passes(steps: Sequence[Step]) -> dict[str, dict[int, Pass]]:
    """The "forward" and the "backward" passes that a net can take, by the place where each begins.

    Unless this fast path is left out, layers then keep no copies that these passes do without.
    """
    forward, backward = (
        _find(steps, (StandardizeForward, RectifiedSum)),
        _find(steps, (StandardizeBackward, SplitGradient)),
    )
    if fast_paths.taken("fusion"):
        for item in forward:
            item.settle()
        _share_gradients(steps)
    return {"forward": {item.first: item for item in forward}, "backward": {item.last: item for item in backward}}


def _share_gradients(steps: Sequence[Step]) -> None:
    """Let a gradient that a layer only hands on be the one that it comes from, where nothing writes over it later.

    Nothing does if the bottom is a Split's top that no layer works on in place: ResNet's shortcuts.
    """
    makers: dict[int, list[Step]] = {}
    for step in steps:
        for i in step.top_ids:
            makers.setdefault(i, []).append(step)
    for step in steps:
        for k, i in enumerate(step.bottom_ids):
            of_split = [type(maker.layer) for maker in makers[i]] == [Split]
            if of_split and step.need_backward and step.propagate_down[k] and step.layer.hands_on_gradient(k):
                step.bottom[k].share_diff(step.top[0])
