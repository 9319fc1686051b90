"""Net: a graph of layers read from a prototxt, run forward and backward.  Its interface is pycaffe's."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import arguments, backend, graph, models, proto, weights
from minicaffe.alignment import align_crops
from minicaffe.backend import precision as precisions
from minicaffe.backend import usage
from minicaffe.blob import Blob
from minicaffe.engine import anomaly
from minicaffe.engine.assembly import Assembly
from minicaffe.engine.executor import Executor
from minicaffe.engine.params import Params
from minicaffe.errors import NetError
from minicaffe.forward_only import ForwardOnly
from minicaffe.layers import TEST, TRAIN
from minicaffe.layers.blob_vec import ParamsByLayer
from minicaffe.matching import Matching, Report
from minicaffe.named import Named
from minicaffe.named_passes import NamedPasses
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin
from minicaffe.proto.upgrade import upgrade_net
from minicaffe.storage import Storage

_log = logging.getLogger(__name__)


class Net(NamedPasses, ForwardOnly):
    """A net in one phase, made from a prototxt file, one of a shipped model ("lenet/lenet.prototxt"), or a
    NetParameter.

    ``Net(file, phase, level=0, stages=None, weights=None)``; pycaffe's older ``Net(file, weights, phase)`` works too.
    ``dtype`` float64 is meant for gradient checks.  With ``deploy`` it is in its deploy form from the beginning, with
    the blobs that ``keep`` names: see ``deploy``.  Of a binary file of ``weights``, which stays open then, params that
    nothing is computed with are in memory only while somebody looks at them.

    Caffe: blobs read by several layers get a Split layer; ``outputs`` are sorted by name; params of one name are one
    blob, owned by the first layer that names it.

    Raises PrototxtError, NetError, LayerError, ShapeError, DataError, WeightsError: whatever keeps the net from being
    built.
    """

    def __init__(
        self,
        network_file: str | os.PathLike | proto.NetParameter,
        phase: Any = None,
        level: Any = None,
        stages: Iterable[str] | None = None,
        weights: str | os.PathLike | None = None,
        dtype: DTypeLike = np.float32,
        deploy: bool = False,
        keep: Iterable[str] = (),
    ) -> None:
        if level is None and phase in ("TRAIN", "TEST"):
            phase = proto.Phase.Value(phase)
        if isinstance(phase, (str, os.PathLike)):
            weights, phase, level = phase, level, None
            if phase is None:
                raise NetError("Net(file, weights, phase): the phase is missing, minicaffe.TRAIN or minicaffe.TEST")
        if phase not in (None, TRAIN, TEST):
            raise NetError(f"a net's phase is minicaffe.TRAIN ({TRAIN}) or minicaffe.TEST ({TEST}); found {phase!r}")
        if isinstance(network_file, proto.NetParameter):
            param, self.source = upgrade_net(network_file)[0], Origin()
        else:
            path = models.find(network_file)
            param, locations = read_net(path)
            self.source = Origin(path, locations)
        if deploy and phase is None:
            phase = TEST
        if phase is not None:
            param = graph.with_state(param, phase, 0 if level is None else level, () if stages is None else stages)
        self._build(param, arguments.floating(dtype))
        if weights is not None:
            self.copy_from(weights)
        if deploy:
            self._take_deploy_form(keep)

    @classmethod
    def from_param(cls, param: proto.NetParameter, source: Origin, dtype: DTypeLike = np.float32) -> Net:
        """A net from a definition that holds its own state; ``source`` says where it came from."""
        net = cls.__new__(cls)
        net.source = source
        net._build(param, arguments.floating(dtype))
        return net

    # --- construction --------------------------------------------------------------------------------------------

    def _build(self, param: proto.NetParameter, dtype: np.dtype) -> None:
        backend.current().begin()
        self.dtype = dtype
        self.phase = param.state.phase
        filtered = graph.filter_net(param, self.source)
        _log.info("Initializing net from parameters: \n%s", filtered)
        graph.warn_of_edge_losses(filtered)
        definition = graph.insert_splits(align_crops(filtered, self.source), self.source)
        self.name = definition.name
        self._definition = param
        built = Assembly(definition, self.source, dtype)
        self.steps, self.learnable = built.steps, built.learnable
        self.inputs, self.outputs = built.inputs, built.outputs
        self._blob_list = built.blobs
        self.blobs: Named[Blob] = Named(built.blobs, "blob")
        self.forward_only = self.deployed = False
        self._warned_of_gradients = False
        self.blob_loss_weights = OrderedDict((name, built.loss_weights[name]) for name in self.blobs)
        layers = [step.layer for step in self.steps]
        self.layers: list[Any] = [layer.unwrapped for layer in layers]
        """As pycaffe shows them: the layers, and in the place of each Python layer the object of the user's class."""
        self.layer_dict: Named[Any] = Named(((layer.name, layer.unwrapped) for layer in layers), "layer")
        self.params = ParamsByLayer({layer.name: layer.blobs for layer in layers if layer.blobs})
        self.top_names = Named(((s.layer.name, self._names(s.top_ids)) for s in self.steps), "layer")
        self.bottom_names = Named(((s.layer.name, self._names(s.bottom_ids)) for s in self.steps), "layer")
        self._params = Params(self.learnable, layers, dtype)
        self._executor: Executor = Executor(self.steps, self._blob_names, self._params, dtype)
        usage.account_for(self, Net._memory_on)
        self.debug_info = param.debug_info
        _log.info("Network initialization done.")

    def __repr__(self) -> str:
        ends = " -> ".join(
            ", ".join(f"{name} {'x'.join(map(str, self.blobs[name].shape)) or 'scalar'}" for name in names)
            for names in (self.inputs, self.outputs)
            if names
        )
        phase = proto.Phase.Name(self.phase)
        params = sum(param.blob.count for param in self.learnable)
        return f"<{type(self).__name__} '{self.name}' {phase}: {len(self.steps)} layers, {params:,} params, {ends}>"

    def __reduce__(self) -> NoReturn:
        """A net is neither copied nor pickled."""
        raise NetError(
            f"net '{self.name}' cannot be copied or pickled: make another Net of its file, and let that copy_from or "
            "share_with this one"
        )

    def _memory_on(self, where: backend.Backend) -> list[usage.Part]:
        """What the net holds on a backend."""
        name = f"{proto.Phase.Name(self.phase)} net '{self.name}'"
        layers = list({id(step.layer): step.layer for step in (*self.steps, *self._executor.steps)}.values())
        params = [blob for layer in layers for blob in layer.blobs]
        kept = [blob for step in self.steps for _, blob in step.kept]
        return [
            (f"{name}: params and their gradients", _bytes_on(where, params)),
            (f"{name}: blobs", _bytes_on(where, [*(blob for _, blob in self._blob_list), *kept])),
            (f"{name}: scratch of its layers", {id(layer): layer.scratch_bytes_on(where) for layer in layers}),
        ]

    # --- memory --------------------------------------------------------------------------------------------------

    def pack_params(self) -> tuple[Storage, Storage]:
        """Move all learnable params into one value and one gradient buffer, and return these; see ``Params.pack``."""
        return self._params.pack()

    def clear_param_diffs(self, lazily: bool = False) -> None:
        """Set the gradient of every learnable param to zero; backward passes add to it.

        ``lazily``, as a solver does before its own backward pass, those of packed params that their layers claim
        (``Layer.claims``) only count as zero: backward overwrites them, and zeros are written only where somebody asks
        for the gradient before.  An array that somebody took from ``Blob.diff`` earlier and kept holds the old numbers
        until then.
        """
        self._params.clear_diffs(lazily)

    def deploy(self, keep: Iterable[str] = ()) -> Net:
        """A net of its own that computes the same in the TEST phase, in less time and memory; its params are copies.

        It runs forward only, all layers at once.  BatchNorm, BN, Scale and Bias layers are folded into the convolutions
        and inner products before them, layers that do nothing are dropped, others work in place, and blobs hand their
        memory on.  Inputs, outputs and the blobs that ``keep`` names hold what they hold in this net, to rounding; all
        others are not there.  ``params``, ``layers`` and weights files stay those of the definition: what is written to
        a param, or set on a layer, counts from the next forward on.

        NetError for a name in ``keep`` that is no blob of the TEST phase.
        """
        net = self._plain_copy()
        net._take_deploy_form(keep)
        return net

    def _plain_copy(self) -> Net:
        """A net of its own, in the TEST phase and not in the deploy form, with copies of the params."""
        net = Net.from_param(self._deploy_definition(), self.source, self.dtype)
        net._take_over(self)
        return net

    # --- running -------------------------------------------------------------------------------------------------

    def run_forward(self, start: int = 0, end: int | None = None) -> None:
        """Run the layers ``start`` to ``end`` (included); their weighted losses add up in ``loss_array``."""
        first, last = self._place(start), len(self.steps) - 1 if end is None else self._place(end)
        if start and self.forward_only:
            raise NetError(f"net '{self.name}' {self._reuses}: it runs from its first layer on")
        if self.deployed and last < len(self.steps) - 1:
            raise NetError(f"net '{self.name}' {self._reuses}: it runs to its last layer")
        self._executor.run_forward(first, last)

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """Run the layers ``start`` down to ``end`` (included) backward, those that need it."""
        self._require_backward()
        first = len(self.steps) - 1 if start is None else self._place(start)
        self._executor.run_backward(first, self._place(end))

    def rehearse(self, backward: bool) -> None:
        """Call the ops of a forward pass, and of a backward pass, where kernels are noted instead of run."""
        self._executor.rehearse(0, len(self.steps) - 1, backward)

    def _place(self, layer: int) -> int:
        """The number of a layer; NetError if the net has none of that number."""
        number = arguments.whole(layer, "the number of a layer", NetError)
        if not 0 <= number < max(len(self.steps), 1):
            raise NetError(f"net '{self.name}' has {len(self.steps)} layers, numbered from 0; found {number}")
        return number

    def forward_backward(self, loss_scale: Storage | None = None, keep: Callable[[Any], None] | None = None) -> None:
        """``run_forward`` and ``run_backward`` over all layers, without a pause between the two where nobody
        looks on.

        Gradients are the first number of ``loss_scale``, float64, times as large as they should be.  ``keep``, the same
        function each time, is given ``loss_array`` at the end; what it does to it by ops is replayed with the rest.
        """
        self._require_backward()
        self._executor.forward_backward(loss_scale, keep)

    def scaled_losses(self, loss_scale: Storage | None) -> contextlib.AbstractContextManager[None]:
        """Around ``run_backward``: the loss weights, which it begins with, are times the first number of
        ``loss_scale``.
        """
        return self._executor.scaled_losses(loss_scale)

    def backward_layer(self, index: int) -> None:
        """Run one layer backward; LayerError if a bottom is to get a gradient that its layer cannot give."""
        self._executor.backward_layer(index)

    def _require_backward(self) -> None:
        if self.forward_only:
            raise NetError(f"net '{self.name}' {self._reuses}: it cannot run backward")

    @property
    def precision(self) -> str:
        """What the factors of matrix products and convolutions are rounded to on a GPU: "fp32", "fp16" or "bf16".

        The blobs between layers that take them so are kept in these 16 bits there; ``data`` and ``diff`` show them as
        float32.  Sums, params, inputs, outputs and losses stay float32.  ArgumentError for any other, or if the net is
        of float64.
        """
        return self._executor.precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self._executor.precision = precisions.checked(precision, self.dtype)

    @property
    def debug_info(self) -> bool:
        """Whether each layer logs the mean magnitude of what it makes."""
        return self._executor.debug_info

    @debug_info.setter
    def debug_info(self, on: bool) -> None:
        self._executor.debug_info = on

    @property
    def detect_anomaly(self) -> bool:
        """Whether a pass ends with an AnomalyError that names the first layer whose output or gradient is not finite.

        Layers then run one by one, and each waits for the device.
        """
        return self._executor.detect_anomaly

    @detect_anomaly.setter
    def detect_anomaly(self, on: bool) -> None:
        self._executor.detect_anomaly = on

    @property
    def loss_array(self) -> Any:
        """The weighted loss of the last ``run_forward``, a scalar array of the current backend."""
        return self._executor.loss.xdata

    @property
    def loss(self) -> float:
        """The weighted loss of the last ``run_forward``; waits for the device."""
        backend.current().run_checks()
        return float(self._executor.loss.peek_data())

    def first_non_finite(self) -> str:
        """Where the first param or blob stands that is not finite, in words to end a message with; "" if all are."""
        return anomaly.first_non_finite(self.steps, self._blob_names)

    def reshape(self) -> None:
        """Give every blob the shape that follows from the inputs' shapes, without computing."""
        self._executor.reshape()

    # --- callbacks -----------------------------------------------------------------------------------------------

    def before_forward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` before each layer's forward."""
        self._call_back("before_forward", call)

    def after_forward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` after each layer's forward."""
        self._call_back("after_forward", call)

    def before_backward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` before each layer's backward."""
        self._call_back("before_backward", call)

    def after_backward(self, call: Callable[[int], Any]) -> None:
        """Call ``call(layer index)`` after each layer's backward."""
        self._call_back("after_backward", call)

    def _call_back(self, when: str, call: Callable[[int], Any]) -> None:
        if not callable(call):
            raise NetError(f"net '{self.name}': {when} takes a function of the layer's number; found {call!r}")
        self._executor.callbacks[when].append(call)

    # --- weights and state ---------------------------------------------------------------------------------------

    def copy_from(
        self,
        path: str | os.PathLike,
        strict: bool = False,
        ignore: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> Report:
        """Load weights by layer name from a .caffemodel or .h5 file; see ``weights.copy``, and ``Matching`` for how
        layers are left alone (``ignore``), renamed, or all insisted on (``strict``).

        The report is, as text, a table of what was copied and what not.
        """
        ignored = arguments.names(ignore, "layers to ignore")
        return weights.copy(self, path, Matching(strict, tuple(ignored), {} if rename is None else rename))

    def share_with(self, other: Net) -> None:
        """Use the other net's weights, by layer name, from now on (values only, not gradients)."""
        if not isinstance(other, Net):
            raise NetError(f"net '{self.name}': share_with takes another net; found {other!r:.80}")
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
        return weights.to_proto(self, write_diff)

    def state(self) -> dict[str, Any]:
        """Where each data layer stands, by layer name, for a snapshot."""
        states = ((step.layer.name, step.layer.state()) for step in self.steps)
        return {name: state for name, state in states if state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the data layers back to a ``state``."""
        for step in self.steps:
            if step.layer.name in state:
                step.layer.restore(state[step.layer.name])

    def draw_anew(self) -> None:
        """Let data layers draw other random numbers than those that their states would go on with; the order of records
        stays.
        """
        for step in self.steps:
            step.layer.draw_anew()

    def close(self) -> None:
        """Close files and stop threads of the data layers."""
        for step in self.steps:
            step.layer.close()

    def _forward(self, start: int, end: int) -> float:
        self.run_forward(start, end)
        return self.loss

    def _backward(self, start: int, end: int) -> None:
        self.run_backward(start, end)


def _bytes_on(where: backend.Backend, blobs: Iterable[Blob]) -> dict[int, int]:
    """Bytes on a backend of each piece of memory that holds values or gradients of these blobs."""
    storages = (storage for blob in blobs for storage in (blob.data_storage, blob.diff_storage))
    return {id(storage): storage.bytes_on(where) for storage in storages}
