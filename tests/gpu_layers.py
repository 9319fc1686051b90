"""The part "layers" of ``minicaffe gpu_check``: Caffe's numbers, gradients, and the CPU's numbers, all on the GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import golden_layers
from layer_cases import CASES
from layer_cases.checks import check_gradient, check_parity

from minicaffe import backend
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options


def checks(options: Options) -> Iterator[Check]:
    """Golden numbers first, which need no kernel of the CPU's to be compiled."""
    where = target.open_backend(options)

    def on_gpu(function: Callable[[], Any]) -> None:
        with backend.use(where):
            function()

    def with_files(function: Callable[[Path], Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            function(Path(folder))

    for name in golden_layers.layer_cases():
        yield Check(f"Caffe's {name}", partial(on_gpu, lambda name=name: golden_layers.LayerCase(name).check()))
    for name in golden_layers.net_cases():
        yield Check(f"Caffe's net {name}", partial(on_gpu, partial(golden_layers.check_net, name)))
    for name in golden_layers.solver_cases():
        yield Check(f"Caffe's solver {name}", partial(on_gpu, partial(golden_layers.check_trajectory, name)))
    for case in CASES:
        if "gradient" not in case.why_not:
            yield Check(f"gradient of {case.name}", partial(on_gpu, partial(with_files, partial(check_gradient, case))))
    pair = [backend.host_backend(), where]
    for case in CASES:
        if "parity" not in case.why_not:
            yield Check(f"{case.name} on CPU and GPU", partial(with_files, partial(check_parity, case, backends=pair)))
