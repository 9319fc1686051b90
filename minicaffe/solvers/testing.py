"""Tests between iterations: a test net run over some batches with the solver's weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from minicaffe.net import Net
from minicaffe.solvers import detection, progress
from minicaffe.solvers.monitor import SNAPSHOT, Scalar

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver
    from minicaffe.solvers.together import Together

_log = logging.getLogger(__name__)


def run(solver: Solver, index: int, together: Together, split: bool) -> bool:
    """Run test net ``index`` over ``test_iter`` batches, log what it found and tell the monitors; false if that is
    interrupted.

    Solvers that train ``together`` each take their share of the batches if the test is ``split``.
    """
    net, batches = solver.test_nets[index], solver.param.test_iter[index]
    _log.info("Iteration %d, Testing net (#%d)", solver.iter, index)
    if batches == 0:
        return True
    together.average_statistics()
    net.share_with(solver.net)
    found = _results(solver, net, batches, together, split)
    if found is None:
        return False
    outputs, loss = found
    mean_loss = loss if solver.param.test_compute_loss else None
    if mean_loss is not None:
        _log.info("Test loss: %g", mean_loss)
    progress.log_outputs("Test", outputs)
    for monitor in solver.monitors:
        monitor.test(solver.iter, index, outputs, mean_loss)
    return True


def _results(
    solver: Solver, net: Net, batches: int, together: Together, split: bool
) -> tuple[list[Scalar], float] | None:
    """What is reported of each output, and the mean loss; None if the test is interrupted."""

    def goes_on() -> bool:
        """Between the batches: obey what was requested; whether to go on.

        Solvers that train together obey after the test, all at the same time.
        """
        while not together.several and (action := solver.requested_action()) is not None:
            if action != SNAPSHOT:
                return False
            solver.snapshot()
        return True

    if solver.param.eval_type == "detection":
        how = solver.param.ap_version, solver.param.show_per_class_result
        return detection.mean_precisions(net, batches, goes_on, *how)
    if not split:
        return progress.mean_outputs(net, batches, goes_on)
    found = progress.mean_outputs(net, together.share_of(batches), goes_on)
    return found and (together.mean_scalars(found[0]), together.mean_number(found[1]))
