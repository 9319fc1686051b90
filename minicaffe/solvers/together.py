"""What a solver does with those of the other processes that train the same model: one model, one log, one snapshot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from minicaffe import proto, weights
from minicaffe.errors import DeviceError, WeightsError
from minicaffe.parallel import Communicator
from minicaffe.parallel.exchange import GradientExchange
from minicaffe.solvers.monitor import Scalar
from minicaffe.storage import Storage

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)


class Together:
    """The solvers of a group, each with its own batches, that keep equal weights.

    The gradient is the mean of theirs, so that N solvers with batches of b step as one with batches of N·b, but for
    rounding; layers that look at a whole batch, such as BatchNorm, look at their own process's.  Everything here is
    done by all of them, at the same time.  A group of one costs nothing.
    """

    def __init__(self, solver: Solver, group: Communicator, data: Storage, diff: Storage) -> None:
        self.group = group
        self._net = solver.net
        self._data = data
        self._exchange = GradientExchange(solver.net, diff, group, solver.param.layer_wise_reduce)

    @property
    def several(self) -> bool:
        """Whether there is more than one solver."""
        return self.group.size > 1

    def begin(self) -> None:
        """Begin from the weights of rank 0."""
        if not self.several:
            return
        self._exchange.begin()
        self.group.broadcast(self._data.array())
        for step in self._net.steps:
            if not step.bottom and not getattr(step.layer, "shares_records", True):
                _log.warning("layer '%s' (%s) reads the same on every rank", step.layer.name, step.layer.type)

    def forward_backward(
        self, last: bool, loss_scale: Storage | None = None, keep: Callable[[Any], None] | None = None
    ) -> None:
        """A forward and backward pass; after the ``last`` of an iteration gradients are the mean of all solvers'.

        ``loss_scale`` and ``keep``: see ``Net.forward_backward``; several solvers keep no loss.
        """
        if last:
            self._exchange.run(loss_scale, keep)
        else:
            self._net.forward_backward(loss_scale, keep)

    def mean(self, value: Any) -> Any:
        """The mean of an array of each."""
        if self.several:
            value = value.copy()
            self.group.mean(value)
        return value

    def mean_scalars(self, values: Sequence[Scalar]) -> list[Scalar]:
        """Of outputs, each the mean of all solvers'."""
        if not self.several:
            return list(values)
        found = self.group.gather([scalar.value for scalar in values])
        means = [sum(of_each) / self.group.size for of_each in zip(*found, strict=True)]
        return [replace(scalar, value=mean) for scalar, mean in zip(values, means, strict=True)]

    def mean_number(self, value: float) -> float:
        """The mean of a number of each."""
        return sum(self.group.gather(value)) / self.group.size

    def share_of(self, batches: int) -> int:
        """How many of a split test's batches each runs; DeviceError if they cannot have as many each."""
        if batches % self.group.size:
            raise DeviceError(
                f"test_iter was set to {batches}, of which {self.group.size} ranks cannot have as many each; say so in "
                "the solver's file"
            )
        return batches // self.group.size

    def union(self, asked: Iterable[str | None]) -> set[str | None]:
        """What any of them is asked for."""
        return set(asked) if not self.several else set().union(*self.group.gather(set(asked)))

    def average_statistics(self) -> None:
        """Make running statistics of layers the mean of all solvers'."""
        if self.several:
            for step in self._net.steps:
                for blob in step.layer.statistics():
                    self.group.mean(blob.xdata)


def check_agreement(group: Communicator, param: proto.SolverParameter, resolve: Callable[[str], str]) -> None:
    """DeviceError, on all, if a solver of the group trains something else; before nets are built.

    ``resolve`` finds the files that ``param`` names.
    """
    if group.size == 1:
        return
    _compare(group, _facts(param, resolve))


def check_same_state(group: Communicator, path: str) -> None:
    """DeviceError, on all, if a solver of the group would go on from another solver state."""
    if group.size == 1:
        return
    try:
        found = weights.checksum(path)
    except WeightsError:  # told by who reads it, unless the others can
        found = ""
    _compare(group, {f"the solver state {path}": found})


def _compare(group: Communicator, facts: dict[str, Any]) -> None:
    everyone = group.gather(facts)
    for rank, theirs in enumerate(everyone):
        differing = [what for what, first in everyone[0].items() if theirs[what] != first]
        if differing:
            raise DeviceError(
                f"rank {rank} and rank 0 do not train the same: they differ in {', '.join(differing)}; start all ranks "
                "with the same files, arguments and version of minicaffe"
            )


def _facts(param: proto.SolverParameter, resolve: Callable[[str], str]) -> dict[str, Any]:
    """What all ranks must have the same of, by what it is called."""
    nets = [*param.test_net, *(getattr(param, field) for field in ("net", "train_net") if param.HasField(field))]
    files = [path for paths in param.weights for path in paths.split(",") if path]
    return {
        "the version of minicaffe": version("minicaffe"),
        "the solver's definition": param.SerializeToString(deterministic=True),
        "the nets' definitions": [weights.checksum(resolve(path)) for path in nets],
        "the files of weights": [weights.checksum(path) for path in files],
    }
