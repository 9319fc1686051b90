"""Whether weights are a net's own, whole and sound: every layer gets its params, and what the net then computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import arguments, graph, weight_files
from minicaffe.errors import WeightsError
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin
from minicaffe.statistics import Statistics, describe
from minicaffe.weight_files import Stored


def build(
    path: str, phase: int, level: int = 0, stages: Sequence[str] = (), shapes: Mapping[str, Sequence[int]] | None = None
) -> Net:
    """The net of a prototxt; ``shapes`` are those of inputs that stand for the data layers' tops, as in
    ``graph.with_inputs``.  Raises what Net and that raise.
    """
    definition, locations = read_net(path)
    source = Origin(path, locations)
    filtered = graph.filter_net(graph.with_state(definition, phase, level, stages), source)
    return Net.from_param(graph.with_inputs(filtered, shapes or {}), source)


def fill_inputs(net: Net, seed: int = 0) -> None:
    """Noise of mean 0 and deviation 1 for a net's inputs; zeros for those of one axis, which are labels."""
    rng = np.random.default_rng(seed)
    for name in net.inputs:
        blob = net.blobs[name]
        blob.data[...] = rng.standard_normal(blob.shape) if len(blob.shape) > 1 else 0


@dataclass
class Verdict:
    """What was found: ``problems`` that make the weights unfit, the file's layers that the net has no use for, and
    what the outputs hold after a forward pass, which there is only where the weights fit.
    """

    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    params: int = 0
    outputs: dict[str, Statistics] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as dicts, lists and numbers."""
        outputs = {name: found.to_json() for name, found in self.outputs.items()}
        return {"ok": not self.problems, **vars(self), "outputs": outputs}


def verify(net: Net, path: str) -> Verdict:
    """Load the weights of a file into a net, strictly, fill its inputs, and run it forward.

    Strictly: a layer that the file lacks is a problem, where ``Net.copy_from`` lets it keep its initial weights; so is
    a number that is not finite, in the weights or in what the net makes of them.

    Raises WeightsError for a file that is none of weights.
    """
    arguments.instance(net, Net, "verify")
    stored = weight_files.read(path)
    verdict = Verdict(params=sum(param.blob.count for param in net.learnable))
    owners = {net.steps[i].layer.name for param in net.learnable for i, _ in param.users[:1]}
    have = {step.layer.name for step in net.steps if step.layer.blobs}
    verdict.unused = [name for name in stored.layers if name not in have]
    verdict.problems += [f"layer '{name}': the file holds no weights for it" for name in owners - set(stored.layers)]
    verdict.problems += _not_finite(stored)
    try:
        net.copy_from(path)
    except WeightsError as error:
        verdict.problems.append(str(error))
    if verdict.problems:
        verdict.problems.sort()
        return verdict
    fill_inputs(net)
    net.run_forward()
    verdict.outputs = {name: describe(net.blobs[name].peek_data()) for name in net.outputs}
    for step in net.steps:
        wrong = [name for name in net.top_names[step.layer.name] if not _finite(net.blobs[name].peek_data())]
        if wrong:
            verdict.problems.append(f"layer '{step.layer.name}' makes NaN or infinity in {', '.join(wrong)}")
            break
    return verdict


def _finite(values: NDArray) -> bool:
    return bool(np.isfinite(values).all())


def _not_finite(stored: Stored) -> list[str]:
    return [
        f"layer '{layer}' param {j}: {int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinity"
        for layer, params in stored.layers.items()
        for j, array in enumerate(params)
        if not _finite(array)
    ]
