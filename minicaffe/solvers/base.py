"""The solver: the training loop, tests, learning rate, regularisation and snapshots that all update rules share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minicaffe import arguments, backend, compat, glog, models, parallel, proto
from minicaffe.backend import random, ranks, usage
from minicaffe.errors import ArgumentError, SnapshotError
from minicaffe.matching import BY_NAME, Matching
from minicaffe.net import Net
from minicaffe.proto.files import read_solver
from minicaffe.proto.origin import Origin
from minicaffe.solvers import monitor as monitoring
from minicaffe.solvers import progress, testing, together
from minicaffe.solvers import snapshot as snapshots
from minicaffe.solvers.callbacks import Callbacks
from minicaffe.solvers.definition import Definition
from minicaffe.solvers.lock import PrefixLock, lock_prefix
from minicaffe.solvers.loss_scale import DYNAMIC, LossScale
from minicaffe.solvers.monitor import SNAPSHOT, STOP, Monitor, Scalar
from minicaffe.solvers.notebook import ProgressLine
from minicaffe.solvers.policy import Schedule
from minicaffe.solvers.smoothing import SmoothedLoss
from minicaffe.solvers.stepping import Stepper
from minicaffe.solvers.together import Together
from minicaffe.solvers.update_rule import UpdateRule
from minicaffe.storage import Storage
from minicaffe.weights import load_into

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger(__name__)

registry: dict[str, type[Solver]] = {}
"""Solver classes by the ``type`` that a solver prototxt names."""


class Solver(UpdateRule):
    """Trains a net as a solver prototxt says.

    A kind of solver declares how many history buffers it keeps (``slots``) and how one contiguous segment of the params
    is updated (``update``); everything else is here.  Caffe's order of an iteration: test, forward and backward
    ``iter_size`` times, clip the summed gradient, divide it by ``iter_size``, add the weight decay, update, snapshot.
    Of several solvers that train together (``ranks``), the one of rank 0 tests and writes snapshots.

    As long as it trains, no other process can with the same ``snapshot_prefix``: from the first ``snapshot``, or
    ``step`` that may write one, to ``close``; or while ``solve`` runs.

    ``close`` ends the threads of its nets' data layers; a ``with`` block does.

    ``matching`` says how the layers of the weights that the definition names find those of the nets; ``loaded`` tells
    what became of each.

    Test nets use the training net's weights from the beginning.  Caffe: from their first test on.

    Raises PrototxtError for a solver that contradicts itself, WeightsError for a test net whose weights have other
    shapes, and whatever building its nets raises.
    """

    type: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.type:
            registry[cls.type] = cls

    def __init__(
        self,
        solver: str | os.PathLike | proto.SolverParameter,
        path: str | None = None,
        matching: Matching = BY_NAME,
    ) -> None:
        if isinstance(solver, proto.SolverParameter):
            self.param, self.source = solver, Origin(path)
        else:
            path = models.find(solver)
            self.param, self.source = read_solver(path), Origin(path)
        self.rank = ranks.solver_rank()
        self.iter = 0
        self.stopped = False
        self.monitors: list[Monitor] = [ProgressLine()] if compat.notebook() else []
        self._begun: list[Monitor] = []
        self.restored_from: str | None = None
        self.newest_snapshot: str | None = None
        self._unclaimed: dict[str, dict[str, Any]] = {}
        self.requested_action: Callable[[], str | None] = lambda: None
        self._callbacks = Callbacks()
        glog.by_default()
        definition = Definition(self.param, self.source)
        definition.check()
        self._require = definition.require
        self._check()
        together.check_agreement(parallel.group(), self.param, self.source.resolve)
        _log.info("Initializing solver from parameters: \n%s", self.param)
        if self.param.random_seed >= 0:
            random.seed(self.param.random_seed + self.rank)
        self.net = definition.train_net()
        self.loaded = [report for paths in self.param.weights for report in load_into(self.net, paths, matching)]
        matching.check_used(self.loaded)
        self.test_nets = list(definition.test_nets(matching))
        self._split_tests = definition.split_tests
        data, diff = self.net.pack_params()
        self._together = Together(self, parallel.group(), data, diff)
        self._together.begin()
        self._share_with_test_nets()
        self.history = [Storage(data.size, self.net.dtype) for _ in range(self.slots)]
        self._stepper = Stepper(self.net, data, diff)
        usage.account_for(self, Solver._memory_on)
        losses = self._losses = SmoothedLoss(self.param.average_loss, self.net.dtype)
        self.schedule = Schedule(self.param, self.net.dtype, lambda: losses.mean)
        self._restored = False
        self._lock: PrefixLock | None = None
        self._speed = progress.Speed()
        self.loss_scale: LossScale | None = None
        _log.info("Solver scaffolding done.")

    def __repr__(self) -> str:
        total = f" of {self.param.max_iter}" if self.param.max_iter else ""
        nets = f"net '{self.net.name}', {len(self.test_nets)} test net{'s' if len(self.test_nets) != 1 else ''}"
        return f"<{type(self).__name__} iteration {self.iter}{total}, lr {self.lr:g}: {nets}>"

    def _memory_on(self, where: backend.Backend) -> list[usage.Part]:
        """What the solver holds on a backend beside its nets."""
        return [(f"history of the {self.type} solver", {id(slot): slot.bytes_on(where) for slot in self.history})]

    def _check(self) -> None:
        """What a kind of solver asks of the fields beside: a PrototxtError unless they make sense."""

    @property
    def detect_anomaly(self) -> bool:
        """Whether training and tests end with an AnomalyError that names the first layer whose output or gradient is
        not finite; see ``Net``.  It takes time.
        """
        return self.net.detect_anomaly

    @detect_anomaly.setter
    def detect_anomaly(self, wanted: bool) -> None:
        for net in (self.net, *self.test_nets):
            net.detect_anomaly = wanted

    @property
    def precision(self) -> str:
        """That of its nets: see ``Net.precision``.  To set it is ``use_precision`` with the usual loss scale."""
        return self.net.precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self.use_precision(precision)

    def use_precision(self, precision: str, loss_scale: float | str | None = None) -> None:
        """Let the nets compute in "fp32", "fp16" or "bf16" from now on, with a ``loss_scale``: see ``LossScale``.

        By default it is "dynamic" for fp16, and none for the others.  Gradients are times the loss scale between
        backward and the update.  ArgumentError for what there is not.
        """
        given = loss_scale if loss_scale is not None else DYNAMIC if precision == "fp16" else 1
        scale = LossScale(given)
        for net in (self.net, *self.test_nets):
            net.precision = precision
        self.loss_scale = None if scale.is_one else scale

    def _share_with_test_nets(self) -> None:
        for net in self.test_nets:
            net.share_with(self.net)

    # --- the loop ------------------------------------------------------------------------------------------------

    def solve(self, resume: str | os.PathLike | None = None) -> None:
        """Train until ``max_iter``, from the beginning or from a solver state; stops early if asked to.

        SnapshotError if another process trains with the same ``snapshot_prefix``.
        """
        self._require(self.param.HasField("max_iter"), "max_iter", "must be given: the iterations to train for", "none")
        held = self._lock
        if self.param.snapshot_after_train:
            self._lock_prefix()
        try:
            self._solve(resume)
        finally:
            self._lock = held

    def _solve(self, resume: str | os.PathLike | None) -> None:
        _log.info("Solving %s", self.net.name)
        _log.info("Learning Rate Policy: %s", self.param.lr_policy)
        if resume is not None:
            self.restore(resume)
        self.step(self.param.max_iter - self.iter)
        p = self.param
        if self._writes and p.snapshot_after_train and (not p.snapshot or self.iter % p.snapshot):
            self.snapshot()
        if self.stopped:
            _log.info("Optimization stopped early.")
            return
        if p.display and self.iter % p.display == 0:
            self.net.run_forward()
            self._losses.add(self._together.mean(self.net.loss_array))
            _log.info("Iteration %d, loss = %g", self.iter, self.smoothed_loss)
            self._tell_display(self._outputs())
        if p.test_interval and self.iter % p.test_interval == 0:
            self.test_all()
            self._obey(None)
        _log.info("Optimization Done.")

    def step(self, n: int) -> None:
        """Run ``n`` iterations.  Caffe: the smoothed loss starts anew at every call; here it goes on after
        ``restore``.
        """
        p = self.param
        glog.by_default()
        if p.snapshot:
            self._lock_prefix()
        self._begin()
        self.stopped = False
        stop = self.iter + arguments.whole(n, "the number of iterations")
        if not self._restored:
            self._losses.clear()
        self._restored = False
        self._speed.begin(self.iter)
        with backend.current().expecting(self.rehearse):
            self._iterate(stop)
        for monitor in self.monitors:
            monitor.stepped(self)

    def _iterate(self, stop: int) -> None:
        p, net = self.param, self.net
        while self.iter < stop:
            net.clear_param_diffs(lazily=True)
            if p.test_interval and self.iter % p.test_interval == 0 and (self.iter > 0 or p.test_initialization):
                self.test_all()
                self._obey(None)
                if self.stopped:
                    break
            self._callbacks.start()
            show = bool(p.display) and self.iter % p.display == 0
            net.debug_info = show and p.debug_info
            scale = self.loss_scale.storage if self.loss_scale else None
            for k in range(p.iter_size):
                keep = None if self._together.several else self._losses.add_within(p.iter_size)
                self._together.forward_backward(k == p.iter_size - 1, scale, keep)
                if keep is None:
                    self._losses.add(self._together.mean(net.loss_array), k == 0, p.iter_size)
            if backend.current().is_host or show:
                backend.current().run_checks()
                progress.require_finite(self._losses.last, self.iter, net)
            if show:
                self._display()
            self._callbacks.gradients_ready()
            for monitor in self.monitors:
                monitor.gradients(self)
            self.apply_update()
            for monitor in self.monitors:
                monitor.iteration(self)
            self._obey(self.requested_action(), due=bool(p.snapshot) and self.iter % p.snapshot == 0)
            if self.stopped:
                break

    def rehearse(self) -> None:
        """Call the ops of an iteration and of the tests, where kernels are noted instead of run."""
        self.net.rehearse(backward=True)
        for net in self.test_nets:
            net.rehearse(backward=False)
        if self.capturable and "update" not in vars(self):  # a user's may do more than that
            self._stepper.take(self, self.lr)

    def _begin(self) -> None:
        """Tell the monitors that are new, or that a restore gave another state, that work begins."""
        if self._begun != self.monitors:
            for monitor in [one for one in self.monitors if one not in self._begun]:
                monitoring.restore([monitor], self._unclaimed)
                monitor.begin(self)
            self._begun = list(self.monitors)

    def _obey(self, action: str | None, due: bool = False) -> None:
        """Write a snapshot if one is ``due``, and do what was requested or what a monitor asks for."""
        asked = self._together.union([action, *(monitor.request() for monitor in self.monitors)])
        if self._writes and (due or SNAPSHOT in asked):
            self.snapshot()
        self.stopped = self.stopped or STOP in asked

    @property
    def smoothed_loss(self) -> float:
        """Mean of the last ``average_loss`` losses of this ``step``."""
        return self._losses.mean

    def state(self) -> dict[str, Any]:
        """What the learning rate depends on beside ``iter`` and ``current_step``, as values that JSON can hold."""
        return {
            **self._losses.state(),
            "minimum_loss": self.schedule.minimum_loss, "last_event": self.schedule.last_event,
            **({"loss_scale": self.loss_scale.state()} if self.loss_scale else {}),
        }  # fmt: skip

    def restore_state(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``; the losses of another ``average_loss`` are left out."""
        self.schedule.minimum_loss, self.schedule.last_event = state["minimum_loss"], state["last_event"]
        if self.loss_scale and "loss_scale" in state:
            self.loss_scale.restore(state["loss_scale"])
        self._restored = self._losses.restore(state)

    def _display(self) -> None:
        self._speed.log(self.iter, self.param.display, self.smoothed_loss)
        outputs = self._outputs()
        progress.log_outputs("Train", outputs)
        self._tell_display(outputs)

    def _outputs(self) -> list[Scalar]:
        """The training net's outputs, as they are now."""
        return self._together.mean_scalars(progress.outputs(self.net))

    def _tell_display(self, outputs: list[Scalar]) -> None:
        loss, rate = self.smoothed_loss, self.lr
        for monitor in self.monitors:
            monitor.display(self.iter, loss, outputs, rate)

    # --- tests ---------------------------------------------------------------------------------------------------

    def test_all(self) -> None:
        """Test every test net with the current weights, on the solver of rank 0, or on all that train together."""
        for i in range(len(self.test_nets)):
            if not self.stopped and self._writes:
                self.test(i)

    def test(self, index: int = 0) -> None:
        """Run test net ``index`` over ``test_iter`` batches and report the mean of each output; nothing if
        that is 0.
        """
        self._begin()
        if not testing.run(self, index, self._together, self._split_tests[index]):
            self.stopped = True
            _log.info("Test interrupted.")

    # --- hooks ---------------------------------------------------------------------------------------------------

    def add_callback(self, on_start: Any, on_gradients_ready: Callable[[], Any] | None = None) -> None:
        """Call the first before each iteration, the second when its gradients are complete.

        Instead of both it takes an object that has them as methods, such as an ``NCCL``.
        """
        self._callbacks.add(on_start, on_gradients_ready)

    def share_weights(self, net: Net) -> None:
        """Let ``net`` use this solver's weights from now on."""
        if not isinstance(net, Net):
            raise ArgumentError(f"share_weights takes a net; found {net!r}")
        net.share_with(self.net)

    def close(self) -> None:
        """Close files, the monitors' too, and stop threads of the nets' data layers; weights and solver can still be
        looked at.
        """
        for monitor in self.monitors:
            monitor.close()
        for net in (self.net, *self.test_nets):
            net.close()
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- snapshots -----------------------------------------------------------------------------------------------

    @property
    def _writes(self) -> bool:
        """Whether tests and snapshots are this solver's to make, alone or with others."""
        return self.rank == 0 or self._together.several

    def snapshot(self) -> str:
        """Write ``<snapshot_prefix>_iter_<iter>`` weights and solver state, each whole or not at all; returns the
        state's path.

        Solvers that train together call it at the same time, and rank 0 writes.  SnapshotError if that fails, if
        weights are not finite, or if another process trains with the same prefix.
        """
        self._lock_prefix()
        self._begin()
        if not all(np.isfinite(param.blob.peek_data()).all() for param in self.net.learnable):
            raise SnapshotError(
                f"not writing a snapshot at iteration {self.iter}: the weights are not "
                f"finite{self.net.first_non_finite()}"
            )
        self._together.average_statistics()
        model, state = snapshots.write(self, self._together.group)
        self.newest_snapshot = state
        for monitor in self.monitors:
            monitor.snapshot(model, state)
        return state

    def _lock_prefix(self) -> None:
        """Keep the lock on ``snapshot_prefix``, if snapshots are this solver's to write."""
        if self.rank == 0:
            self._lock = lock_prefix(self.param.snapshot_prefix)

    def restore(self, path: str | os.PathLike) -> None:
        """Continue from a solver state, binary or HDF5: iteration, weights, history; and, if minicaffe wrote it, bit
        for bit.

        SnapshotError, WeightsError or DataError for a state that is damaged, that is another solver's or net's, or
        whose weights file is not the one that it was written with: the solver is then as before.

        The monitors, those too that are appended before the work goes on, get the state back that they had.
        """
        path = arguments.path(path, "a solver state", SnapshotError)
        together.check_same_state(self._together.group, path)
        self._unclaimed = snapshots.read(self, path)
        self.restored_from, self._begun = path, []
        self._share_with_test_nets()
