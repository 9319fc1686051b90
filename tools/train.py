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

if TYPE_CHECKING:
    from minicaffe.plot import Records
    from minicaffe.solvers import Solver
    from minicaffe.tools.signals import SignalActions

_log = logging.getLogger(__name__)

_EFFECTS = click.Choice(["snapshot", "stop", "none"])


@click.command(cls=Command)
@click.option("--solver", required=True, metavar="FILE", help="The solver, a prototxt: a path or a shipped model's file.")
@click.option("--snapshot", default="", metavar="FILE", help="Resume from this solver state.")
@click.option("--weights", default="", metavar="FILE[,FILE]", help="Start from these weights (fine-tuning).")
@options.gpu
@options.net_state
@click.option("--sigint_effect", type=_EFFECTS, default="stop", show_default=True, help="What Ctrl-C does.")
@click.option("--sighup_effect", type=_EFFECTS, default="snapshot", show_default=True, help="What SIGHUP does.")
def command(
    solver: str, snapshot: str, weights: str, gpu: str, level: int, stage: str, sigint_effect: str, sighup_effect: str
) -> None:
    """Train a net, or fine-tune one.

    Leaves weights and solver states at the solver's snapshot_prefix, and beside them a plot of the loss
    (PREFIX_loss.png) and, for a siamese net whose labelled test images lie beside its pairs, a plot of the features
    (PREFIX_embedding.png).  Example: minicaffe train --solver siamese/digits_solver.prototxt
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
    wants_gpu = param.HasField("solver_mode") and param.solver_mode == proto.SolverParameter.GPU
    options.choose_device(gpu, param.device_id if wants_gpu else None)
    if snapshot or weights:
        del param.weights[:]
    if weights:
        param.weights.append(weights)
    with contextlib.closing(solvers.create(param, path)) as trained:
        if snapshot:
            _log.info("Resuming from %s", snapshot)
            trained.restore(snapshot)
        effects = {signal.SIGHUP: sighup_effect, signal.SIGINT: sigint_effect}
        with _watched(trained) as records, SignalActions(effects) as actions:
            trained.requested_action = actions
            _log.info("Starting Optimization")
            trained.solve()
            _log.info("Optimization Done.")
        _leave_plots(trained, records)
