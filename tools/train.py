"""``minicaffe train``: run a solver, watch it, and leave a history, curves and snapshots of what came of it."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

import click

from minicaffe.tools import console, options, training
from minicaffe.tools.command import ARGUMENTS, Command
from minicaffe.tools.completion import Definition, Path

if TYPE_CHECKING:
    from minicaffe.proto import SolverParameter
    from minicaffe.solvers import Monitor, Solver

_log = logging.getLogger(__name__)

_EFFECTS = click.Choice(["snapshot", "stop", "none"])


def _renames(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise click.BadParameter(f"expected OLD=NEW, two layers' names; found '{old}{equals}{new}'")
    return {old: new for old, _, new in pairs}


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
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N snapshots, remove older ones.")
@click.option(
    "--keep_best",
    default="",
    metavar="OUTPUT[:max|:min]",
    help="Write a snapshot where a test finds the best value of this output so far (accuracy, loss), and keep it.",
)
@click.option(
    "--early_stop",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop when N tests in a row found nothing better, of --keep_best's output or else of the loss.",
)
@click.option(
    "--tensorboard",
    default="",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write scalars, histograms, filters and features there, for TensorBoard.",
)
@click.option("--strict", is_flag=True, help="With --weights: refuse a file that has other layers than the net.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="With --weights: leave layers of such names as they are initialised (fc8*); may be repeated.",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    callback=_renames,
    help="With --weights: take the file's layer OLD for the net's layer NEW; may be repeated, and hold a *.",
)
@click.option(
    "--ranks", type=click.IntRange(min=1), metavar="N",
    help="Train by N processes, each with its own batches, whose gradients are averaged (default: one for each --gpu).",
)  # fmt: skip
@click.option(
    "--restarts", type=click.IntRange(min=0), default=0, metavar="N",
    help="With --ranks: when a rank fails, go on from the last snapshot, up to N times.",
)  # fmt: skip
@options.device
@options.precision
@click.option(
    "--loss_scale", metavar="N|dynamic",
    help="Multiply the loss, a power of two, before backward.  [default: dynamic for fp16, else 1]",
)  # fmt: skip
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
    stage: str, sigint_effect: str, sighup_effect: str, sigterm_effect: str, detect_anomaly: bool, keep: int | None,
    keep_best: str, early_stop: int | None, tensorboard: str, strict: bool, ignore: tuple[str, ...],
    rename: dict[str, str], ranks: int | None, restarts: int,
    precision: str, loss_scale: str | None,
) -> None:  # fmt: skip
    """Train a net, or fine-tune one.

    Leaves weights and solver states at the solver's snapshot_prefix, and beside them what was displayed and tested
    (PREFIX_log.csv) and logged (PREFIX_log.txt), to which later trainings add; plots of the losses (PREFIX_loss.png)
    and, for a siamese net whose labelled test images lie beside its pairs, of the features (PREFIX_embedding.png).
    """
    if snapshot and weights:
        raise click.UsageError("Give a snapshot to resume training or weights to finetune but not both.")
    effects = {signal.SIGHUP: sighup_effect, signal.SIGTERM: sigterm_effect, signal.SIGINT: sigint_effect}
    from minicaffe import models, parallel, proto, solvers
    from minicaffe.matching import Matching
    from minicaffe.proto.files import read_solver
    from minicaffe.tools import launch
    from minicaffe.tools.signals import SignalActions

    path = models.find(solver)
    param = read_solver(path)
    if not parallel.is_launched():
        ranks = ranks or (len(options.gpu_ids(gpu, several=True)) if gpu else 1)
        if ranks > 1 or restarts:
            _launch(ranks, effects, restarts, param.snapshot_prefix)
    param.train_state.level = level
    param.train_state.stage.extend(options.split(stage))
    if max_iter is not None:
        param.max_iter = max_iter
    if snapshot or weights:
        del param.weights[:]
    if weights:
        param.weights.append(weights)
    if (strict or ignore or rename) and not param.weights:
        raise click.UsageError("--strict, --ignore and --rename say how --weights are loaded; give weights too.")
    matching = Matching(strict, ignore, rename)
    monitors = _monitors(keep, keep_best, early_stop, tensorboard)
    if parallel.is_launched():
        effects |= {launch.STOP: "stop", launch.SNAPSHOT: "snapshot"}
    wants_gpu = param.HasField("solver_mode") and param.solver_mode == proto.SolverParameter.GPU
    with parallel.session() as group:
        options.choose_device(gpu, threads, param.device_id if wants_gpu else None)
        with _history_of(param, group.rank) as history, solvers.create(param, path, matching) as trained:
            trained.detect_anomaly = detect_anomaly
            trained.use_precision(precision, loss_scale)
            trained.monitors += [*history, *(monitors if group.rank == 0 else [])]
            if snapshot:
                _log.info("Resuming from %s", snapshot)
                trained.restore(snapshot)
            for report in trained.loaded:
                _log.info("%s", report)
            with _shown(trained), SignalActions(effects) as trained.requested_action:
                _log.info("Starting Optimization")
                training.run(trained)
            if group.rank == 0:
                training.leave_plots(trained)


def _launch(ranks: int, effects: Mapping[signal.Signals, str], restarts: int, prefix: str) -> NoReturn:
    """Train by so many processes, and end as they do."""
    from minicaffe.tools import launch

    context = click.get_current_context()

    def resume(since: float) -> list[str]:
        state = launch.newest_state(prefix, since)
        return [] if state is None else ["--snapshot", state, "--weights", ""]

    arguments = ["train", *context.meta[ARGUMENTS]]
    context.exit(launch.run(ranks, arguments, effects, restarts, resume))


def _monitors(keep: int | None, best: str, early_stop: int | None, folder: str) -> list[Monitor]:
    from minicaffe.solvers import EarlyStop, Keep

    output, colon, mode = best.rpartition(":")
    if not colon or mode not in ("max", "min"):
        output, mode = best, ""
    monitors: list[Monitor] = []
    if keep is not None or output:
        monitors.append(Keep(keep, output, mode))
    if early_stop is not None:
        monitors.append(EarlyStop(early_stop, output or "loss", mode))
    if folder:
        from minicaffe.tensorboard import TensorBoard

        monitors.append(TensorBoard(folder))
    return monitors


@contextlib.contextmanager
def _history_of(param: SolverParameter, rank: int) -> Iterator[list[Monitor]]:
    """Keeps other trainings from the snapshot prefix, and what is logged beside it: the monitors that do, if any can,
    of rank 0.

    SnapshotError if another training has the prefix, or if snapshots cannot be written there but shall be.
    """
    from minicaffe.errors import SnapshotError
    from minicaffe.solvers import History
    from minicaffe.solvers.lock import lock_prefix
    from minicaffe.tools.monitors import TextLog

    if rank:
        yield []
        return
    try:
        lock = lock_prefix(param.snapshot_prefix)
    except SnapshotError as error:
        if param.snapshot or param.snapshot_after_train:
            raise
        _log.warning("No history of this training is kept: %s", error)
        yield []
        return
    with lock, TextLog(f"{param.snapshot_prefix}_log.txt") as log:
        yield [History(), log]


@contextlib.contextmanager
def _shown(solver: Solver) -> Iterator[None]:
    """Shows a progress bar on a terminal."""
    from minicaffe.tools.monitors import ProgressBar

    screen = console.terminal()
    if screen is None:
        yield
        return
    with ProgressBar.shown(screen, solver) as bar:
        solver.monitors.append(bar)
        yield
