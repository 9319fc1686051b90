"""Net: a graph of layers read from a prototxt, run forward and backward.  Its interface is pycaffe's."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import anomaly, backend, fusion, graph, memory_plan, proto, replay, weights
from minicaffe.assembly import Assembly, Param, Step
from minicaffe.blob import Blob, Storage
from minicaffe.errors import NetError
from minicaffe.kernels import fast_paths
from minicaffe.layers import Layer, Source
from minicaffe.layers.data import MemoryData
from minicaffe.proto.files import read_net
from minicaffe.proto.upgrade import upgrade_net

_log = logging.getLogger(__name__)

PARAM_ALIGNMENT = 16
"""Elements to which each param is aligned in the buffer of all params: one cache line of float32."""

_Ways = tuple[Mapping[int, fusion.Pass], Mapping[int, replay.Stretch]]
"""Layers that may run as one, and layers that may run from a record, by the place where a pass meets them."""


class Net:
    """A net in one phase, made from a prototxt file or a NetParameter.

    ``Net(file, phase, level=0, stages=None, weights=None)``; pycaffe's older ``Net(file, weights, phase)`` works too.
    ``dtype`` float64 is meant for gradient checks.  With ``detect_anomaly`` set to True, a pass ends with an AnomalyError
    that names the first layer whose output or gradient is not finite; layers then run one by one, and each waits for the
    device.

    Caffe: blobs read by several layers get a Split layer; ``outputs`` are sorted by name; params of one name are one
    blob, owned by the first layer that names it.

    Raises PrototxtError, NetError, LayerError, ShapeError, DataError, WeightsError: whatever keeps the net from being
    built.
    """

    def __init__(
        self,
        network: str | os.PathLike | proto.NetParameter,
        phase: Any = None,
        level: Any = 0,
        stages: Iterable[str] | None = None,
        weights: str | os.PathLike | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if isinstance(phase, (str, os.PathLike)):
            weights, phase, level = phase, level, 0
        if isinstance(network, proto.NetParameter):
            param, self.source = upgrade_net(network)[0], Source()
        else:
            param, locations = read_net(network)
            self.source = Source(os.fspath(network), locations)
        if phase is not None:
            param = graph.with_state(param, int(phase), level, list(stages or ()))
        self._build(param, np.dtype(dtype))
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def from_param(cls, param: proto.NetParameter, source: Source, dtype: DTypeLike = np.float32) -> Net:
        """A net from a definition that holds its own state; ``source`` says where it came from."""
        net = cls.__new__(cls)
        net.source = source
        net._build(param, np.dtype(dtype))
        return net

    # --- construction --------------------------------------------------------------------------------------------

    def _build(self, param: proto.NetParameter, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.phase = param.state.phase
        self.debug_info = param.debug_info
        self.detect_anomaly = False
        filtered = graph.filter_net(param, self.source)
        _log.info("Initializing net from parameters: \n%s", filtered)
        definition = graph.insert_splits(filtered, self.source)
        self.name = definition.name
        built = Assembly(definition, self.source, dtype)
        self.steps, self.learnable = built.steps, built.learnable
        self.inputs, self.outputs = built.inputs, built.outputs
        self._blob_list = built.blobs
        self.blobs: OrderedDict[str, Blob] = OrderedDict(built.blobs)
        self.forward_only = False
        self.blob_loss_weights = OrderedDict((name, built.loss_weights[name]) for name in self.blobs)
        self.layers: list[Layer] = [step.layer for step in self.steps]
        self.layer_dict = OrderedDict((layer.name, layer) for layer in self.layers)
        self.params = OrderedDict((layer.name, layer.blobs) for layer in self.layers if layer.blobs)
        self.top_names = OrderedDict((s.layer.name, [self._blob_names[i] for i in s.top_ids]) for s in self.steps)
        self.bottom_names = OrderedDict((s.layer.name, [self._blob_names[i] for i in s.bottom_ids]) for s in self.steps)
        self._storage: tuple[Storage, Storage] | None = None
        self._claimed: list[tuple[int, int]] = []
        self._loss = Blob((), dtype)
        self._guests = any(type(layer).__module__.partition(".")[0] != __package__ for layer in self.layers)
        self._callbacks: dict[str, list[Callable[[int], Any]]] = {
            f"{when}_{what}": [] for when in ("before", "after") for what in ("forward", "backward")
        }
        self._share_params()
        self._fused = fusion.passes(self.steps)
        self._stretches = {direction: self._find_stretches(direction) for direction in self._fused}
        self._turn = self._find_turn()
        _log.info("Network initialization done.")

    # --- params as one buffer ------------------------------------------------------------------------------------

    def pack_params(self) -> tuple[Storage, Storage]:
        """Move all learnable params into one value and one gradient buffer, and return these.

        Each ``Param.offset`` tells where it starts; those of equal multipliers follow each other, so that a solver
        updates them as one, and of these the ones whose gradient need not be cleared.  The elements between params stay
        zero.
        """
        if self._storage is None:
            end = 0
            for param in sorted(self.learnable, key=lambda param: (param.multipliers, not self._is_claimed(param))):
                param.offset = end
                if self._is_claimed(param):
                    self._claimed.append((end, end + param.blob.count))
                end += -(-param.blob.count // PARAM_ALIGNMENT) * PARAM_ALIGNMENT
            self._storage = Storage(end, self.dtype), Storage(end, self.dtype)
            for param in self.learnable:
                param.blob.move_to(*self._storage, param.offset)
            self._share_params()
        return self._storage

    def _is_claimed(self, param: Param) -> bool:
        """Whether each layer that has this param claims its gradient."""
        return all(j in self.steps[index].layer.claims for index, j in param.users)

    def _share_params(self) -> None:
        for owner in self.learnable:
            for index, j in owner.users[1:]:
                blob = self.steps[index].layer.blobs[j]
                blob.share_data(owner.blob)
                blob.share_diff(owner.blob)

    def reuse_memory(self, keep: Iterable[str] = ()) -> None:
        """Let blobs that nothing reads any more in a forward pass hand their memory to later ones.

        From then on the net runs forward only, from its first layer on.  Inputs, outputs and the blobs that ``keep``
        names can still be read; all others leave ``blobs``.  NetError for a name in ``keep`` that is no blob.
        """
        keep = list(keep)
        unknown = [name for name in keep if name not in self.blobs]
        if unknown:
            raise NetError(f"net '{self.name}' has no blob {', '.join(unknown)}; it has: {', '.join(self.blobs)}")
        places, size = memory_plan.plan(self.steps, self._blob_list, {*self.outputs, *keep})
        arena = Storage(size, self.dtype)
        for place in places:
            place.blob.place_data(arena, place.offset, place.room)
        for step in self.steps:
            step.settle(goes_backward=False)
        reused = {name for name, blob in self._blob_list if blob.data_storage is arena}
        self.blobs = memory_plan.KeptBlobs(self._blob_list, reused)
        self.forward_only = True

    def clear_param_diffs(self, lazily: bool = False) -> None:
        """Set the gradient of every learnable param to zero; backward passes add to it.

        ``lazily``, as a solver does before its own backward pass, those of packed params that their layers claim
        (``Layer.claims``) only count as zero: backward overwrites them, and zeros are written only where somebody asks
        for the gradient before.  An array that somebody took from ``Blob.diff`` earlier and kept holds the old numbers
        until then.
        """
        if self._storage is not None:
            self._storage[1].clear(self._claimed if lazily else ())
        else:
            for param in self.learnable:
                param.blob.xdiff.fill(0)

    # --- running -------------------------------------------------------------------------------------------------

    def run_forward(self, start: int = 0, end: int | None = None) -> None:
        """Run the layers ``start`` to ``end`` (included); their weighted losses add up in ``loss_array``."""
        if start and self.forward_only:
            raise NetError(
                f"net '{self.name}' reuses its blobs' memory (reuse_memory): it runs from its first layer on"
            )
        where = backend.current()
        end = len(self.steps) - 1 if end is None else end
        self._loss.xdata.fill(0)
        with where.running(self._guests):
            self._forward_steps(start, end, self._ways("forward"), where)

    def _forward_steps(self, index: int, end: int, ways: _Ways, where: backend.Backend) -> None:
        passes, stretches = ways
        while index <= end:
            stretch, fused = stretches.get(index), passes.get(index)
            if stretch is not None and stretch.last <= end:
                stretch.run(
                    where, self._param_diffs, partial(self._forward_steps, index, stretch.last, (passes, {}), where)
                )
                index = stretch.last + 1
            elif fused is not None and fused.last <= end and fused.reshape(where).ready():
                fused.run()
                index = fused.last + 1
            else:
                self._forward_step(index, where)
                index += 1

    def _forward_step(self, index: int, where: backend.Backend) -> None:
        step = self.steps[index]
        for call in self._callbacks["before_forward"]:
            call(index)
        step.reshape(where)
        step.forward()
        for blob in step.weighted:
            where.ops.dot(blob.xdata, blob.xdiff, self._loss.xdata)
        if self.detect_anomaly:
            anomaly.check_outputs(step, self._blob_names)
        if self.debug_info:
            self._log_forward(step)
        for call in self._callbacks["after_forward"]:
            call(index)

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """Run the layers ``start`` down to ``end`` (included) backward, those that need it."""
        if self.forward_only:
            raise NetError(f"net '{self.name}' reuses its blobs' memory (reuse_memory): it cannot run backward")
        where = backend.current()
        start = len(self.steps) - 1 if start is None else start
        with where.running(self._guests):
            self._backward_steps(start, end, self._ways("backward"), where)
        if self.debug_info and start == len(self.steps) - 1 and end == 0:
            self._log_param_norms()

    def _backward_steps(self, index: int, end: int, ways: _Ways, where: backend.Backend) -> None:
        passes, stretches = ways
        while index >= end:
            stretch, fused = stretches.get(index), passes.get(index)
            if stretch is not None and stretch.first >= end:
                stretch.run(
                    where, self._param_diffs, partial(self._backward_steps, index, stretch.first, (passes, {}), where)
                )
                index = stretch.first - 1
            elif fused is not None and fused.first >= end and fused.ready():
                fused.run()
                index = fused.first - 1
            else:
                self._backward_step(index)
                index -= 1

    def _backward_step(self, index: int) -> None:
        step = self.steps[index]
        for call in self._callbacks["before_backward"]:
            call(index)
        if step.need_backward:
            self.backward_layer(index)
            if self.detect_anomaly:
                anomaly.check_gradients(step, self._blob_names)
            if self.debug_info:
                self._log_backward(step)
        for call in self._callbacks["after_backward"]:
            call(index)

    def forward_backward(self) -> None:
        """``run_forward`` and ``run_backward`` over all layers, without a pause between the two where nobody looks on."""
        ahead, back = self._ways("forward"), self._ways("backward")
        if self._turn is None or self.forward_only or not (ahead[1] and back[1]):
            self.run_forward()
            self.run_backward()
            return
        where, last = backend.current(), len(self.steps) - 1
        first, first_back, turn = self._turn

        def around() -> None:
            self._forward_steps(first, last, (ahead[0], {}), where)
            self._backward_steps(last, first_back, (back[0], {}), where)

        self._loss.xdata.fill(0)
        with where.running(self._guests):
            self._forward_steps(0, first - 1, ahead, where)
            turn.run(where, self._param_diffs, around)
            self._backward_steps(first_back - 1, 0, back, where)

    def _find_turn(self) -> tuple[int, int, replay.Stretch] | None:
        """The layers at the end that may run from a record in both directions: the first one's place in either, and
        their stretch.
        """
        last = len(self.steps) - 1
        ends = [stretch for stretch in self._stretches["forward"].values() if stretch.last == last]
        if not ends or last not in self._stretches["backward"]:
            return None
        first, first_back = ends[0].first, self._stretches["backward"][last].first
        return first, first_back, replay.Stretch(self.steps, min(first, first_back), last)

    def _find_stretches(self, direction: str) -> dict[int, replay.Stretch]:
        """The steps that may run from a record, by the place where the pass meets them."""
        found = replay.stretches(self.steps, self._fused[direction].values())
        return {
            (first if direction == "forward" else last): replay.Stretch(self.steps, first, last)
            for first, last in found
        }

    def _ways(self, direction: str) -> _Ways:
        """The layers that may run as one, and those that may run from a record: none while somebody looks at what is
        between them.
        """
        callbacks = self._callbacks
        if (
            self.debug_info
            or self.detect_anomaly
            or callbacks["before_" + direction]
            or callbacks["after_" + direction]
        ):
            return {}, {}
        return (
            self._fused[direction] if fast_paths.taken("fusion") else {},
            self._stretches[direction] if fast_paths.taken("replay") else {},
        )

    @property
    def _param_diffs(self) -> Storage | None:
        return self._storage and self._storage[1]

    def backward_layer(self, index: int) -> None:
        """Run one layer backward; LayerError if a bottom is to get a gradient that its layer cannot give."""
        step = self.steps[index]
        allowed = step.layer.differentiable
        if allowed is not None:
            for k, flag in enumerate(step.propagate_down):
                if flag and k not in allowed:
                    raise step.layer.error(
                        f"{step.layer.type} Layer cannot backpropagate to bottom {k} ('{self._blob_names[step.bottom_ids[k]]}'); "
                        "set propagate_down: false for it, or remove force_backward",
                        "propagate_down",
                    )
        step.backward()

    @property
    def loss_array(self) -> Any:
        """The weighted loss of the last ``run_forward``, a scalar array of the current backend."""
        return self._loss.xdata

    @property
    def loss(self) -> float:
        """The weighted loss of the last ``run_forward``; waits for the device."""
        backend.current().run_checks()
        return float(self._loss.peek_data())

    def reshape(self) -> None:
        """Give every blob the shape that follows from the inputs' shapes, without computing."""
        for step in self.steps:
            step.reshape(backend.current())

    def layer_index(self, name: str) -> int:
        """Place of the first layer of this name; NetError if there is none."""
        for index, step in enumerate(self.steps):
            if step.layer.name == name:
                return index
        raise NetError(
            f"net '{self.name}' has no layer '{name}'; it has: {', '.join(s.layer.name for s in self.steps)}"
        )

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, NDArray]:
        """Run forward from layer ``start`` to ``end`` (names, included) and return outputs by name, as live views.

        ``inputs`` are arrays for all net inputs, by name.  ``blobs`` names further blobs to return.
        """
        first = 0 if start is None else self.layer_index(start)
        last = len(self.steps) - 1 if end is None else self.layer_index(end)
        names = self.outputs if end is None else self.top_names[end]
        if inputs:
            if set(inputs) != set(self.inputs):
                raise NetError(
                    f"Input blob arguments do not match net inputs: found {sorted(inputs)}, expected {self.inputs}"
                )
            self._assign(inputs, "data", "Input")
        self.run_forward(first, last)
        backend.current().run_checks()
        return {name: self.blobs[name].data for name in OrderedDict.fromkeys([*names, *(blobs or ())])}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **output_diffs: Any
    ) -> dict[str, NDArray]:
        """Run backward from layer ``start`` down to ``end`` (names, included) and return the inputs' gradients, as live
        views.

        ``output_diffs`` are gradients for all net outputs, by name.  ``diffs`` names further blobs to return.
        """
        first = len(self.steps) - 1 if start is None else self.layer_index(start)
        last = 0 if end is None else self.layer_index(end)
        names = self.inputs if end is None else self.bottom_names[end]
        if output_diffs:
            if set(output_diffs) != set(self.outputs):
                raise NetError(
                    f"Top diff arguments do not match net outputs: found {sorted(output_diffs)}, expected {self.outputs}"
                )
            self._assign(output_diffs, "diff", "Diff")
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in OrderedDict.fromkeys([*names, *(diffs or ())])}

    def _assign(self, arrays: Mapping[str, Any], part: str, what: str) -> None:
        for name, values in arrays.items():
            values, blob = np.asarray(values), self.blobs[name]
            if values.ndim and blob.shape and values.shape[0] != blob.shape[0]:
                raise NetError(f"{what} is not batch sized: '{name}' has shape {blob.shape}, found {values.shape}")
            try:
                getattr(blob, part)[...] = values
            except ValueError:
                raise NetError(f"{what} '{name}' must have shape {blob.shape}; found {values.shape}") from None

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, NDArray]:
        """Run forward over any number of items, batch after batch, and return copies of all rows of the outputs."""
        length = len(next(iter(inputs.values())))
        rows: dict[str, list[NDArray]] = {name: [] for name in OrderedDict.fromkeys([*self.outputs, *(blobs or ())])}
        for batch in self._batch(inputs):
            outs = self.forward(blobs, **batch)  # type: ignore[arg-type]
            for name in rows:
                rows[name].extend(np.atleast_1d(outs[name]).copy())
        return {name: np.asarray(values)[:length] for name, values in rows.items()}

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Run forward and backward over any number of items: inputs and output gradients by name; returns (outs,
        diffs).
        """
        inputs = {name: values for name, values in arrays.items() if name in self.inputs}
        tops = {name: values for name, values in arrays.items() if name in self.outputs}
        length = len(next(iter(arrays.values())))
        outs: dict[str, list] = {name: [] for name in OrderedDict.fromkeys([*self.outputs, *(blobs or ())])}
        grads: dict[str, list] = {name: [] for name in OrderedDict.fromkeys([*self.inputs, *(diffs or ())])}
        for forward, backward in zip_longest(self._batch(inputs), self._batch(tops)):
            for collected, got in (
                (outs, self.forward(blobs, **forward or {})),
                (grads, self.backward(diffs, **backward or {})),
            ):
                for name, rows in collected.items():
                    rows.extend(np.atleast_1d(got[name]).copy())
        return tuple({n: np.asarray(rows)[:length] for n, rows in part.items()} for part in (outs, grads))  # type: ignore[return-value]

    def _batch(self, arrays: Mapping[str, Any]) -> Iterator[dict[str, NDArray]]:
        """Full batches of the items, the last one padded with zeros."""
        if not arrays:
            return
        size = self._blob_list[0][1].shape[0]
        for start in range(0, len(next(iter(arrays.values()))), size):
            batch = {name: np.asarray(values[start : start + size], self.dtype) for name, values in arrays.items()}
            for name, values in batch.items():
                missing = size - len(values)
                if missing:
                    batch[name] = np.concatenate([values, np.zeros((missing, *values.shape[1:]), self.dtype)])
            yield batch

    def set_input_arrays(self, data: NDArray, labels: NDArray) -> None:
        """Let the first layer, a MemoryData, serve these arrays from the next forward on; see its ``set_input_arrays``."""
        first = self.layers[0] if self.layers else None
        if not isinstance(first, MemoryData):
            raise NetError(
                f"net '{self.name}': set_input_arrays may only be called if the first layer is a MemoryDataLayer"
            )
        first.set_input_arrays(data, labels)

    # --- callbacks -----------------------------------------------------------------------------------------------

    def before_forward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` before each layer's forward."""
        self._callbacks["before_forward"].append(call)

    def after_forward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` after each layer's forward."""
        self._callbacks["after_forward"].append(call)

    def before_backward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` before each layer's backward."""
        self._callbacks["before_backward"].append(call)

    def after_backward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` after each layer's backward."""
        self._callbacks["after_backward"].append(call)

    # --- weights and state ---------------------------------------------------------------------------------------

    def copy_from(self, path: str | os.PathLike) -> None:
        """Load weights by layer name from a .caffemodel or .h5 file; see ``weights.copy``."""
        weights.copy(self, path)

    def share_with(self, other: Net) -> None:
        """Use the other net's weights, by layer name, from now on (values only, not gradients)."""
        weights.share(self, other)

    def save(self, path: str | os.PathLike) -> None:
        """Write weights and definition as a binary NetParameter, atomically."""
        weights.save(self, path)

    def save_hdf5(self, path: str | os.PathLike) -> None:
        """Write weights in Caffe's HDF5 layout, atomically."""
        weights.save_hdf5(self, path)

    def load_hdf5(self, path: str | os.PathLike) -> None:
        """Load weights from an HDF5 file."""
        weights.copy_hdf5(self, path)

    def to_proto(self, write_diff: bool = False) -> proto.NetParameter:
        """Name and layers, with their weights, in today's format and with the Splits (what ``save`` writes)."""
        result = proto.NetParameter(name=self.name)
        for layer in self.layers:
            message = result.layer.add()
            message.CopyFrom(layer.layer_param)
            del message.blobs[:]
            for blob in layer.blobs:
                message.blobs.append(blob.to_proto(write_diff))
        return result

    def state(self) -> dict[str, Any]:
        """Where each data layer stands, by layer name, for a snapshot."""
        return {layer.name: layer.state() for layer in self.layers if hasattr(layer, "state")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the data layers back to a ``state``."""
        for layer in self.layers:
            if layer.name in state and hasattr(layer, "restore"):
                layer.restore(state[layer.name])

    def close(self) -> None:
        """Close files and stop threads of the data layers."""
        for layer in self.layers:
            if hasattr(layer, "close"):
                layer.close()

    # --- pycaffe's raw views -------------------------------------------------------------------------------------

    @property
    def _layer_names(self) -> list[str]:
        return [step.layer.name for step in self.steps]

    @property
    def _blob_names(self) -> list[str]:
        return [name for name, _ in self._blob_list]

    @property
    def _blobs(self) -> list[Blob]:
        return [blob for _, blob in self._blob_list]

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self.blob_loss_weights[name] for name in self._blob_names]

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    def _bottom_ids(self, index: int) -> list[int]:
        return self.steps[index].bottom_ids

    def _top_ids(self, index: int) -> list[int]:
        return self.steps[index].top_ids

    def _forward(self, start: int, end: int) -> float:
        self.run_forward(start, end)
        return self.loss

    def _backward(self, start: int, end: int) -> None:
        self.run_backward(start, end)

    # --- debug_info ----------------------------------------------------------------------------------------------

    def _log_forward(self, step: Step) -> None:
        layer = step.layer
        for i, blob in zip(step.top_ids, step.top, strict=True):
            _log.info(
                "    [Forward] Layer %s, top blob %s data: %g",
                layer.name,
                self._blob_names[i],
                _mean_abs(blob.peek_data()),
            )
        for j, blob in enumerate(layer.blobs):
            specs = layer.layer_param.param
            name = specs[j].name if j < len(specs) and specs[j].name else str(j)
            _log.info("    [Forward] Layer %s, param blob %s data: %g", layer.name, name, _mean_abs(blob.peek_data()))

    def _log_backward(self, step: Step) -> None:
        for k, (i, blob) in enumerate(zip(step.bottom_ids, step.bottom, strict=True)):
            if step.propagate_down[k]:
                _log.info(
                    "    [Backward] Layer %s, bottom blob %s diff: %g",
                    step.layer.name,
                    self._blob_names[i],
                    _mean_abs(blob.peek_diff()),
                )
        for j, blob in enumerate(step.layer.blobs):
            if step.layer.param_propagate_down[j]:
                _log.info(
                    "    [Backward] Layer %s, param blob %d diff: %g", step.layer.name, j, _mean_abs(blob.peek_diff())
                )

    def _log_param_norms(self) -> None:
        norms = []
        for peek in (Blob.peek_data, Blob.peek_diff):
            values = [peek(param.blob).reshape(-1).astype(np.float64) for param in self.learnable]
            norms.append((sum(np.abs(v).sum() for v in values), np.sqrt(sum(v @ v for v in values))))
        (a, c), (b, d) = norms
        _log.error("    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)", a, b, c, d)


def _mean_abs(values: NDArray) -> float:
    return float(np.abs(values).sum(dtype=np.float64) / values.size) if values.size else 0.0
