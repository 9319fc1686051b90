"""Training by several processes: ``python -m benchmarks.scaling measure`` times it on this machine, beside PyTorch's
DDP (gloo); ``python -m benchmarks.scaling predict`` says what a cluster would make of it.

A prediction takes each layer's measured times on one thread, the buckets that ``minicaffe.parallel.exchange`` makes,
and two numbers of a network, latency and bandwidth.  An all-reduce of B bytes among n ranks takes

- as a ring, 2 (n - 1) latency + 2 (n - 1) / n B / bandwidth;
- as recursive halving and doubling (a tree), 2 log2(n) latency + the same.

Buckets go one after the other, each as soon as its layers have run backward; an iteration ends with the last of them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import machine, nets
from minicaffe import parallel
from minicaffe.net import Net
from minicaffe.parallel.exchange import BUCKET, stages
from minicaffe.tools import launch

MEASURED = ("siamese_mnist_b64", "cifar10_full_b100", "caffenet_b16")
PREDICTED = ("lenet_b64", "caffenet_b16", "resnet50_b8")
BANDWIDTHS = (10, 25, 100, 400)  # Gb/s
LATENCY = 5e-6  # seconds for a message between two machines
RANKS = (2, 8, 32, 128, 512, 1000)
TURNS = 5


@click.group()
def main() -> None:
    """Training by several processes, measured and predicted."""


# --- measured -----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--ranks", default=2, show_default=True, help="Processes, of one thread each.")
@click.option("--seconds", default=4.0, show_default=True, help="The time that each contestant gets at a turn.")
@click.option("--only", default="", help="This net alone.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there, too.")
def measure(ranks: int, seconds: float, only: str, json_path: Path | None) -> None:
    """Steps of one rank against those of several with the same batch each, by turns."""
    found: dict[str, Any] = {}
    for net in [only] if only else MEASURED:
        times: dict[str, list[float]] = {}
        for _ in range(TURNS):
            for peer in ("minicaffe", "torch"):
                for count in (1, ranks):
                    times.setdefault(f"{peer} {count}", []).append(_run(net, peer, count, seconds))
        row = found[net] = {}
        for peer in ("minicaffe", "torch"):
            alone, several = times[f"{peer} 1"], times[f"{peer} {ranks}"]
            paired = [one / all_ for one, all_ in zip(alone, several)]
            row[peer] = {
                "ms alone": 1e3 * median(alone), "ms together": 1e3 * median(several),
                "efficiency": median(paired), "of the least": min(alone) / min(several),
            }  # fmt: skip
            line = ", ".join(f"{name} {value:.3g}" for name, value in row[peer].items())
            click.echo(f"{net}, {ranks} ranks, {peer}: {line}")
    if json_path:
        json_path.write_text(json.dumps({"machine": machine.describe(1), "nets": found}, indent=1) + "\n")


def _run(net: str, peer: str, count: int, seconds: float) -> float:
    """Median seconds of a step of so many ranks."""
    command = [*launch.mpirun(count), sys.executable, "-m", "benchmarks.scaling", "worker", net, peer, str(seconds)]
    environment = {**launch.environment(), **machine.child_environment(1)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


@main.command(hidden=True)
@click.argument("net")
@click.argument("peer", type=click.Choice(["minicaffe", "torch"]))
@click.argument("seconds", type=float)
def worker(net: str, peer: str, seconds: float) -> None:
    """What a rank of ``measure`` does."""
    with parallel.session() as group:
        machine.set_threads(1)
        made = nets.solver(nets.NETS[net])
        step: Callable[[], Any] = _ddp(made, group) if peer == "torch" else lambda: made.step(1)
        step()
        each = _timed(step, group, 2)
        took = _timed(step, group, max(3, int(seconds / median(each))))
        if group.rank == 0:
            click.echo(f"{median(took)}")


def _timed(step: Callable[[], Any], group: parallel.Communicator, times: int) -> list[float]:
    """Seconds of each of some steps; all ranks make as many as rank 0."""
    found = []
    for _ in range(group.of_first(times)):
        begun = time.perf_counter()
        step()
        found.append(time.perf_counter() - begun)
    return found


def _ddp(made: Any, group: parallel.Communicator) -> Callable[[], Any]:
    """The same net's step in PyTorch, by DistributedDataParallel over gloo."""
    import torch
    import torch.distributed as distributed

    net = nets.torch_net(made)
    if group.size == 1:
        return net.step

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = torch.nn.ParameterList(net.params)

        def forward(self, unused: Any) -> Any:
            return torch_loss()

    torch_loss = net.loss
    port = group.of_first(20000 + os.getpid() % 20000)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=group.rank, world_size=group.size
    )
    wrapped = torch.nn.parallel.DistributedDataParallel(Module())
    net.loss = lambda: wrapped(torch.zeros(1))
    return net.step


