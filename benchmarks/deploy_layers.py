"""The layers of the deployed nets one by one, beside their floors: where the next gap is.

They are those of the plain net: what the deploy form does in one pass over memory counts apart here, and each layer is
a call of its own, which takes some 20 us of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

from benchmarks import deploy_nets
from benchmarks.deploy_nets import NETS
from benchmarks.harness import Case, Work
from minicaffe import Net, summary

BATCHES = (1, 16)
"""As many as tell the two cases apart: a few pixels for all threads, and plenty for each."""


@lru_cache(maxsize=1)  # all of a net's layers come in a row
def _net(name: str, batch: int) -> Net:
    net = deploy_nets.random_net(NETS[name].definition(batch))
    net.run_forward()
    return net


def _build(net: Callable[[], Net], layer: str) -> Work:
    made = net()
    index = made.layer_index(layer)
    cost = summary.forward_cost(made.steps[index])
    return Work({"minicaffe": lambda: made.run_forward(index, index)}, cost.products, cost.bytes)


def cases(threads: int) -> Iterator[Case]:
    """A case for each layer that costs something; its bottoms are in the caches, where they fit."""
    for name, deployed in NETS.items():
        for batch in BATCHES:
            for layer in deployed.definition(batch).layer:
                if layer.bottom and layer.type not in ("Dropout", "Split"):
                    made = partial(_net, name, batch)
                    yield Case("deploy_layers", f"{name}_b{batch}/{layer.name}", partial(_build, made, layer.name))
