"""What a process costs: starting it, and the memory that training takes.  Each sample is a fresh process."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import nets, peers
from benchmarks.harness import BYTES, Case, Probe, Work
from benchmarks.machine import child_environment

_TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
_PASS = "import minicaffe; from minicaffe import models; minicaffe.Net(models.find({!r}), minicaffe.TEST).forward()"
_STEP = "from benchmarks import nets; nets.solver(nets.NETS[{!r}]).step(1)"
_HELP = "import sys; sys.argv = ['minicaffe', '--help']; from minicaffe.tools.cli import main; main()"


def _child(threads: int, *arguments: str, **environment: str) -> str:
    """What a Python child prints; CalledProcessError if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=child_environment(threads) | environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _import(threads: int, statements: dict[str, str]) -> Work:
    def probe(statement: str) -> Probe:
        return Probe(lambda: float(_child(threads, "-c", _TIMED.format(statement))))

    return Work({name: probe(statement) for name, statement in statements.items() if name != "torch" or peers.torch()})


def _help(threads: int) -> Work:
    def run() -> float:
        start = time.perf_counter()
        _child(threads, "-c", _HELP)
        return time.perf_counter() - start

    return Work({"minicaffe": Probe(run)})


def _first(threads: int, program: str) -> Work:
    """A process that ends after its first pass, with the kernels that the disk cache holds, and with an empty cache."""

    def run(cache: str) -> float:
        start = time.perf_counter()
        _child(threads, "-c", program, **({"NUMBA_CACHE_DIR": cache} if cache else {}))
        return time.perf_counter() - start

    def run_cold() -> float:
        with tempfile.TemporaryDirectory() as cache:
            return run(cache)

    return Work({"minicaffe": Probe(functools.partial(run, "")), "minicaffe, empty cache": Probe(run_cold)})


def _memory(threads: int, name: str) -> Work:
    """Peak resident memory of a process that trains a few steps, the Python interpreter and all libraries included."""
    work = Work(
        {"minicaffe": Probe(lambda: float(_child(threads, "-m", "benchmarks.memory", "minicaffe", name)))}, unit=BYTES
    )
    if peers.torch():
        from benchmarks.torch_net import translate

        made = nets.solver(nets.NETS[name])
        path = Path(work.resources.enter_context(tempfile.TemporaryDirectory()), "plan")
        settings = (made.param.base_lr, made.param.momentum, made.param.weight_decay)
        path.write_bytes(pickle.dumps((translate(made.net), settings)))
        work.run["torch"] = Probe(lambda: float(_child(threads, "-m", "benchmarks.memory", "torch", str(path))))
    return work


def cases(threads: int) -> Iterator[Case]:
    """Imports, ``--help``, first passes, and the peak memory of each net."""
    yield Case("process", "import", functools.partial(_import, threads, {"minicaffe": "import minicaffe"}))
    engines = {"minicaffe": "import minicaffe; minicaffe.Net", "torch": "import torch"}  # the face alone loads nothing
    yield Case("process", "import_net", functools.partial(_import, threads, engines))
    yield Case("process", "help", functools.partial(_help, threads))
    for net in ("lenet/lenet.prototxt", "resnet50/deploy.prototxt"):
        yield Case("process", f"first_pass/{net.split('/')[0]}", functools.partial(_first, threads, _PASS.format(net)))
    yield Case("process", "first_step/siamese", functools.partial(_first, threads, _STEP.format("siamese_mnist_b64")))
    for name in nets.NETS:
        yield Case("process", f"peak_memory/{name}", functools.partial(_memory, threads, name))
