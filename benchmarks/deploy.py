"""Nets run forward as they are deployed, beside ONNX Runtime, OpenVINO, OpenCV and PyTorch: latencies of single calls,
images a second, peak memory.

Each engine has a process of its own, in which it loaded the same weights; they run by turns, and one's turn begins when
the threads of the one before sleep.  The first turn of each, of ten runs or more, does not count: what engines set up,
or try, in their first runs after loading is in no figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from benchmarks import deploy_nets, isa, peers
from benchmarks.deploy_nets import NETS, Deployed
from benchmarks.engine_process import EngineFailure, EngineProcess
from benchmarks.engines import ENGINES, PACKAGES, Minicaffe
from benchmarks.harness import Calls, Case, Work
from benchmarks.machine import child_environment
from minicaffe import TEST, Net, compat, summary

BATCHES = (1, 4, 16)


def _build(deployed: Deployed, batch: int, threads: int) -> Work:
    definition = deployed.definition(batch)
    cost = summary.forward_total(Net(definition, TEST))
    work = Work({}, cost.products, cost.bytes, images=batch)
    folder = Path(work.resources.enter_context(tempfile.TemporaryDirectory()))
    deploy_nets.write(definition, folder)
    Minicaffe(folder, threads).run()  # compiles, whose memory is not the net's
    engines = {}
    for name, engine in ENGINES.items():
        if not (isa.runs(name) and installed(name) and (folder / engine.needs).exists()):
            continue
        try:
            engines[name] = EngineProcess(name, folder, child_environment(threads), threads)
        except EngineFailure as error:
            if name == "minicaffe":
                raise
            click.echo(f"left out: {error}", err=True)
        else:
            work.resources.callback(engines[name].close)
    work.run = {name: Calls(running.latencies, running.peak_memory) for name, running in engines.items()}
    work.verify = partial(_verify, engines)
    return work


def installed(engine: str) -> bool:
    """Whether there is an engine's package."""
    return compat.have(PACKAGES.get(engine, engine))


def _verify(engines: dict[str, EngineProcess]) -> None:
    """Raise Disagreement unless all engines gave the same."""
    ours = engines["minicaffe"].outputs()
    for engine, running in engines.items():
        theirs = running.outputs()
        for name, values in ours.items():
            peers.agree(values, theirs[name], f"output '{name}' of {engine}")


def cases(threads: int) -> Iterator[Case]:
    """A case for each net and batch."""
    for name, deployed in NETS.items():
        for batch in BATCHES:
            yield Case("deploy", f"{name}_b{batch}", partial(_build, deployed, batch, threads))
