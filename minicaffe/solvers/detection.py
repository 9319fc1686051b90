"""Tests of nets that find things in images: ``eval_type: "detection"`` of a solver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from minicaffe.boxes.evaluation import AP_VERSIONS
from minicaffe.boxes.precision import Precision
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.solvers.monitor import Scalar

_log = logging.getLogger(__name__)

EVAL_TYPES = ("classification", "detection")


def check(p: Any, require: Callable[[bool, str, str, Any], None]) -> None:
    """Ask ``require(condition, field, problem, found)`` that the fields name what is known."""
    require(
        p.eval_type in EVAL_TYPES, "eval_type", f"Unknown evaluation type; known: {', '.join(EVAL_TYPES)}", p.eval_type
    )
    require(p.ap_version in AP_VERSIONS, "ap_version", f"unknown; known: {', '.join(AP_VERSIONS)}", p.ap_version)


def mean_precisions(
    net: Net, batches: int, go_on: Callable[[], bool], version: str, each_class: bool
) -> tuple[list[Scalar], float] | None:
    """The mAP of each output of a net, tops of DetectionEvaluate layers, and its mean loss over some batches; None if
    ``go_on``, asked before each, says no.  The classes' own are logged if ``each_class``.

    NetError for an output of another kind.
    """
    found = {name: Precision() for name in net.outputs}
    loss = 0.0
    for _ in range(batches):
        if not go_on():
            return None
        net.run_forward()
        loss += net.loss
        for name, precision in found.items():
            blob = net.blobs[name]
            if blob.shape[-1:] != (5,):
                raise NetError(
                    f"net '{net.name}': its output '{name}' is not the top of a DetectionEvaluate layer, rows of 5, "
                    f'which eval_type: "detection" takes; found {blob.shape_string}. End other outputs in a Silence '
                    "layer"
                )
            precision.add(blob.peek_data())
    for precision in found.values() if each_class else ():
        for label, value in precision.of_classes(version).items():
            _log.info("class%d: %g", label, value)
    return [Scalar(name, precision.mean(version)) for name, precision in found.items()], loss / batches
