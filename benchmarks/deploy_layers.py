"""The layers of the deployed nets one by one, beside their floors: where the next gap is.

What is timed are the kernels that a replayed pass of the deploy form launches for a layer, without Python, and with
them those of the layers that run as one with it: with ``--threads 1``, what they cost one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

from benchmarks import deploy_nets
from benchmarks.deploy_nets import NETS
from benchmarks.harness import Case, Work
from minicaffe import summary
from minicaffe.engine.deploy import Part

BATCHES = (1, 16)
"""As many as tell the two cases apart: a few pixels for all threads, and plenty for each."""


@lru_cache(maxsize=1)  # all of a net's layers come in a row
def _parts(name: str, batch: int) -> dict[str, Part]:
    """The parts of a deployed net's pass, by the names of their first layers; they keep what they work on."""
    net = deploy_nets.random_net(NETS[name].definition(batch)).deploy()
    net.run_forward()
    return {part.steps[0].layer.name: part for part in net.run_apart()}


def _build(parts: Callable[[], dict[str, Part]], layer: str) -> Work:
    """The work of the part that a layer begins; none if it is done with another's, or not at all."""
    part = parts().get(layer)
    if part is None or part.idle:
        return Work({})
    cost = summary.joint_cost(part.steps)
    return Work({"minicaffe": part.run}, cost.products, cost.bytes)


def cases(threads: int) -> Iterator[Case]:
    """A case for each layer that may cost something; its bottoms are in the caches, where they fit."""
    for name, deployed in NETS.items():
        for batch in BATCHES:
            for layer in deployed.definition(batch).layer:
                if layer.bottom and layer.type not in ("Dropout", "Split"):
                    made = partial(_parts, name, batch)
                    yield Case("deploy_layers", f"{name}_b{batch}/{layer.name}", partial(_build, made, layer.name))
