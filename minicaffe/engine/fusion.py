"""Neighbouring layers that run as one, so that memory is passed over once where each of them would pass over it.

Every blob, gradient, param and running statistic holds afterwards what it holds when the layers run one by one, but for
rounding.  The executor runs them one by one where somebody looks on (callbacks, ``debug_info``) or asks for some only.
What one of them must have kept for a backward pass of its own is made then (``Pass.release``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.engine.handed_on import find_handed_on
from minicaffe.kernels import fast_paths
from minicaffe.layers import Layer
from minicaffe.layers.convolution import AddedConvolution, Convolution
from minicaffe.layers.depthwise import ConvolutionDepthwise, DepthwiseConvolution
from minicaffe.layers.eltwise import Eltwise
from minicaffe.layers.neuron import ReLU
from minicaffe.layers.normalisation import BatchNorm, Standardized
from minicaffe.layers.scale_bias import Scale
from minicaffe.layers.shape import Split


class Pass:
    """The forward or the backward pass of the steps from place ``first`` of a net on."""

    chains: ClassVar[tuple[tuple[type[Layer], ...], ...]]
    """The layers in a row that it is made for; the first chain that is found counts."""

    def __init__(self, first: int, steps: Sequence[Step]) -> None:
        self.first, self.last = first, first + len(steps) - 1
        self.steps = steps
        self.ran = False
        """Whether the steps ran as one the last time."""

    def fits(self) -> bool:
        """Whether the layers, as they are set up, can run as one."""
        return True

    def settle(self) -> None:
        """Have the layers keep only what is needed if they do."""

    def ready(self) -> bool:
        """Whether they can this time; a forward pass lets them reshape before."""
        return True

    def run(self) -> None:
        """Run them."""
        raise NotImplementedError

    def release(self) -> None:
        """After ``run``: let each layer have what it keeps when it runs by itself."""
        self.ran = False

    @property
    def ops(self) -> Any:
        """The primitives of the current backend."""
        return backend.current().ops


class ForwardPass(Pass):
    """A pass in which layers reshape."""

    def ready(self) -> bool:
        where = backend.current()
        for step in self.steps:
            step.reshape(where)
        return True


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
        return self.scale.bias_term and self.norm.rows == self.scale.rows and not self.norm.scales

    def ready(self) -> bool:
        return super().ready() and self.norm.rows == self.scale.rows

    def factors(self) -> tuple[Any, Any]:
        """What Scale multiplies by, and adds."""
        v, b = (blob.xdata.reshape(-1) for blob in self.scale.blobs)
        return v, b


class StandardizeForward(_Standardization, ForwardPass):
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

    def input(self) -> Any:
        """BatchNorm's input, after ``run``, as rows."""
        return self._kept() if self.in_place else self.steps[0].bottom[0].xdata.reshape(self.norm.rows)

    def release(self) -> None:
        if self.ran and self.scale.goes_backward:
            kept = self.scale.keep_input(self.norm.rows)
            self.ops.channelwise(Standardized.standard, (self.input(),), (self.norm.mean, self.norm.factor), (), kept)
        super().release()

    def _kept(self) -> Any:
        return self.scale.kept if self.norm.kept is None else self.norm.kept

    @staticmethod
    def product(a: float, b: float) -> float:
        return a * b


class _AfterForward(_Standardization):
    """A backward pass after ``StandardizeForward``, which kept BatchNorm's input only."""

    def __init__(self, first: int, steps: Sequence[Step]) -> None:
        super().__init__(first, steps)
        self.forward: StandardizeForward | None = None

    def ready(self) -> bool:
        return super().ready() and self.forward is not None and self.forward.ran and self.steps[1].need_backward

    def param_gradients(self) -> tuple[Any, Any]:
        """Where the gradients of Scale's factors and biases go; None for one that does not learn."""
        dv, db = (
            blob.xdiff.reshape(-1) if learns else None
            for blob, learns in zip(self.scale.blobs, self.scale.param_propagate_down, strict=True)
        )
        return dv, db


