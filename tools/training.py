"""What ``minicaffe train`` leaves beside the snapshots: curves, the features; and how to go on."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from minicaffe.embedding import Tower
    from minicaffe.net import Net
    from minicaffe.solvers import Monitor, Solver
    from minicaffe.tensorboard import TensorBoard

    M = TypeVar("M", bound=Monitor)

_log = logging.getLogger(__name__)


def run(solver: Solver) -> None:
    """Train to the end, or until a signal or an early stop; tell which weights were best, and how to go on."""
    from minicaffe import backend
    from minicaffe.solvers import EarlyStop, Keep

    try:
        with backend.current().expecting(partial(_rehearse, solver)):
            solver.solve()
    except KeyboardInterrupt:
        _say_how_to_resume(solver)
        raise
    stop = _monitor(solver, EarlyStop)
    if solver.stopped and stop is not None and stop.reached:
        _log.info("Early stop: %d tests found nothing better than %s.", stop.without_improvement, stop.best)
    elif solver.stopped:
        _say_how_to_resume(solver)
    else:
        _log.info("Optimization Done.")
    keep = _monitor(solver, Keep)
    if keep is not None and keep.best is not None and keep.best.iteration >= 0:
        _log.info("Best weights: %s, %s", keep.best, keep.best_weights or "not of this snapshot_prefix")


def _rehearse(solver: Solver) -> None:
    """Call the ops of training, and of what ``leave_plots`` does then, where kernels are noted instead of run."""
    from minicaffe import embedding
    from minicaffe.errors import MinicaffeError

    solver.rehearse()
    with contextlib.suppress(MinicaffeError):  # it is told when it is done
        if _is_siamese(net := _shown(solver)):
            tower, _, images, _ = _labelled_images(net)
            if images is not None:
                embedding.rehearse(tower, images)


def _shown(solver: Solver) -> Net:
    """The net whose features are shown."""
    return solver.test_nets[0] if solver.test_nets else solver.net


def _is_siamese(net: Net) -> bool:
    return any(step.layer.type == "ContrastiveLoss" for step in net.steps)


def _monitor(solver: Solver, kind: type[M]) -> M | None:
    return next((one for one in solver.monitors if isinstance(one, kind)), None)


def _say_how_to_resume(solver: Solver) -> None:
    """Tell the command that goes on with an interrupted training."""
    state = solver.newest_snapshot or solver.restored_from
    if state is None:
        _log.warning("No snapshot was written: this training cannot be resumed (see snapshot, snapshot_after_train)")
        return
    _log.info("Stopped at iteration %d. To go on:\n  %s", solver.iter, _command_to_resume(state))


def _command_to_resume(state: str) -> str:
    """The command that was given, from another snapshot."""
    context = click.get_current_context()
    words = context.command_path.split()
    for param in context.command.params:
        name = param.name or ""
        if name in ("snapshot", "weights", "strict", "ignore", "rename"):
            continue
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name not in context.params:
            continue
        value = context.params[name]
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not False else []
    return shlex.join([*words, "--snapshot", state])


def leave_plots(solver: Solver) -> None:
    """Draw the history as curves and show a siamese net's features; say why where that cannot be done."""
    from minicaffe import compat
    from minicaffe.solvers import History

    can_plot, history = compat.have("matplotlib"), _monitor(solver, History)
    board = _board(solver)
    if not can_plot:
        _log.info("No plots: they need matplotlib; install it with: pip install 'minicaffe[plot]'")
    elif history is not None:
        _leave_curve(solver, history.path)
    net = _shown(solver)
    if _is_siamese(net) and (can_plot or board is not None):
        _leave_embedding(solver, net, f"{solver.param.snapshot_prefix}_embedding.png" if can_plot else None, board)


def _board(solver: Solver) -> TensorBoard | None:
    from minicaffe.tensorboard import TensorBoard

    return _monitor(solver, TensorBoard)


def _leave_curve(solver: Solver, log: str) -> None:
    from minicaffe import plot

    weights = [net.blob_loss_weights for net in solver.test_nets]
    losses = {name for net in weights for name, weight in net.items() if weight}
    trainings = plot.history_records(log, losses) if os.path.exists(log) else []
    if not any(trainings):
        _log.info("No loss curve: nothing was displayed or tested (the solver's display and test_interval)")
        return
    path = f"{solver.param.snapshot_prefix}_loss.png"
    plot.loss_curve(trainings[-1], path, trainings[:-1])
    _log.info("Loss curve: %s", path)


def _leave_embedding(solver: Solver, net: Net, path: str | None, board: TensorBoard | None) -> None:
    """Show and score the features of the labelled images that lie beside the test net's pairs, if there are any."""
    from minicaffe.errors import NetError
    from minicaffe.tools.embed import embed

    try:
        tower, pairs, images, train_images = _labelled_images(net)
    except NetError as error:
        _log.info("No plot of the features: %s", error)
        return
    if images is None:
        _log.info(
            "No plot of the features: there are no labelled images beside %s ('minicaffe embed' takes any)", pairs
        )
        return
    features, labels = embed(tower, lambda alone: alone.share_with(solver.net), images, train_images, path)
    if board is not None:
        board.embedding(features, labels)


def _labelled_images(net: Net) -> tuple[Tower, str, str | None, str | None]:
    """A siamese net's tower, its database of pairs, and the labelled images beside that: to test with, and to train.

    Raises NetError where no tower can be told apart.
    """
    from minicaffe.embedding import find_tower
    from minicaffe.tools import databases

    tower = find_tower(step.layer.layer_param for step in net.steps)
    pairs = net.source.resolve(tower.data.data_param.source)
    test, train = (databases.images_beside(pairs, split) for split in ("test", "train"))
    return tower, pairs, test, train
