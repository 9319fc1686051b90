"""Train a few steps in this process and print the peak of its memory: ``process`` starts it for each contestant.

Nothing is imported at the top that only one of them needs.
"""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path

STEPS = 3
_STATUS = Path("/proc/self/status")


def train_minicaffe(name: str) -> None:
    """A net of ``nets.NETS``."""
    from benchmarks import nets

    nets.solver(nets.NETS[name]).step(STEPS)


def train_torch(path: str) -> None:
    """A net pickled as its plan and the optimizer's settings."""
    from benchmarks.torch_net import TorchNet

    plan, settings = pickle.loads(Path(path).read_bytes())
    net = TorchNet(plan)
    net.optimize(*settings)
    for _ in range(STEPS):
        net.step()


def peak() -> int:
    """The most memory that was resident, in bytes."""
    # getrusage counts what the parent held before it started this program; Linux has the program's own figure too
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    {"minicaffe": train_minicaffe, "torch": train_torch}[sys.argv[1]](sys.argv[2])
    print(peak())
