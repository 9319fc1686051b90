"""Whole nets, on a batch that is in memory: a training iteration (forward, backward, SGD with momentum), and forward
alone.

To add a net, add its line to ``NETS``: PyTorch's side is made from the net's own layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import isa, peers
from benchmarks.harness import Case, Probe, Work
from benchmarks.machine import child_environment
from minicaffe import graph, models, proto, solvers, summary
from minicaffe.proto import text
from minicaffe.proto.files import read_net

SOLVER = (
    'base_lr: 0.001 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" random_seed: 1 snapshot_prefix: "benchmark"'
)

_ROUNDINGS = 5
"""Times the distance of PyTorch's float32 from float64, over all params, that one param may be away."""


@dataclass(frozen=True)
class Definition:
    """A shipped prototxt, whose data layers are replaced by ``inputs``; one axis: labels 0 .. ``labels`` - 1."""

    model: str
    inputs: dict[str, tuple[int, ...]]
    labels: int
    rounding_grows: bool = False
    """Whether gradients of float32 are right to percents only, as in a deep net on random images, where ReLUs open and
    close by rounding: losses then agree with PyTorch's for no more than a step.
    """

    def net_param(self) -> proto.NetParameter:
        """The definition with Input layers."""
        return graph.with_inputs(read_net(models.find(self.model))[0], self.inputs)


NETS = {
    "siamese_mnist_b64": Definition(
        "siamese/mnist_siamese_train_test.prototxt", {"pair_data": (64, 2, 28, 28), "sim": (64,)}, 2
    ),
    "lenet_b64": Definition("lenet/lenet_train_test.prototxt", {"data": (64, 1, 28, 28), "label": (64,)}, 10),
    "cifar10_full_b100": Definition(
        "cifar10/cifar10_full_train_test.prototxt", {"data": (100, 3, 32, 32), "label": (100,)}, 10
    ),
    "caffenet_b16": Definition("caffenet/train_val.prototxt", {"data": (16, 3, 227, 227), "label": (16,)}, 1000),
    "resnet50_b8": Definition(
        "resnet50/train_val.prototxt", {"data": (8, 3, 224, 224), "label": (8,)}, 1000, rounding_grows=True
    ),
    "mobilenet_b8": Definition("mobilenet/train_val.prototxt", {"data": (8, 3, 224, 224), "label": (8,)}, 1000),
    "googlenet_b8": Definition("googlenet/train_val.prototxt", {"data": (8, 3, 224, 224), "label": (8,)}, 1000),
    "vgg16_b4": Definition("vgg16/train_val.prototxt", {"data": (4, 3, 224, 224), "label": (4,)}, 1000),
}


def solver(definition: Definition) -> solvers.Solver:
    """An SGD solver of the net, its weights drawn and its inputs filled from fixed seeds."""
    param = text.parse(SOLVER, proto.SolverParameter())
    param.net_param.CopyFrom(definition.net_param())
    made = solvers.create(param)
    rng = np.random.default_rng(1)
    for name in made.net.inputs:
        values = made.net.blobs[name].data
        if values.ndim == 1:
            values[:] = rng.integers(definition.labels, size=values.shape)
        else:
            values[:] = rng.random(values.shape, np.float32)
    return made


def torch_net(made: solvers.Solver, device: str = "cpu") -> Any:
    """The same net, weights, inputs and optimizer in PyTorch, on one of its devices."""
    from benchmarks.torch_net import TorchNet, translate

    net = TorchNet(translate(made.net), device)
    net.optimize(made.param.base_lr, made.param.momentum, made.param.weight_decay)
    return net


def _build(definition: Definition, threads: int) -> Work:
    made = solver(definition)
    cost = summary.training_cost(made.net)
    work = Work({"minicaffe": partial(made.step, 1)}, cost.products, cost.bytes)
    if peers.torch():
        work.run["torch"] = torch_net(made).step
        work.verify = partial(same_training, definition, made)
    time_caffe = partial(peers.caffe_time, made.param.net_param, child_environment(threads))
    if peers.have_caffe() and isa.runs("caffe"):
        work.run["caffe"] = Probe(time_caffe)
    return work


def _build_forward(definition: Definition, threads: int) -> Work:
    made = solver(definition)
    cost = summary.forward_total(made.net)
    work = Work({"minicaffe": made.net.run_forward}, cost.products, cost.bytes)
    if peers.torch():
        work.run["torch"] = torch_net(made).infer
    return work


def same_training(definition: Definition, made: solvers.Solver, device: str = "cpu") -> None:
    """Train a net beside PyTorch, and compare what tells whether both do the same; Disagreement if not."""
    if definition.rounding_grows:
        same_changes(made, device)
    else:
        same_losses(made, 3, device)


def same_losses(made: solvers.Solver, steps: int, device: str = "cpu") -> None:
    """Train a few steps beside PyTorch: the losses agree, so gradients and updates do too; Disagreement if not."""
    from benchmarks.torch_net import without_dropout

    with without_dropout(made.net):
        peer = torch_net(made, device)
        for step in range(steps):
            made.step(1)
            peers.agree(made.net.loss, float(peer.step()), f"loss of step {step}")


def same_changes(made: solvers.Solver, device: str = "cpu") -> None:
    """Train the first step beside PyTorch in float32 and in float64: the losses agree, and each param changes as in
    float64, to a few times what rounding does to PyTorch's; Disagreement if not.
    """
    from benchmarks.torch_net import translate, without_dropout

    with without_dropout(made.net):
        before = translate(made.net).state
        single, double = torch_net(made, device), torch_net(made, device)
        double.use_doubles()
        losses = [float(peer.step()) for peer in (single, double)]
        made.step(1)
        after = translate(made.net).state
    peers.agree(made.net.loss, losses[1], "loss of step 0")
    keys = [key for key, _, _ in single.plan.params]
    found, rounded, exact = (
        {key: (state[key] - before[key].astype(np.float64)).ravel() for key in keys}
        for state in (after, single.state(), double.state())
    )
    rounding = peers.distance(*(np.concatenate([*changes.values()]) for changes in (rounded, exact)))
    for key in keys:
        peers.near(found[key], exact[key], max(_ROUNDINGS * rounding, 1e-3), f"change of {key}")


def cases(threads: int) -> Iterator[Case]:
    """Two cases a net."""
    for name, definition in NETS.items():
        yield Case("nets", name, partial(_build, definition, threads))
        yield Case("nets", f"{name}/forward", partial(_build_forward, definition, threads))
