"""A solver's update alone: turning gradients into a step, on nets of a given number of params."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.harness import Case, Work
from minicaffe import proto, solvers
from minicaffe.proto import text
from minicaffe.solvers.base import registry

WIDTHS = {"1M": 1024, "16M": 4096}
"""Cases by number of params: that of a square inner product of this width."""

SETTINGS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.9",
    "AdaGrad": "",
    "RMSProp": "rms_decay: 0.98",
    "AdaDelta": "momentum: 0.95 delta: 1e-6",
    "Adam": "momentum: 0.9 momentum2: 0.999",
}

_RATE, _DECAY = 0.01, 0.0005


def _solver(kind: str, width: int) -> solvers.Solver:
    net = (
        f'layer {{ name: "x" type: "DummyData" top: "x" dummy_data_param {{ shape {{ dim: 1 dim: {width} }} }} }} '
        f'layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {{ num_output: {width} '
        'bias_term: false weight_filler { type: "xavier" } } }'
    )
    settings = f'type: "{kind}" base_lr: {_RATE} weight_decay: {_DECAY} lr_policy: "fixed" snapshot_prefix: "benchmark"'
    made = solvers.create(text.parse(f"{settings} {SETTINGS[kind]} net_param {{ {net} }}", proto.SolverParameter()))
    made.net.learnable[0].blob.diff[...] = np.random.default_rng(0).standard_normal((width, width)) / width
    return made


def _torch_update(torch: Any, kind: str, made: solvers.Solver) -> Any:
    """PyTorch's fused optimizer where it has one for the CPU."""
    blob = made.net.learnable[0].blob
    weights = torch.nn.Parameter(torch.from_numpy(blob.data.copy()))
    weights.grad = torch.from_numpy(blob.diff.copy())
    make = {
        "SGD": partial(torch.optim.SGD, momentum=0.9, fused=True),
        "Nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
        "AdaGrad": partial(torch.optim.Adagrad, fused=True),
        "RMSProp": partial(torch.optim.RMSprop, alpha=0.98),
        "AdaDelta": partial(torch.optim.Adadelta, rho=0.95, eps=1e-6),
        "Adam": partial(torch.optim.Adam, fused=True),
    }[kind]
    return make([weights], lr=_RATE, weight_decay=_DECAY).step


def _build(kind: str, width: int) -> Work:
    made = _solver(kind, width)
    # weights and histories are read and written, gradients read
    moved = (3 + 2 * made.slots) * 4 * width * width
    work = Work({"minicaffe": made.apply_update}, moved=moved)
    torch = peers.torch()
    if torch:
        work.run["torch"] = _torch_update(torch, kind, made)
    return work


def cases(threads: int) -> Iterator[Case]:
    """Every registered solver at every size."""
    for kind in registry:
        for size, width in WIDTHS.items():
            yield Case("solvers", f"{kind}/{size}", partial(_build, kind, width))
