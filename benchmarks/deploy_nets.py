"""Nets as they are deployed, with weights and inputs from fixed seeds, written to a folder for every engine to load."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.engines import INPUTS, NET, ONNX, PLAN, WEIGHTS
from minicaffe import TEST, Net, graph, models, proto
from minicaffe.compat import have
from minicaffe.errors import MinicaffeError
from minicaffe.onnx import export_onnx
from minicaffe.proto.files import read_net

REGIONS = 64
"""Regions of an image for the detector's head."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Deployed:
    """A net to run forward: its prototxt, the shapes of its inputs for one image, and which outputs are wanted, unless
    all of its own.
    """

    model: str
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...] = ()

    def definition(self, batch: int) -> proto.NetParameter:
        """The TEST phase for ``batch`` images, with only the layers that the outputs need."""
        path = self.model if (_HERE / self.model).is_file() else models.find(self.model)
        given = read_net(_HERE / path)[0]
        shapes = {name: (batch * rows, *shape) for name, (rows, *shape) in self.inputs.items()}
        net = graph.with_inputs(graph.filter_net(graph.with_state(given, TEST)), shapes)
        return _leading_to(net, self.outputs) if self.outputs else net


_IMAGENET = {"data": (1, 3, 224, 224)}
NETS = {
    "lenet": Deployed("lenet/lenet.prototxt", {"data": (1, 1, 28, 28)}),
    "squeezenet": Deployed("squeezenet/deploy.prototxt", {"data": (1, 3, 227, 227)}),
    "mobilenet": Deployed("mobilenet/deploy.prototxt", _IMAGENET),
    "googlenet": Deployed("googlenet/deploy.prototxt", _IMAGENET),
    "caffenet": Deployed("caffenet/deploy.prototxt", {"data": (1, 3, 227, 227)}),
    "resnet50": Deployed("resnet50/deploy.prototxt", _IMAGENET),
    "vgg16": Deployed("vgg16/deploy.prototxt", _IMAGENET),
    # without its last step: how much there is to suppress depends on what was trained
    "ssd": Deployed("ssd/deploy.prototxt", {"image": (1, 1, 96, 96)}, ("loc", "conf_found")),
    "faster_rcnn_head": Deployed("faster_rcnn_head.prototxt", {"conv5": (1, 256, 38, 50), "rois": (REGIONS, 5)}),
}


def _leading_to(net: proto.NetParameter, outputs: Sequence[str]) -> proto.NetParameter:
    """The layers that these blobs need."""
    needed, kept = set(outputs), []
    for layer in reversed(net.layer):
        if needed & set(layer.top):
            needed |= set(layer.bottom)
            kept.append(layer)
    result = proto.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    result.layer.extend(reversed(kept))
    return result


def random_net(definition: proto.NetParameter) -> Net:
    """The net with random weights, statistics and inputs that keep the size of what passes through."""
    net = Net(definition, TEST)
    rng = np.random.default_rng(1)
    for layer in (layer for layer in net.layers if layer.blobs):
        for blob, values in zip(layer.blobs, _weights(rng, layer), strict=True):
            blob.data[...] = values
    for name in net.inputs:
        blob = net.blobs[name]
        blob.data[...] = _regions(rng, len(blob.data)) if name == "rois" else rng.random(blob.shape, np.float32)
    return net


def _weights(rng: np.random.Generator, layer: Any) -> list[np.ndarray]:
    """Values of a layer's params."""
    shapes = [blob.shape for blob in layer.blobs]
    if layer.type == "BatchNorm":
        mean, variance, factor = shapes
        return [rng.normal(0, 0.1, mean), rng.uniform(0.5, 1.5, variance), np.ones(factor)]
    if layer.type in ("Scale", "Normalize"):
        return [rng.uniform(0.5, 1.0, shapes[0]), *(rng.normal(0, 0.1, shape) for shape in shapes[1:])]
    weights, *bias = shapes
    spread = np.sqrt(2 / np.prod(weights[1:]))
    return [rng.standard_normal(weights, np.float32) * spread, *(rng.normal(0, 0.1, shape) for shape in bias)]


def _regions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Regions of images of 800 x 608 pixels, equally many of each, 60 to 400 pixels wide and high."""
    size = rng.uniform(60, 400, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([799, 607]) - size)
    image = np.arange(count) // REGIONS
    return np.column_stack([image, corner, corner + size]).astype(np.float32)


def write(definition: proto.NetParameter, folder: Path) -> None:
    """Write the net in every engine's format, and its inputs."""
    net = random_net(definition)
    (folder / NET).write_text(str(definition))
    net.save(folder / WEIGHTS)
    np.savez(folder / INPUTS, **{name: net.blobs[name].data for name in net.inputs})
    if have("onnx"):
        _write_onnx(net, folder / ONNX)
    if peers.torch():
        _write_plan(net, folder / PLAN)


def _write_onnx(net: Net, path: Path) -> None:
    """The exported model, its batch fixed to the net's, which lets engines plan ahead."""
    model = export_onnx(net).model
    for value in (*model.graph.input, *model.graph.output):
        for dim, size in zip(value.type.tensor_type.shape.dim, net.blobs[value.name].shape, strict=True):
            dim.dim_value = size
    path.write_bytes(model.SerializeToString())


def _write_plan(net: Net, path: Path) -> None:
    """PyTorch's plan; no file if PyTorch lacks a layer's counterpart."""
    from benchmarks.torch_net import translate

    with contextlib.suppress(MinicaffeError):
        path.write_bytes(pickle.dumps(translate(net), protocol=5))
