"""Whether an exported model computes what the net does: in ONNX Runtime, or wherever else it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import arguments, compat
from minicaffe.backend.threads import get_num_threads
from minicaffe.folding import largest_difference
from minicaffe.net import Net
from minicaffe.onnx.export import Exported
from minicaffe.onnx.plan import Axes, Changes, Probe, fill


def session(model: Any) -> Any:
    """ONNX Runtime's session of a model, on the CPU, with as many threads as minicaffe has."""
    runtime = compat.require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    options.log_severity_level = 3
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def differences(exported: Exported, seed: int = 0) -> dict[str, float]:
    """The largest difference of each output, relative to its largest value, on noise; see ``compare``.

    Raises MissingExtraError without the package onnxruntime.
    """
    arguments.instance(exported, Exported, "differences", "what export_onnx returns")
    running, outputs = session(exported.model), list(exported.outputs)
    return compare(exported.twin.net, exported.axes, outputs, lambda given: running.run(outputs, given), seed)


def compare(
    net: Net, axes: Axes, outputs: Sequence[str], run: Callable[[dict[str, Any]], Sequence[Any]], seed: int
) -> dict[str, float]:
    """The largest difference of each output of a twin from what ``run`` makes of the same inputs, relative to its
    largest value: for batches of one item and of three, where the net takes them, or else as it is and with each of
    the axes that may change of another size.
    """
    probe = Probe(net)
    found = dict.fromkeys(outputs, 0.0)
    small: list[Changes] = [
        {name: (axis, size) for group in axes.groups for name, axis in group.items()} for size in (1, 3)
    ]
    for change in [change for change in small if probe.takes(change)] or [{}, *axes.changes]:
        probe.resize(change)
        given = fill(net, seed)
        net.run_forward()
        for name, values in zip(found, run(given), strict=True):
            mine = net.blobs[name].data
            found[name] = max(found[name], _difference(mine, values))
    probe.resize({})
    return found


def _difference(mine: NDArray, values: NDArray) -> float:
    """The largest difference, relative to the largest value; infinite for other shapes.

    Of noise a logarithm is NaN in places: there both must be.  Where nothing else is, nothing is compared: infinite.
    """
    if mine.shape != values.shape:
        return float("inf")
    alike = (np.isnan(mine) & np.isnan(values)) | (np.isinf(mine) & (mine == values))
    if alike.any():
        mine, values = mine[~alike], values[~alike]
    return largest_difference(mine, values) if mine.size or not alike.size else float("inf")
