"""``minicaffe train``: run a solver, watch it, and leave plots of what came of it."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path

if TYPE_CHECKING:
    from minicaffe.net import Net
    from minicaffe.plot import Record
    from minicaffe.proto import SolverParameter
    from minicaffe.solvers import Solver

_log = logging.getLogger(__name__)

_EFFECTS = click.Choice(["snapshot", "stop", "none"])


@click.command(
    cls=Command, handles_interrupts=True, examples=["minicaffe train --solver siamese/digits_solver.prototxt"]
)
@click.option(
    "--solver", required=True, metavar="FILE", type=Definition(),
    help="The solver, a prototxt: a path or a shipped model's file.",
)  # fmt: skip
@click.option("--snapshot", default="", metavar="FILE", type=Path(), help="Resume from this solver state.")
@click.option(
    "--weights", default="", metavar="FILE[,FILE]", type=Path(), help="Start from these weights (fine-tuning)."
)
@click.option(
    "--max_iter", type=click.IntRange(min=0), help="Stop at this iteration, instead of the solver's max_iter."
)
@options.device
@options.net_state
@click.option("--sigint_effect", type=_EFFECTS, default="stop", show_default=True, help="What Ctrl-C does.")
@click.option("--sighup_effect", type=_EFFECTS, default="snapshot", show_default=True, help="What SIGHUP does.")
@click.option(
    "--sigterm_effect", type=_EFFECTS, default="stop", show_default=True, help="What SIGTERM, a scheduler's end, does."
)
@click.option(
    "--detect_anomaly", is_flag=True,
    help="Stop at the first layer whose output or gradient is not finite, and name it; slower.",
)  # fmt: skip
def command(
    solver: str, snapshot: str, weights: str, max_iter: int | None, gpu: str, threads: int | None, level: int,
    stage: str, sigint_effect: str, sighup_effect: str, sigterm_effect: str, detect_anomaly: bool,
) -> None:  # fmt: skip
    """Train a net, or fine-tune one.

    Leaves weights and solver states at the solver's snapshot_prefix, and beside them a plot of the loss
    (PREFIX_loss.png) and, for a siamese net whose labelled test images lie beside its pairs, a plot of the features
    (PREFIX_embedding.png).
    """
    if snapshot and weights:
        raise click.UsageError("Give a snapshot to resume training or weights to finetune but not both.")
    from minicaffe import models, proto, solvers
    from minicaffe.proto.files import read_solver
    from minicaffe.tools.signals import SignalActions

    path = models.find(solver)
    param = read_solver(path)
    param.train_state.level = level
    param.train_state.stage.extend(options.split(stage))
    if max_iter is not None:
        param.max_iter = max_iter
    wants_gpu = param.HasField("solver_mode") and param.solver_mode == proto.SolverParameter.GPU
    options.choose_device(gpu, threads, param.device_id if wants_gpu else None)
    if snapshot or weights:
        del param.weights[:]
    if weights:
        param.weights.append(weights)
    with _alone(param), solvers.create(param, path) as trained:
        trained.detect_anomaly = detect_anomaly
        if snapshot:
            _log.info("Resuming from %s", snapshot)
            trained.restore(snapshot)
        effects = {signal.SIGHUP: sighup_effect, signal.SIGTERM: sigterm_effect, signal.SIGINT: sigint_effect}
        with _watched(trained) as records, SignalActions(effects) as trained.requested_action:
            _log.info("Starting Optimization")
            trained.solve()
            _log.info("Optimization Done.")
        _leave_plots(trained, records)


def _alone(param: SolverParameter) -> contextlib.AbstractContextManager[object]:
    """Keeps other trainings from the snapshot prefix if this one writes there; SnapshotError if there is one."""
    from minicaffe.solvers.lock import lock_prefix

    writes = param.snapshot or param.snapshot_after_train
    return lock_prefix(param.snapshot_prefix) if writes else contextlib.nullcontext()


@contextlib.contextmanager
def _watched(solver: Solver) -> Iterator[list[Record]]:
    """Collects what ``solver`` reports, and shows a progress bar on a terminal."""
    from minicaffe.tools.monitors import ProgressBar, Recorder

    recorder = Recorder()
    solver.monitors.append(recorder)
    screen = console.terminal()
    if screen is None:
        yield recorder.records
        return
    with ProgressBar.shown(screen, solver) as bar:
        solver.monitors.append(bar)
        yield recorder.records


def _leave_plots(solver: Solver, records: list[Record]) -> None:
    """Write the loss curve and, for a siamese net, the plot of its features; say why where one cannot be made."""
    from minicaffe import compat, plot

    if not compat.have("matplotlib"):
        _log.info("No plots: they need matplotlib; install it with: pip install 'minicaffe[plot]'")
        return
    prefix = solver.param.snapshot_prefix
    if records:
        plot.loss_curve(records, f"{prefix}_loss.png")
        _log.info("Loss curve: %s_loss.png", prefix)
    else:
        _log.info("No loss curve: nothing was displayed or tested (the solver's display and test_interval)")
    net = solver.test_nets[0] if solver.test_nets else solver.net
    if any(step.layer.type == "ContrastiveLoss" for step in net.steps):
        _leave_embedding(solver, net, f"{prefix}_embedding.png")


def _leave_embedding(solver: Solver, net: Net, path: str) -> None:
    """Plot and score the features of the labelled images that lie beside the test net's pairs, if there are any."""
    from minicaffe.embedding import find_tower
    from minicaffe.errors import NetError
    from minicaffe.tools import databases
    from minicaffe.tools.embed import embed

    try:
        tower = find_tower(step.layer.layer_param for step in net.steps)
    except NetError as error:
        _log.info("No plot of the features: %s", error)
        return
    pairs = net.source.resolve(tower.data.data_param.source)
    images, train_images = (databases.images_beside(pairs, split) for split in ("test", "train"))
    if images is None:
        _log.info(
            "No plot of the features: there are no labelled images beside %s ('minicaffe embed' takes any)", pairs
        )
        return
    embed(tower, lambda alone: alone.share_with(solver.net), images, train_images, path)
