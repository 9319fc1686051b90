"""A minicaffe net in PyTorch, as ``minicaffe.pytorch`` exports it, with its weights, inputs and rates of learning.

``translate`` gives plain data that can be pickled, so that a child process can run the net without minicaffe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray


@dataclass
class Plan:
    """A whole net: the source of its module and the name of its class, the module's state, and its inputs by name.

    ``params`` are keys of the state with the multipliers of each param's rate and decay, in the order of the net's
    learnable params; ``losses`` are the weights of those outputs that are losses.
    """

    name: str
    source: str
    state: dict[str, NDArray]
    inputs: dict[str, NDArray]
    params: list[tuple[str, float, float]]
    losses: dict[str, float]
    training: bool


def translate(net: Any) -> Plan:
    """The plan of a minicaffe Net, with copies of its weights and inputs as they are now; params stay shared.

    Raises MinicaffeError for a layer type without a counterpart.
    """
    from minicaffe.pytorch.export import source_of

    made = source_of(net)
    learned = [(key, p.lr_mult, p.decay_mult) for key, p in zip(made.keys, net.learnable, strict=True)]
    return Plan(
        name=made.name,
        source=made.text,
        state=made.state,
        inputs={name: net.blobs[name].data.copy() for name in made.inputs},
        params=[(key, rate, decay) for key, rate, decay in learned if key is not None],
        losses=made.losses,
        training=made.training,
    )


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
    """A plan as a PyTorch module and its inputs, on a device of PyTorch's."""

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        self.plan = plan
        space: dict[str, Any] = {}
        exec(plan.source, space)
        self.module = space[plan.name]().train(plan.training)
        self.module.load_state_dict({key: torch.from_numpy(values) for key, values in plan.state.items()})
        self.module.to(device)
        self.inputs = {name: torch.from_numpy(values).to(device) for name, values in plan.inputs.items()}
        params = self.module.state_dict(keep_vars=True)
        self.params = [params[key] for key, _, _ in plan.params]
        self._optimizer: Any = None

    def use_doubles(self) -> None:
        """Compute in float64 from now on; before ``optimize`` or after."""
        self.module.double()
        self.inputs = {name: values.double() for name, values in self.inputs.items()}

    def state(self) -> dict[str, NDArray]:
        """Params and statistics as they are now, by key."""
        return {key: values.cpu().numpy() for key, values in self.module.state_dict().items()}

    def forward(self) -> dict[str, Any]:
        """All outputs by name."""
        return self.module(*self.inputs.values())

    def loss(self) -> Any:
        """Forward, and the sum of the losses, a scalar tensor."""
        outputs = self.forward()
        return sum(
            outputs[name] if weight == 1 else weight * outputs[name] for name, weight in self.plan.losses.items()
        )

    def infer(self) -> None:
        """Forward alone, without keeping what a backward would need."""
        with torch.no_grad():
            self.forward()

    def optimize(self, rate: float, momentum: float, decay: float) -> None:
        """Use SGD with momentum, with each param's own multipliers, in the following steps."""
        groups: dict[tuple[float, float], list] = {}
        for param, (_, rate_mult, decay_mult) in zip(self.params, self.plan.params, strict=True):
            if param.requires_grad:
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
