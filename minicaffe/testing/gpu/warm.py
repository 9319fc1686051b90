"""Compiles the CPU's kernels for the parts that compare with the CPU, while the first parts keep only the GPU busy."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from minicaffe import backend, testing
from minicaffe.testing.gpu import training
from minicaffe.testing.gpu.checks import Check, Options, checkout

_ITERATIONS = 3  # in the third layers are replayed, which is compiled, too


def checks(options: Options) -> Iterator[Check]:
    """What the parts "training" and "layers" will ask of the CPU; nothing is compared."""
    batch = training.batch(options)
    for kind in training.SOLVERS:
        yield Check(kind, partial(_train, training.LENET, batch, kind))
    for name, task in training.NETS.items():
        yield Check(name, partial(_train, task, batch, "SGD"))
    if checkout() is not None:
        for case in importlib.import_module("layer_cases").CASES:
            if "parity" not in case.why_not:
                yield Check(case.name, partial(_run, case))


def _train(task: training.Task, batch: int, kind: str) -> None:
    training.train(training.make(task, batch, kind), _ITERATIONS)


def _run(case: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backward = "gradient" not in case.why_not
        pair = [backend.host_backend()] * 2
        testing.check_parity(case.type, case.draw(), backward=backward, backends=pair, **case.how(Path(folder)))
