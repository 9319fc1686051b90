"""What a net costs: shapes, params, FLOPs, traffic and memory, layer by layer, from what the layers declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minicaffe import arguments, graph, proto
from minicaffe.blob import Blob
from minicaffe.engine import memory_plan
from minicaffe.engine.assembly import Step
from minicaffe.layers.cost import Cost
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin
from minicaffe.storage import Storage


def forward_cost(step: Step) -> Cost:
    """What a layer's forward takes."""
    return step.layer.forward_cost(step.bottom, step.top)


def joint_cost(steps: Sequence[Step]) -> Cost:
    """What the forward of several steps takes that run as one: without the traffic of blobs in between."""
    made: set[int] = set()
    between = 0
    for step in steps:
        between += 2 * sum(blob.count * blob.dtype.itemsize for blob in step.bottom if id(blob) in made)
        made.update(map(id, step.top))
    total = _total(map(forward_cost, steps))
    return total._replace(bytes=max(total.bytes - between, 0.0))


def backward_cost(step: Step) -> Cost:
    """What a layer's backward takes while training; nothing where no gradient is needed."""
    return step.layer.backward_cost(step.bottom, step.top, step.propagate_down) if step.need_backward else Cost()


def forward_total(net: Net) -> Cost:
    """What a forward pass takes."""
    return _total(forward_cost(step) for step in _steps(net))


def training_cost(net: Net) -> Cost:
    """Forward, backward, and an update that reads and writes each weight, its gradient and one history (SGD with
    momentum).
    """
    steps = _steps(net)
    update = Cost(bytes=6.0 * _learnable_bytes(net))
    return _total([forward_total(net), *map(backward_cost, steps), update])


def _steps(net: Net) -> Sequence[Step]:
    """The layers; ArgumentTypeError for what is no net."""
    return arguments.instance(net, Net, "a summary", "a Net (load makes that of a prototxt)").steps


@dataclass(frozen=True)
class LayerSummary:
    """One layer: its tops' shapes, its own params, and what its passes take."""

    name: str
    type: str
    tops: list[tuple[int, ...]]
    params: int
    forward: Cost
    backward: Cost


@dataclass(frozen=True)
class Memory:
    """Bytes that a net needs, apart from its data layers' batches and from a solver's history.

    ``blobs`` and ``blob_gradients`` are those of all layers; ``planned_blobs`` is what ``Net.reuse_memory`` leaves of
    the former.  ``scratch`` is what layers keep from call to call, ``workspace`` what they share.
    """

    params: int
    param_gradients: int
    blobs: int
    blob_gradients: int
    scratch: int
    workspace: int
    planned_blobs: int

    @property
    def training(self) -> int:
        """The peak of forward and backward."""
        return self.inference + self.param_gradients + self.blob_gradients

    @property
    def inference(self) -> int:
        """The peak of forward alone, with every blob kept."""
        return self.params + self.blobs + self.scratch + self.workspace

    @property
    def planned_inference(self) -> int:
        """The peak of forward alone, with memory reused."""
        return self.inference - self.blobs + self.planned_blobs


