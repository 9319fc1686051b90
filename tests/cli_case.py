"""Small nets and solvers for tests of the command line, and what such a test looks at."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from minicaffe.tools.cli import main

NET = """\
name: "tiny"
layer {
  name: "data"
  type: "DummyData"
  top: "data"
  top: "label"
  dummy_data_param {
    shape { dim: 4 dim: 3 }
    shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 }
    data_filler { type: "constant" value: 1 }
  }
}
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

SOLVER = {
    "net": '"net.prototxt"', "test_iter": 2, "test_interval": 3, "base_lr": 0.01, "lr_policy": '"fixed"', "display": 2,
    "max_iter": 6, "snapshot": 4, "snapshot_prefix": '"tiny"', "random_seed": 1,
}  # fmt: skip


def write_case(folder: Path, net: str = NET, **fields: object) -> Path:
    """Write ``net`` and a solver; ``fields`` are the solver's, over those of ``SOLVER`` (None leaves one out)."""
    (folder / "net.prototxt").write_text(net)
    solver = {name: value for name, value in {**SOLVER, **fields}.items() if value is not None}
    path = folder / "solver.prototxt"
    path.write_text("".join(f"{name}: {value}\n" for name, value in solver.items()))
    return path


class Outcome(NamedTuple):
    """What a command gave back."""

    status: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """The messages of the log lines; not that kernels are compiled, which depends on what ran before."""
        lines = [line for line in self.err.splitlines() if line[:1] in "IWEF" and "] " in line]
        messages = [line.partition("] ")[2] for line in lines]
        return [message for message in messages if not message.startswith("compiling kernels")]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def run(capsys, *args: object) -> Outcome:
    """``minicaffe args`` in this process."""
    capsys.readouterr()
    status = main([str(arg) for arg in args])
    return Outcome(status, *capsys.readouterr())


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file in a folder, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip
