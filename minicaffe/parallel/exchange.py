"""Averaging the gradients of a group's nets, while backward still runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minicaffe import backend
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.parallel import shared_memory
from minicaffe.parallel.communicator import Communicator
from minicaffe.parallel.shared_memory import SharedRows
from minicaffe.storage import Storage

BUCKET = 4 << 20
"""Bytes of gradients that are exchanged at a time, at least: fewer messages of this size lose little to latency."""


@dataclass
class Stage:
    """Layers that run backward, ``last`` down to ``first``, and the gradients that are complete then.

    ``ranges`` are (start, stop) in the buffer of all params.
    """

    last: int
    first: int
    ranges: list[tuple[int, int]]


def stages(net: Net, bucket: int) -> list[Stage]:
    """The parts of a net's backward pass of which each completes at least ``bucket`` bytes of gradients.

    A param's gradient is complete once the first of the layers that share it has run.
    """
    waiting = sorted(net.learnable, key=lambda param: min(index for index, _ in param.users))
    found: list[Stage] = []
    last, ranges, size = len(net.steps) - 1, [], 0
    while waiting:
        param = waiting.pop()
        ranges.append((param.offset, param.offset + param.blob.count))
        size += param.blob.count * net.dtype.itemsize
        first = min(index for index, _ in param.users)
        if size >= bucket and waiting and min(index for index, _ in waiting[-1].users) < first:
            found.append(Stage(last, first, _joined(ranges)))
            last, ranges, size = first - 1, [], 0
    found.append(Stage(last, 0, _joined(ranges)))
    return found


def _joined(ranges: list[tuple[int, int]], gap: int = 16) -> list[tuple[int, int]]:
    """Ranges that follow each other, but for the elements that align params, as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] < gap:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined


class GradientExchange:
    """Forward and backward of a net whose gradients ``diff`` become the mean of all processes'.

    ``layer_wise``: each bucket's exchange begins as soon as its layers have run backward, and goes on while others do;
    else there is one exchange, after all.  Processes that all see the same memory exchange nothing: there gradients lie
    in it, and their mean is made after all layers.
    """

    def __init__(self, net: Net, diff: Storage, group: Communicator, layer_wise: bool) -> None:
        self._net, self._diff, self._group = net, diff, group
        self._stages: Sequence[Stage] = stages(net, BUCKET) if layer_wise else ()
        self._rows: SharedRows | None = None

    def begin(self) -> None:
        """Move the gradients of several processes into memory that all see, if there can be any; all do it together."""
        if fast_paths.taken("shared_gradients"):
            self._rows = shared_memory.connect(self._group, self._diff.size, self._diff.dtype)
        if self._rows is not None:
            self._diff.move_to(self._rows.mine)

    def run(self, loss_scale: Storage | None = None, keep: Callable[[Any], None] | None = None) -> None:
        """Forward, backward and the exchange; ``loss_scale`` as in ``Net.forward_backward``, and so ``keep``, which is
        for a group of one.
        """
        group, diff = self._group, self._diff
        if self._rows is not None and backend.current().is_host:
            self._net.forward_backward(loss_scale)
            diff.array()
            self._rows.mean()
            return
        if group.size == 1 or len(self._stages) < 2:
            self._net.forward_backward(loss_scale, keep)
            if group.size > 1:
                group.mean(diff.array())
            return
        self._net.run_forward()
        waits: list[Callable[[], None]] = []
        with self._net.scaled_losses(loss_scale):
            for stage in self._stages:
                self._net.run_backward(stage.last, stage.first)
                waits += [group.start_sum(diff.array(start, stop)[start:stop]) for start, stop in stage.ranges]
        for wait in waits:
            wait()
        diff.array()[...] *= 1 / group.size
