"""Runs the layers of a net, forward and backward: step by step where somebody looks on, else fused and replayed."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend
from minicaffe.backend import generation
from minicaffe.backend.contexts import Both
from minicaffe.backend.precision import FLOAT32
from minicaffe.blob import Blob, shape_string
from minicaffe.engine import anomaly, in_place, narrow, segment
from minicaffe.engine.assembly import Step
from minicaffe.engine.fusion import Fusion, Pass
from minicaffe.engine.params import Params
from minicaffe.engine.segment import Segment
from minicaffe.errors import NetError, ShapeError
from minicaffe.kernels import fast_paths
from minicaffe.layers import Layer
from minicaffe.storage import Storage

_log = logging.getLogger(__name__)


Shapes = list[list[tuple[int, ...]]]


def param_shapes(steps: Sequence[Step]) -> Shapes:
    """The shapes of the params of each layer."""
    return [[blob.shape for blob in step.layer.blobs] for step in steps]


def check_param_shapes(steps: Sequence[Step], expected: Shapes) -> None:
    """ShapeError if a param was given a shape that its layer did not make: kernels would read beyond its memory.
    A user's layer may have its own ways.
    """
    for step, shapes in zip(steps, expected, strict=True):
        if step.layer.user_defined:
            continue
        for index, (blob, shape) in enumerate(zip(step.layer.blobs, shapes, strict=False)):
            if blob.shape != shape:
                raise step.layer.error(
                    f"param {index} must keep the shape {shape_string(shape)}; found "
                    f"{blob.shape_string}. Give it its shape back, or make the net from another definition",
                    kind=ShapeError,
                )


class _How(NamedTuple):
    """How a sweep runs steps: by these passes and segments where they lie within its range, else one by one."""

    run_step: Callable[[int], None]
    passes: Mapping[int, Pass]
    segments: Mapping[int, Segment]


class _Sweep:
    """One direction through the steps: ``sign`` +1 forward, -1 backward.

    What runs as one is found by the place where the sweep meets it: fused passes, and segments that are captured.
    """

    def __init__(self, sign: int, steps: Sequence[Step], fusion: Fusion, on_host: bool) -> None:
        self.sign = sign
        passes = fusion.forward if sign > 0 else fusion.backward
        read = fusion.forward if sign < 0 else ()
        ends = segment.find_segments(steps, passes, on_host)
        found = [Segment(steps, first, last, sign < 0, fusion.forward, read) for first, last in ends]
        self.passes: dict[int, Pass] = {self.near(item): item for item in passes}
        self.segments: dict[int, Segment] = {self.near(item): item for item in found}

    def near(self, item: Pass | Segment) -> int:
        """The place where the sweep meets it."""
        return item.first if self.sign > 0 else item.last

    def far(self, item: Pass | Segment) -> int:
        """The place where it ends."""
        return item.last if self.sign > 0 else item.first

    def run(self, index: int, end: int, how: _How) -> None:
        """Run the steps ``index`` to ``end`` (included)."""
        while (end - index) * self.sign >= 0:
            together, fused = how.segments.get(index), how.passes.get(index)
            if together is not None and self._within(together, end):
                eager = partial(self.run, index, self.far(together), how._replace(segments={}))
                together.run(backend.current(), eager)
                index = self.far(together) + self.sign
            elif fused is not None and self._within(fused, end) and fused.ready():
                fused.run()
                fused.ran = True
                index = self.far(fused) + self.sign
            else:
                how.run_step(index)
                index += self.sign

    def _within(self, item: Pass | Segment, end: int) -> bool:
        return (end - self.far(item)) * self.sign >= 0


class _Sweeps:
    """Both directions, and ``turn``: the steps at the end that may be captured in both as one, by the first one's place
    in either, and their segment.
    """

    def __init__(self, steps: Sequence[Step], fusion: Fusion, on_host: bool) -> None:
        self.forward = _Sweep(1, steps, fusion, on_host)
        self.backward = _Sweep(-1, steps, fusion, on_host)
        self.turn = self._find_turn(steps, fusion)
        left_out = [step.layer for step in steps if not step.layer.can_be_captured(on_host)]
        if left_out and not on_host and fast_paths.taken("replay"):
            _tell_left_out(", ".join(f"{layer.name} ({layer.type})" for layer in left_out))

    def _find_turn(self, steps: Sequence[Step], fusion: Fusion) -> tuple[int, int, Segment] | None:
        last = len(steps) - 1
        ends = [item for item in self.forward.segments.values() if item.last == last]
        if not ends or last not in self.backward.segments:
            return None
        first, first_back = ends[0].first, self.backward.segments[last].first
        earlier = [item for item in fusion.forward if item.first < first]
        return first, first_back, Segment(steps, min(first, first_back), last, True, fusion.forward, earlier)


class _Plan:
    """What follows from the layers as they are: which run as one, and which are captured together."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.revisions = [step.layer.revision for step in steps]
        self._steps = steps
        self._lost = in_place.find_lost(steps)
        self._settled = self._may_go_backward = False
        self.fusion = Fusion(steps, self._lost)
        self._sweeps: dict[bool, _Sweeps] = {}

    @property
    def sweeps(self) -> _Sweeps:
        """The sweeps on the current backend: a device captures more layers than the host."""
        on_host = backend.current().is_host
        if on_host not in self._sweeps:
            self._sweeps[on_host] = _Sweeps(self._steps, self.fusion, on_host)
        return self._sweeps[on_host]

    def settle(self) -> None:
        """Before a forward pass over all steps: have each keep what backward will need, and nothing else."""
        if not self._settled:
            for step, lost in zip(self._steps, self._lost, strict=True):
                step.settle(step.need_backward, lost)
            self.fusion.settle()
            self._settled = True

    def let_go_backward(self) -> None:
        """Before the first backward pass: have room for it, as a pass in which scratch memory grows is not captured."""
        if not self._may_go_backward:
            for layer in (step.layer for step in self._steps if step.need_backward):
                layer.reserve(layer.workspace_size(backward=True))
            self._may_go_backward = True