@dataclass(frozen=True)
class Summary:
    """A net: its layers, and what they sum up to.

    ``images`` is the size of the first blob's first axis; ``params`` counts shared ones once.
    """

    name: str
    phase: str
    images: int
    params: int
    layers: list[LayerSummary]
    memory: Memory

    @property
    def forward(self) -> Cost:
        """What forward takes."""
        return _total(layer.forward for layer in self.layers)

    @property
    def backward(self) -> Cost:
        """What backward takes while training."""
        return _total(layer.backward for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Everything as dicts, lists and numbers."""
        memory = {
            **asdict(self.memory),
            **{peak: getattr(self.memory, peak) for peak in ("training", "inference", "planned_inference")},
        }
        return {
            "name": self.name,
            "phase": self.phase,
            "images": self.images,
            "params": self.params,
            "forward": self.forward._asdict(),
            "backward": self.backward._asdict(),
            "memory_bytes": memory,
            "layers": [
                {**vars(layer), "forward": layer.forward._asdict(), "backward": layer.backward._asdict()}
                for layer in self.layers
            ],
        }


def summarize(net: Net) -> Summary:
    """The summary of a net as it is now."""
    layers = [
        LayerSummary(
            name=step.layer.name,
            type=step.layer.type,
            tops=[blob.shape for blob in step.top],
            params=sum(blob.count for blob in step.layer.blobs),
            forward=forward_cost(step),
            backward=backward_cost(step),
        )
        for step in _steps(net)
    ]
    first = net._blobs[0].shape if net._blobs else ()
    return Summary(
        name=net.name,
        phase=proto.Phase.Name(net.phase),
        images=first[0] if first else 1,
        params=sum(param.blob.count for param in net.learnable),
        layers=layers,
        memory=memory(net),
    )


def memory(net: Net) -> Memory:
    """The memory of a net: storages that several blobs share count once."""
    steps = _steps(net)
    blobs = net._blobs
    places, arena = ([], 0) if net.forward_only else memory_plan.plan(steps, net._blob_list, net.outputs)
    given_up = _bytes(place.blob.data_storage for place in places)
    stored = _bytes(blob.data_storage for blob in blobs)
    itemsize = net.dtype.itemsize
    return Memory(
        params=_learnable_bytes(net),
        param_gradients=sum(param.blob.count * itemsize for param in net.learnable if _learns(steps, param.users)),
        blobs=stored,
        blob_gradients=_bytes(blob.diff_storage for blob in _with_gradient(steps)),
        scratch=sum(step.layer.scratch_bytes for step in steps)
        + _bytes(copy.data_storage for step in steps for _, copy in step.kept),
        workspace=max((_workspace_size(step) for step in steps), default=0) * itemsize,
        planned_blobs=stored - given_up + arena * itemsize,
    )


def _workspace_size(step: Step) -> int:
    """Elements of the shared workspace that the layer needs in the directions that it runs in."""
    return max(step.layer.workspace_size(backward) for backward in {False, step.need_backward})


def _with_gradient(steps: Sequence[Step]) -> list[Blob]:
    """The blobs whose gradients backward reads or writes."""
    found = []
    for step in steps:
        if step.need_backward:
            found += step.top + [blob for blob, down in zip(step.bottom, step.propagate_down, strict=True) if down]
    return found


def _learns(steps: Sequence[Step], users: Sequence[tuple[int, int]]) -> bool:
    """Whether backward makes the gradient of a param, given the layers (and which of their params) that use it."""
    return any(steps[i].need_backward and steps[i].layer.param_propagate_down[j] for i, j in users)


def _learnable_bytes(net: Net) -> int:
    return sum(param.blob.count for param in net.learnable) * net.dtype.itemsize


def _bytes(storages: Iterable[Storage]) -> int:
    """Bytes of storages, each counted once."""
    return sum({id(storage): storage.nbytes for storage in storages}.values())


def _total(costs: Iterable[Cost]) -> Cost:
    total = Cost()
    for cost in costs:
        total = total.plus(cost)
    return total


def load(
    path: str, phase: int, level: int = 0, stages: Sequence[str] = (), shapes: Mapping[str, Sequence[int]] | None = None
) -> Net:
    """The net of a prototxt, to be looked at, not run: its weights are zeros, so that it is made quickly.

    ``shapes`` are those of inputs that stand for the data layers' tops; see ``graph.with_inputs``.  Raises what Net and
    that raise.
    """
    definition, locations = read_net(path)
    source = Origin(path, locations)
    filtered = graph.filter_net(graph.with_state(definition, phase, level, stages), source)
    return Net.from_param(graph.without_fillers(graph.with_inputs(filtered, shapes or {})), source)
