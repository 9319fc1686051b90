"""Whether an exported module computes what the net does."""

from __future__ import annotations

from typing import Any

from minicaffe import arguments, compat
from minicaffe.onnx.check import compare
from minicaffe.onnx.plan import Probe, make_twin, needed_steps
from minicaffe.pytorch.export import Exported


def differences(exported: Exported, seed: int = 0) -> dict[str, float]:
    """The largest difference of each output, relative to its largest value, on noise, for batches as for ONNX.

    Random numbers are not the same in both, so a net in the TRAIN phase is compared only where it draws none.
    """
    arguments.instance(exported, Exported, "differences", "what export_torch returns")
    torch, made = compat.require("torch"), exported.module()
    steps = needed_steps(exported.net, exported.outputs)
    twin = make_twin(exported.net, steps, exported.outputs)

    def run(given: dict[str, Any]) -> list[Any]:
        with torch.no_grad():
            found = made(*(torch.from_numpy(given[name]) for name in exported.inputs))
        return [found[name].numpy() for name in exported.outputs]

    return compare(twin.net, next(Probe(twin.net).plans()), exported.outputs, run, seed)