class Executor:
    """Runs the steps of a net.  ``names`` are those of the net's blobs, by number.

    Callbacks, ``debug_info`` and ``detect_anomaly`` see every layer: while there are any for a direction, its layers
    run one by one.
    """

    def __init__(self, steps: Sequence[Step], names: Sequence[str], params: Params, dtype: np.dtype) -> None:
        self.debug_info = self.detect_anomaly = False
        self._precision = FLOAT32
        self.loss = Blob((), dtype)
        """The weighted loss of the last forward pass."""
        self.callbacks: dict[str, list[Callable[[int], Any]]] = {
            f"{when}_{what}": [] for when in ("before", "after") for what in ("forward", "backward")
        }
        self._names, self._params = names, params
        self._take(steps)

    def _take(self, steps: Sequence[Step]) -> None:
        """Run these from now on."""
        self._steps = steps
        narrow.keep(steps, self._precision)
        self._user_layers = any(step.layer.user_defined for step in steps)
        self._param_shapes = param_shapes(steps)
        self._plan = _Plan(steps)
        self._plan.settle()
        self._generation = generation.current()
        self._provisional = False

    @property
    def steps(self) -> Sequence[Step]:
        """What runs, in order."""
        return self._steps

    @property
    def precision(self) -> str:
        """What factors of products are rounded to on a GPU, and blobs kept in where layers take them so."""
        return self._precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self._precision = precision
        narrow.keep(self._steps, precision)

    def reshape(self) -> None:
        """Give every blob the shape that follows from those of the inputs, without computing."""
        for step in self._steps:
            step.reshape(backend.current())

    # --- passes --------------------------------------------------------------------------------------------------

    def run_forward(self, start: int, end: int) -> None:
        """Run the layers ``start`` to ``end`` (included); their weighted losses add up in ``loss``."""
        with self._expecting(start, end), self._running():
            self._forward(start, end)

    def _forward(self, start: int, end: int) -> None:
        self._clear_loss()
        plan = self.plan(forward=start == 0)
        if start == 0 and end == len(self._steps) - 1:  # else layers beyond ``end`` would lose what they keep
            plan.settle()
        elif end < len(self._steps) - 1:
            plan.fusion.before_forward(start, end)
        plan.sweeps.forward.run(start, end, self._how("forward", plan))

    def run_backward(self, start: int, end: int) -> None:
        """Run the layers ``start`` down to ``end`` (included) backward, those that need it.

        NetError if a blob was reshaped since they ran forward.
        """
        self._check_shapes(start, end)
        with self._expecting(end, start, backward=True), self._running():
            plan = self.plan()
            plan.let_go_backward()
            plan.fusion.before_backward(start, end)
            plan.sweeps.backward.run(start, end, self._how("backward", plan))
        if self.debug_info and start == len(self._steps) - 1 and end == 0:
            self._log_param_norms()

    def _running(self) -> contextlib.AbstractContextManager[None]:
        """Around passes."""
        where = backend.current()
        running = where.running(self._user_layers)
        if where.is_host and self._precision == FLOAT32:
            return running  # the host rounds to nothing else
        return Both(running, where.rounding(self._precision))

    def _expecting(self, first: int, last: int, backward: bool = False) -> contextlib.AbstractContextManager[None]:
        """Around passes over some layers: what they call may have to be compiled."""
        return backend.current().expecting(partial(self.rehearse, first, last, backward))

    def rehearse(self, first: int, last: int, backward: bool) -> None:
        """Run the layers ``first`` to ``last`` forward, and then backward, where no kernel runs but each is noted.

        Layers of users do not run, nor those that read or write files.  What fails for want of numbers concerns nobody.
        """

        def forward_step(index: int) -> None:
            layer = self._steps[index].layer
            with contextlib.suppress(Exception):
                self._forward_step(index) if _is_pure(layer) else layer.rehearse(self._steps[index].top)

        def backward_step(index: int) -> None:
            if _is_pure(self._steps[index].layer):
                with contextlib.suppress(Exception):
                    self._backward_step(index)

        with self._running():
            self._clear_loss()
            plan = self.plan(forward=first == 0)
            plan.sweeps.forward.run(
                first, last, self._how("forward", plan)._replace(run_step=forward_step, segments={})
            )
            if backward:
                how = self._how("backward", plan)._replace(run_step=backward_step, segments={})
                plan.fusion.before_backward(last, first)
                plan.sweeps.backward.run(last, first, how)

    def forward_backward(self, loss_scale: Storage | None = None, keep: Callable[[Any], None] | None = None) -> None:
        """Both passes over all layers, without a pause between the two where nobody looks on.

        Gradients are the first number of ``loss_scale`` times as large as they should be; ``keep`` takes the loss.
        """
        plan, last = self.plan(forward=True), len(self._steps) - 1
        ahead, back, sweeps = self._how("forward", plan), self._how("backward", plan), plan.sweeps
        turns = sweeps.turn is not None and ahead.segments and back.segments
        if sweeps.turn is None or not turns or (loss_scale is not None and self._weighted(0, sweeps.turn[1])):
            self.run_forward(0, last)
            with self.scaled_losses(loss_scale):
                self.run_backward(last, 0)
            if keep is not None:
                with self._running():
                    keep(self.loss.xdata)
            return
        first, first_back, turn = sweeps.turn

        def around() -> None:
            if first == 0:
                self._clear_loss()
            self._params.write_zeros()
            sweeps.forward.run(first, last, ahead._replace(segments={}))
            plan.fusion.before_backward(last, 0)
            with self.scaled_losses(loss_scale):
                sweeps.backward.run(last, first_back, back._replace(segments={}))
            if keep is not None:
                keep(self.loss.xdata)

        with self._expecting(0, last, backward=True), self._running():
            plan.settle()
            plan.let_go_backward()
            if first > 0:
                self._clear_loss()
            sweeps.forward.run(0, first - 1, ahead)
            turn.run(backend.current(), around, id(loss_scale), keep, plan.fusion.handing_on())
            sweeps.backward.run(first_back - 1, 0, back)

    def _weighted(self, start: int, stop: int) -> list[Blob]:
        """The tops of some layers that have a loss weight."""
        return [blob for step in self._steps[start:stop] for blob in step.weighted]

    @contextlib.contextmanager
    def scaled_losses(self, loss_scale: Storage | None) -> Iterator[None]:
        """Around backward: the loss weights, which it begins with, are times the first number of ``loss_scale``."""
        if loss_scale is None:
            yield
            return
        weighted = self._weighted(0, len(self._steps))
        self._rescale(weighted, loss_scale, inverse=False)
        try:
            yield
        finally:
            self._rescale(weighted, loss_scale, inverse=True)

    def _rescale(self, blobs: Sequence[Blob], scale: Storage, inverse: bool) -> None:
        with self._running():
            for blob in blobs:
                backend.current().ops.rescale(blob.xdiff, scale.array(), inverse)

    def _clear_loss(self) -> None:
        """By an op, so that it can be captured."""
        backend.current().ops.elementwise(_zero, (self.loss.xdata,), (), self.loss.xdata)

    def leaves_without_gradient(self, blob: int) -> bool:
        """Whether no layer computes the gradient of a blob, by number, though one could."""
        return self._readers(blob) == {False}

    def _readers(self, blob: int) -> set[bool]:
        """Of the layers that could give a blob a gradient, beyond Splits: whether they do, each answer once."""
        found: set[bool] = set()
        for step in self._steps:
            for k, (i, down) in enumerate(zip(step.bottom_ids, step.propagate_down, strict=True)):
                able = (step.layer.forcible, step.layer.differentiable)
                if i != blob or any(given is not None and k not in given for given in able):
                    continue
                if step.layer.type == "Split" and not down:
                    found.update(answer for top in step.top_ids for answer in self._readers(top))
                else:
                    found.add(down and step.need_backward)
        return found

    def plan(self, forward: bool = False) -> _Plan:
        """What runs as one; found anew when an attribute of a layer was set since.

        Before a ``forward`` pass over all steps, layers that were changed reshape first, for what they declare (which
        values backward reads, whether they may work in place) can follow from their attributes.
        """
        if self._generation != generation.current() or (forward and self._provisional):
            check_param_shapes(self._steps, self._param_shapes)
            changed = self._plan.revisions != [step.layer.revision for step in self._steps]
            if changed or (forward and self._provisional):
                self._plan.fusion.undo()
                self._provisional = not forward
                for step in self._steps if forward else ():
                    if not step.layer.reshape_always:
                        step.reshape(backend.current())
                narrow.keep(self._steps, self._precision)
                self._plan = _Plan(self._steps)
            self._generation = generation.current()
        return self._plan

    def _check_shapes(self, start: int, end: int) -> None:
        """NetError if layers would read and write beyond what their last forward pass left."""
        for step in self._steps[end : start + 1]:
            if step.need_backward and (changed := step.reshaped_since) is not None:
                kind, place = changed
                ids, blobs = (step.bottom_ids, step.bottom) if kind == "bottom" else (step.top_ids, step.top)
                name, shape = self._names[ids[place]], blobs[place].shape_string
                raise NetError(
                    f"layer '{step.layer.name}' ({step.layer.type}) cannot run backward: its {kind} '{name}' was given "
                    f"the shape {shape} since it ran forward; run the net forward first"
                )

    def _how(self, direction: str, plan: _Plan) -> _How:
        """Fused passes and segments are left out while somebody looks at what is between them."""
        forward = direction == "forward"
        run_step = self._forward_step if forward else self._backward_step
        sweep = plan.sweeps.forward if forward else plan.sweeps.backward
        watched = self._is_watched(direction)
        passes = sweep.passes if not watched and fast_paths.taken("fusion") else {}
        segments = sweep.segments if not watched and fast_paths.taken("replay") else {}
        return _How(run_step, passes, segments)

    def _is_watched(self, direction: str) -> bool:
        """Whether somebody looks at what is between the layers."""
        calls = self.callbacks["before_" + direction] or self.callbacks["after_" + direction]
        return bool(self.debug_info or self.detect_anomaly or calls)

    # --- single steps ---------------------------------------------------------------------------------------------

    def _forward_step(self, index: int) -> None:
        step, where = self._steps[index], backend.current()
        for call in self.callbacks["before_forward"]:
            call(index)
        self._plan.fusion.runs_alone(index)
        step.reshape(where)
        step.forward()
        for blob in step.weighted:
            where.ops.dot(blob.xdata, blob.xdiff, self.loss.xdata)
        if self.detect_anomaly:
            anomaly.check_outputs(step, self._names)
        if self.debug_info:
            self._log_forward(step)
        for call in self.callbacks["after_forward"]:
            call(index)

    def _backward_step(self, index: int) -> None:
        step = self._steps[index]
        for call in self.callbacks["before_backward"]:
            call(index)
        if step.need_backward:
            self.backward_layer(index)
            if self.detect_anomaly:
                anomaly.check_gradients(step, self._names)
            if self.debug_info:
                self._log_backward(step)
        for call in self.callbacks["after_backward"]:
            call(index)

    def backward_layer(self, index: int) -> None:
        """Run one layer backward; LayerError if a bottom is to get a gradient that its layer cannot give."""
        step = self._steps[index]
        layer, allowed = step.layer, step.layer.differentiable
        for k, wanted in enumerate(step.propagate_down):
            if wanted and allowed is not None and k not in allowed:
                raise layer.error(
                    f"{layer.type} Layer cannot backpropagate to bottom {k} ('{self._names[step.bottom_ids[k]]}'); "
                    "set propagate_down: false for it, or remove force_backward",
                    "propagate_down",
                )
        self._plan.fusion.goes_backward_alone(index)
        with backend.current().rounding(self.precision):
            step.backward()

    # --- debug_info ----------------------------------------------------------------------------------------------

    def _log_forward(self, step: Step) -> None:
        layer = step.layer
        for i, blob in zip(step.top_ids, step.top, strict=True):
            _log.info(
                "    [Forward] Layer %s, top blob %s data: %g", layer.name, self._names[i], _mean_abs(blob.peek_data())
            )
        for j, blob in enumerate(layer.blobs):
            specs = layer.layer_param.param
            name = specs[j].name if j < len(specs) and specs[j].name else str(j)
            _log.info("    [Forward] Layer %s, param blob %s data: %g", layer.name, name, _mean_abs(blob.peek_data()))

    def _log_backward(self, step: Step) -> None:
        layer = step.layer
        for k, (i, blob) in enumerate(zip(step.bottom_ids, step.bottom, strict=True)):
            if step.propagate_down[k]:
                mean = _mean_abs(blob.peek_diff())
                _log.info("    [Backward] Layer %s, bottom blob %s diff: %g", layer.name, self._names[i], mean)
        for j, blob in enumerate(layer.blobs):
            if layer.param_propagate_down[j]:
                mean = _mean_abs(blob.peek_diff())
                _log.info("    [Backward] Layer %s, param blob %d diff: %g", layer.name, j, mean)

    def _log_param_norms(self) -> None:
        norms = []
        for peek in (Blob.peek_data, Blob.peek_diff):
            values = [peek(param.blob).reshape(-1).astype(np.float64) for param in self._params.learnable]
            norms.append((sum(np.abs(v).sum() for v in values), np.sqrt(sum(v @ v for v in values))))
        (a, c), (b, d) = norms
        _log.error("    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)", a, b, c, d)


def _is_pure(layer: Layer) -> bool:
    """Whether a layer's passes change nothing but its blobs, its params and what it keeps."""
    return layer.can_be_captured(on_host=True) or (layer.can_be_captured(on_host=False) and not layer.user_defined)


@functools.cache
def _tell_left_out(layers: str) -> None:
    """Once for the same layers: each net that is made of a definition has them."""
    _log.info("Layers that run one by one, as no graph takes them: %s", layers)


def _zero(x: float) -> float:
    return 0.0


def _mean_abs(values: NDArray) -> float:
    return float(np.abs(values).sum(dtype=np.float64) / values.size) if values.size else 0.0