class StandardizeBackward(_AfterForward):
    """Backward of ``_Standardization``, all in place and by the batch's own mean and variance.

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
        return super().ready() and goes

    def _term(self, step: Step) -> int:
        """Which bottom of a step is the blob that it is all about."""
        return self.term if step is self.sum else 0

    def run(self) -> None:
        assert self.forward is not None
        norm, blob = self.norm, self.steps[0].bottom[0]
        x, (v, _) = self.forward.input(), self.factors()
        y, dx = blob.xdata.reshape(norm.rows), blob.xdiff.reshape(norm.rows)
        dy = dx
        if self.sum is not None:
            others = [down and k != self.term for k, down in enumerate(self.sum.propagate_down)]
            self.sum.layer.backward(self.sum.top, others, self.sum.bottom)
            dy = self.sum.top[0].xdiff.reshape(norm.rows)
        dv, db = self.param_gradients()
        self.ops.standardize_grad(
            x, dy, norm.mean, norm.factor, norm.gradient_mean, norm.gradient_dot, dx, y, v, dv, db, self.slope
        )


class StandardizeBackwardApart(_AfterForward):
    """Backward of Scale and of BatchNorm one after the other: Scale's input follows from BatchNorm's."""

    chains = ((BatchNorm, Scale),)

    def run(self) -> None:
        assert self.forward is not None
        (norm, scale), (v, _), (dv, db) = self.steps, self.factors(), self.param_gradients()
        x, dy = self.forward.input(), scale.top[0].xdiff.reshape(self.norm.rows)
        if dv is not None:
            statistics = self.norm.mean, self.norm.factor
            self.ops.channel_sum(StandardizeBackwardApart.product, (x, dy), statistics, (), dv)
        self.ops.scale_grad(x, dy, v, dy if scale.propagate_down[0] else None, None, db)
        if norm.need_backward:
            norm.backward()

    @staticmethod
    def product(x: float, dy: float, mean: float, factor: float) -> float:
        return dy * (x - mean) * factor


class RectifiedSum(ForwardPass):
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
    def value(a: float, b: float, p: float, q: float, slope: float) -> float:
        return max(p * a + q * b, 0.0) + slope * min(p * a + q * b, 0.0)


class RectifiedConvolution(ForwardPass):
    """Forward of a convolution and a ReLU in place."""

    chains = (
        (Convolution, ReLU),
        (AddedConvolution, ReLU),
        (ConvolutionDepthwise, ReLU),
        (DepthwiseConvolution, ReLU),
    )

    def fits(self) -> bool:
        return len(self.steps[0].top) == 1

    def run(self) -> None:
        step = self.steps[0]
        layer: Any = step.layer
        layer.rectified_forward(step.bottom, step.top, _slope(self.steps[1]))


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
    def value(y: float, a: float, b: float, slope: float) -> float:
        return (a + b) * (1.0 if y > 0 else slope)


class Fusion:
    """The passes of several layers as one that a net can take, ``forward`` and ``backward``, and what they share.

    ``lost`` are the values of each step that it must keep copies of (``in_place.find_lost``): such steps run alone.

    Unless the fast path "fusion" is left out when it is made, a gradient that is only handed on is no copy; and from
    ``settle`` on layers keep no copies that these passes do without.  ``undo`` takes both back.
    """

    def __init__(self, steps: Sequence[Step], lost: Sequence[Sequence[Blob]]) -> None:
        self._steps = steps
        self.forward = _find(steps, lost, (StandardizeForward, RectifiedSum, RectifiedConvolution))
        self.backward = _find(steps, lost, (StandardizeBackward, StandardizeBackwardApart, SplitGradient))
        self._forward_of = {place: item for item in self.forward for place in range(item.first, item.last + 1)}
        self._handed_on = find_handed_on(steps) if fast_paths.taken("fusion") else []
        for item in self.backward:
            if isinstance(item, _AfterForward):
                forward = self._forward_of.get(item.first)
                item.forward = forward if isinstance(forward, StandardizeForward) else None
        for gradient in self._handed_on:
            gradient.share(contents_matter=True)

    def settle(self) -> None:
        """Before the first forward pass: have layers keep only what is needed."""
        if fast_paths.taken("fusion"):
            for item in self.forward:
                item.settle()

    def before_forward(self, start: int, end: int) -> None:
        """The steps ``start`` to ``end`` are about to go forward, and those behind are not: these must have kept what
        they will need of blobs that get other values now.
        """
        written = {id(blob.data_storage) for step in self._steps[start : end + 1] for blob in step.top}
        for item in self.forward:
            if item.ran and item.first > end and id(item.steps[0].bottom[0].data_storage) in written:
                item.release()

    def runs_alone(self, place: int) -> None:
        """The step at ``place`` is about to run forward by itself."""
        item = self._forward_of.get(place)
        if item is not None:
            if item.ran:
                item.release()
            item.steps[place - item.first].layer.unfuse()  # its neighbours keep nothing for it now

    def before_backward(self, start: int, end: int) -> None:
        """The steps ``start`` down to ``end`` are about to go backward."""
        for gradient in self._handed_on:
            gradient.before_backward(start, end)

    def handing_on(self) -> tuple[bool, ...]:
        """Which gradients are handed on: what ``before_backward`` goes by, besides memory."""
        return tuple([gradient.wanted for gradient in self._handed_on])

    def goes_backward_alone(self, place: int) -> None:
        """The step at ``place`` is about to go backward by itself."""
        item = self._forward_of.get(place)
        if item is not None and item.ran:
            item.release()

    def undo(self) -> None:
        """Let layers run by themselves from now on, backward passes that are due included."""
        for item in self.forward:
            if item.ran:
                item.release()
            for step in item.steps:
                step.layer.unfuse()
        for gradient in self._handed_on:
            gradient.unshare()


def _find(steps: Sequence[Step], lost: Sequence[Sequence[Blob]], kinds: Sequence[type[Pass]]) -> list[Pass]:
    found: list[Pass] = []
    for first in range(len(steps)):
        if found and first <= found[-1].last:
            continue
        made = [
            kind(first, steps[first : first + len(types)])
            for kind in kinds
            for types in kind.chains
            if _is_chain(steps[first : first + len(types)], types) and not any(lost[first : first + len(types)])
        ]
        found += [item for item in made if item.fits()][:1]
    return found


def _is_chain(steps: Sequence[Step], types: Sequence[type[Layer]]) -> bool:
    """Whether these are layers of these types that work in place on the first one's top; the last may make others of
    it.
    """
    if [type(step.layer) for step in steps] != list(types) or any(step.layer.patched for step in steps):
        return False
    first, *others, last = steps
    return (
        all(_in_place(step) and step.bottom_ids == first.top_ids for step in others)
        and first.top_ids[0] in last.bottom_ids
        and (_in_place(last) or types[-1].in_place == "never")
        and not any(step.weighted or step.kept for step in steps)
    )


def _in_place(step: Step) -> bool:
    return step.bottom_ids == step.top_ids


def _slope(step: Step) -> float:
    layer: Any = step.layer
    return layer.negative_slope
