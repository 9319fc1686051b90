"""Single layers as a net runs them, forward and backward apart."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers
from benchmarks.harness import Case, Work
from minicaffe import Net, proto, summary
from minicaffe.proto import text

_GAUSSIAN = 'weight_filler { type: "gaussian" std: 0.05 }'


class Single(NamedTuple):
    """A layer's type and options, the shapes of its bottoms, and how many labels a last bottom of one axis takes."""

    type: str
    options: str
    bottoms: tuple[tuple[int, ...], ...]
    labels: int = 0


LAYERS = {
    "lenet_conv1": Single(
        "Convolution", f"convolution_param {{ num_output: 20 kernel_size: 5 {_GAUSSIAN} }}", ((64, 1, 28, 28),)
    ),
    "lenet_conv2": Single(
        "Convolution", f"convolution_param {{ num_output: 50 kernel_size: 5 {_GAUSSIAN} }}", ((64, 20, 12, 12),)
    ),
    "resnet_3x3": Single(
        "Convolution", f"convolution_param {{ num_output: 64 kernel_size: 3 pad: 1 {_GAUSSIAN} }}", ((8, 64, 56, 56),)
    ),
    "lenet_pool1": Single("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", ((64, 20, 24, 24),)),
    "cifar_pool2": Single("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }", ((100, 32, 16, 16),)),
    "lenet_ip1": Single("InnerProduct", f"inner_product_param {{ num_output: 500 {_GAUSSIAN} }}", ((64, 50, 4, 4),)),
    "relu": Single("ReLU", "", ((64, 64, 32, 32),)),
    "sigmoid": Single("Sigmoid", "", ((64, 64, 32, 32),)),
    "dropout": Single("Dropout", "", ((64, 64, 32, 32),)),
    "tanh": Single("TanH", "", ((64, 64, 32, 32),)),
    "softmax": Single("Softmax", "", ((64, 1000),)),
    "concat": Single("Concat", "", ((64, 32, 16, 16), (64, 64, 16, 16))),
    "slice": Single("Slice", "slice_param { slice_point: 1 }", ((64, 2, 28, 28),)),
    "softmax_loss": Single("SoftmaxWithLoss", "", ((64, 1000), (64,)), labels=1000),
    "euclidean_loss": Single("EuclideanLoss", "", ((64, 1000), (64, 1000))),
    "contrastive_loss": Single("ContrastiveLoss", "", ((64, 2), (64, 2), (64,)), labels=2),
    "batch_norm": Single("BatchNorm", "", ((64, 32, 32, 32),)),
    "scale": Single("Scale", "scale_param { bias_term: true }", ((64, 32, 32, 32),)),
    "eltwise_sum": Single("Eltwise", "", ((64, 32, 32, 32), (64, 32, 32, 32))),
    "lrn_across": Single("LRN", "", ((16, 96, 27, 27),)),
    "lrn_within": Single("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", ((100, 32, 16, 16),)),
}


def single_net(single: Single) -> Net:
    """A net of that layer on Input layers that hold fixed random numbers; random gradients stand at tops without loss
    weight.
    """
    lines = ["force_backward: true"]
    for i, shape in enumerate(single.bottoms):
        dims = " ".join(f"dim: {size}" for size in shape)
        lines.append(f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}')
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(single.bottoms)))
    tops = 'top: "y0" top: "y1"' if single.type == "Slice" else 'top: "y0"'
    lines.append(f'layer {{ name: "it" type: "{single.type}" {bottoms} {tops} {single.options} }}')
    net = Net(text.parse("\n".join(lines), proto.NetParameter()), proto.TRAIN)
    rng, step = np.random.default_rng(0), net.steps[-1]
    for blob in step.bottom:
        labels = single.labels and blob is step.bottom[-1]
        blob.data[...] = rng.integers(single.labels, size=blob.shape) if labels else rng.standard_normal(blob.shape)
    for blob in step.top:
        if blob not in step.weighted:
            blob.diff[...] = rng.standard_normal(blob.shape)
    return net


class _TorchLayer:
    """The same layer in PyTorch; ``backward`` differentiates the graph that the last ``forward`` made, again
    and again.
    """

    def __init__(self, net: Net) -> None:
        from benchmarks.torch_net import TorchNet, torch, translate

        self._torch, self._net, step = torch, TorchNet(translate(net)), net.steps[-1]
        wanted = [name for name, down in zip(net.inputs, step.propagate_down) if down]
        self._wanted = [self._net.inputs[name].requires_grad_() for name in wanted] + [
            p for p in self._net.params if p.requires_grad
        ]
        self._gradients = [torch.from_numpy(blob.diff.copy()) for blob in step.top]
        self.tops = self.forward()

    def forward(self) -> list[Any]:
        self.tops = list(self._net.forward().values())
        return self.tops

    def backward(self) -> tuple[Any, ...]:
        return self._torch.autograd.grad(self.tops, self._wanted, self._gradients, retain_graph=True)


def _build(single: Single, backward: bool) -> Work:
    net = single_net(single)
    step, index = net.steps[-1], len(net.steps) - 1
    net.run_forward()
    run, cost = (
        (net.run_backward, summary.backward_cost(step)) if backward else (net.run_forward, summary.forward_cost(step))
    )
    work = Work({"minicaffe": lambda: run(index, index)}, cost.products, cost.bytes)
    if peers.torch():
        peer = _TorchLayer(net)
        work.run["torch"] = peer.backward if backward else peer.forward
        work.verify = partial(_same, net)
    return work


def _same(net: Net) -> None:
    """Raise Disagreement unless tops and gradients are PyTorch's."""
    from benchmarks.torch_net import without_dropout

    with without_dropout(net):
        peer = _TorchLayer(net)
        net.run_forward()
        net.clear_param_diffs()
        net.run_backward()
    step = net.steps[-1]
    for blob, top in zip(step.top, peer.forward()):
        peers.agree(blob.data, top.detach(), "top")
    ours = [blob.diff for blob, down in zip(step.bottom, step.propagate_down) if down]
    ours += [param.blob.diff for param in net.learnable if param.lr_mult]
    for found, expected in zip(ours, peer.backward(), strict=True):
        peers.agree(found, expected, "gradient")


def cases(threads: int) -> Iterator[Case]:
    """Two cases a layer."""
    for name, single in LAYERS.items():
        for direction in ("forward", "backward"):
            yield Case("layers", f"{name}/{direction}", partial(_build, single, direction == "backward"))
