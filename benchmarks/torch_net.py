"""A minicaffe net carried over to PyTorch, layer by layer, with its weights and inputs.

``translate`` gives plain data that can be pickled, so that a child process can run the net without minicaffe's engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from benchmarks import torch_layers
from benchmarks.torch_layers import torch
from minicaffe.errors import MinicaffeError


@dataclass
class Call:
    """One layer: its function and the numbers of its bottoms, params and tops."""

    layer: str
    function: Callable[..., Any]
    bottoms: list[int]
    params: list[int]
    tops: list[int]
    shapes: list[tuple[int, ...]]


@dataclass
class Plan:
    """A whole net: its calls in order, its inputs and params by number, which params learn and how fast, its losses."""

    calls: list[Call] = field(default_factory=list)
    inputs: dict[int, NDArray] = field(default_factory=dict)
    params: list[NDArray] = field(default_factory=list)
    learning: list[tuple[bool, float, float]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)


def translate(net: Any) -> Plan:
    """The plan of a minicaffe Net, with copies of its weights and inputs as they are now; params stay shared.

    Raises MinicaffeError for a layer type without a counterpart.
    """
    plan = Plan()
    owners = {user: number for number, param in enumerate(net.learnable) for user in param.users}
    for param in net.learnable:
        learns = param.lr_mult != 0 and any(net.steps[i].layer.param_propagate_down[j] for i, j in param.users)
        plan.params.append(param.blob.data.copy())
        plan.learning.append((learns, param.lr_mult, param.decay_mult))
    for index, step in enumerate(net.steps):
        layer = step.layer
        if layer.type == "Input":
            plan.inputs.update((i, blob.data.copy()) for i, blob in zip(step.top_ids, step.top))
            continue
        if layer.type not in torch_layers.COUNTERPARTS:
            raise MinicaffeError(
                f"layer '{layer.name}': type {layer.type} has no counterpart in benchmarks/torch_layers.py"
            )
        function = torch_layers.COUNTERPARTS[layer.type](layer)
        params = [owners[index, j] for j in range(len(layer.blobs))]
        shapes = [blob.shape for blob in step.top]
        plan.calls.append(Call(layer.name, function, step.bottom_ids, params, step.top_ids, shapes))
        plan.losses += [(i, w) for i, w in zip(step.top_ids, layer.loss_weights) if w]
    return plan


@contextlib.contextmanager
def without_dropout(net: Any) -> Iterator[None]:
    """Let a minicaffe net, and what is translated from it meanwhile, drop nothing: two random masks cannot be
    compared.
    """
    layers = [layer for layer in net.layers if layer.type == "Dropout"]
    ratios = [layer.dropout_ratio for layer in layers]
    for layer in layers:
        layer.dropout_ratio = 0.0
    try:
        yield
    finally:
        for layer, ratio in zip(layers, ratios):
            layer.dropout_ratio = ratio


class TorchNet:
    """A plan as PyTorch tensors and calls, on a device of PyTorch's."""

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        self.plan = plan
        self.inputs = {i: torch.from_numpy(values).to(device) for i, values in plan.inputs.items()}
        self.params: Any = [
            torch.nn.Parameter(torch.from_numpy(values.copy()).to(device), requires_grad=learns)
            for values, (learns, _, _) in zip(plan.params, plan.learning)
        ]
        self._optimizer: Any = None

    def forward(self, check_shapes: bool = False) -> dict[int, Any]:
        """All blobs by number; MinicaffeError if one has another shape than in minicaffe, and ``check_shapes``."""
        values = dict(self.inputs)
        for call in self.plan.calls:
            tops = call.function([values[i] for i in call.bottoms], [self.params[i] for i in call.params])
            values.update(zip(call.tops, tops))
            if check_shapes and [tuple(top.shape) for top in tops] != call.shapes:
                raise MinicaffeError(
                    f"layer '{call.layer}': PyTorch's tops are {[tuple(t.shape) for t in tops]}, not {call.shapes}"
                )
        return values

    def loss(self) -> Any:
        """Forward, and the sum of the losses, a scalar tensor."""
        values = self.forward()
        return sum(values[i] if weight == 1 else weight * values[i] for i, weight in self.plan.losses)

    def infer(self) -> None:
        """Forward alone, without keeping what a backward would need."""
        with torch.no_grad():
            self.forward()

    def optimize(self, rate: float, momentum: float, decay: float) -> None:
        """Use SGD with momentum, with each param's own multipliers, in the following steps."""
        groups: dict[tuple[float, float], list] = {}
        for param, (learns, rate_mult, decay_mult) in zip(self.params, self.plan.learning):
            if learns:
                groups.setdefault((rate_mult, decay_mult), []).append(param)
        settings = [{"params": p, "lr": rate * r, "weight_decay": decay * d} for (r, d), p in groups.items()]
        self._optimizer = torch.optim.SGD(settings, lr=rate, momentum=momentum, fused=True)

    def step(self) -> Any:
        """One iteration: forward, backward, update; returns the loss, a scalar tensor."""
        self._optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self._optimizer.step()
        return loss.detach()