# --- predicted ----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--latency", default=LATENCY, show_default=True, help="Seconds that a message takes beside its bytes.")
@click.option("--compute", default=1.0, show_default=True, help="How many times as fast as a thread here a rank is.")
def predict(latency: float, compute: float) -> None:
    """Efficiencies of up to a thousand ranks, by network, from layers timed here on one thread."""
    machine.set_threads(1)
    for name in PREDICTED:
        made = nets.solver(nets.NETS[name])
        forward, backward, update = layer_times(made)
        parts = timeline(made.net, forward, backward)
        size = sum(nbytes for _, nbytes in parts)
        alone = (sum(forward) + sum(backward) + update) / compute
        click.echo(f"{name}: {1e3 * alone:.1f} ms a step, {size / 1e6:.1f} MB of gradients in {len(parts)} bucket(s)")
        for way, cost in (("ring", ring), ("tree", tree)):
            for gigabits in BANDWIDTHS:
                cells = []
                for ranks in RANKS:
                    ends = [(done / compute, nbytes) for done, nbytes in parts]
                    exchange = partial(cost, ranks=ranks, latency=latency, bandwidth=gigabits * 1e9 / 8)
                    took = iteration(ends, update / compute, exchange)
                    cells.append(f"{ranks}: {alone / took:.2f}")
                click.echo(f"  {way}, {gigabits} Gb/s   " + "   ".join(cells))


def layer_times(made: Any, passes: int = 3) -> tuple[list[float], list[float], float]:
    """Least seconds of each layer forward and backward, and of the update."""
    net, count = made.net, len(made.net.steps)
    forward, backward, update = [math.inf] * count, [math.inf] * count, math.inf
    for _ in range(passes + 1):
        for index in range(count):
            forward[index] = min(forward[index], _seconds(lambda i=index: net.run_forward(i, i)))
        for index in reversed(range(count)):
            backward[index] = min(backward[index], _seconds(lambda i=index: net.run_backward(i, i)))
        update = min(update, _seconds(made.apply_update))
    return forward, backward, update


def _seconds(function: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def timeline(net: Net, forward: Sequence[float], backward: Sequence[float]) -> list[tuple[float, int]]:
    """When each bucket of gradients is complete, in seconds from the start of a step, and its bytes."""
    clock, parts = sum(forward), []
    for stage in stages(net, BUCKET):
        clock += sum(backward[stage.first : stage.last + 1])
        parts.append((clock, sum(stop - start for start, stop in stage.ranges) * net.dtype.itemsize))
    return parts


def iteration(parts: Sequence[tuple[float, int]], update: float, exchange: Callable[[int], float]) -> float:
    """Seconds of a step: backward, the exchanges of its buckets one after the other, the update."""
    end = 0.0
    for done, nbytes in parts:
        end = max(end, done) + exchange(nbytes)
    return end + update


def ring(nbytes: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Seconds of an all-reduce that goes round a ring of ranks twice."""
    return 2 * (ranks - 1) * latency + 2 * (ranks - 1) / ranks * nbytes / bandwidth


def tree(nbytes: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Seconds of an all-reduce by recursive halving and doubling (Rabenseifner 2004)."""
    return 2 * math.log2(ranks) * latency + 2 * (ranks - 1) / ranks * nbytes / bandwidth


if __name__ == "__main__":
    main()
