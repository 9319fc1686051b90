"""One step of a long short-term memory, and its gradient."""

from __future__ import annotations

import math

from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import thread_count
from minicaffe.kernels.reference import Array


@kernel(inline=True)
def _sigmoid(x):
    return 0.5 * math.tanh(0.5 * x) + 0.5


@part_kernel()
def _unit_part(part, parts, c_before, gates, cont, c, h):
    n, d = c.shape
    low, high = share(part, parts, n)
    for r in range(low, high):
        for k in range(d):
            i, f, o = (_sigmoid(gates[r, k]), _sigmoid(gates[r, d + k]), _sigmoid(gates[r, 2 * d + k]))
            state = i * math.tanh(gates[r, 3 * d + k])
            if cont[r] != 0:
                state += cont[r] * f * c_before[r, k]
            c[r, k] = state
            h[r, k] = o * math.tanh(state)


@kernel()
def _unit(c_before, gates, cont, c, h, parts):
    parallel(_unit_part, parts, (c_before, gates, cont, c, h))


@part_kernel()
def _unit_grad_part(part, parts, c_before, gates, cont, c, dc, dh, dc_before, dgates):
    n, d = c.shape
    low, high = share(part, parts, n)
    for r in range(low, high):
        for k in range(d):
            i, f, o = (_sigmoid(gates[r, k]), _sigmoid(gates[r, d + k]), _sigmoid(gates[r, 2 * d + k]))
            g, squashed = math.tanh(gates[r, 3 * d + k]), math.tanh(c[r, k])
            total = dc[r, k] + dh[r, k] * o * (1 - squashed * squashed)
            keep, before = 0.0, 0.0
            if cont[r] != 0:
                keep, before = cont[r] * f, c_before[r, k]
            dgates[r, k] = total * g * i * (1 - i)
            dgates[r, d + k] = total * before * keep * (1 - keep)
            dgates[r, 2 * d + k] = dh[r, k] * squashed * o * (1 - o)
            dgates[r, 3 * d + k] = total * i * (1 - g * g)
            dc_before[r, k] = total * keep


@kernel()
def _unit_grad(c_before, gates, cont, c, dc, dh, dc_before, dgates, parts):
    parallel(_unit_grad_part, parts, (c_before, gates, cont, c, dc, dh, dc_before, dgates))


def lstm_unit(c_before: Array, gates: Array, cont: Array, c: Array, h: Array) -> None:
    """See ``reference.lstm_unit``."""
    _unit(c_before, gates, cont, c, h, thread_count())


def lstm_unit_grad(
    c_before: Array, gates: Array, cont: Array, c: Array, dc: Array, dh: Array, dc_before: Array, dgates: Array
) -> None:
    """See ``reference.lstm_unit_grad``."""
    _unit_grad(c_before, gates, cont, c, dc, dh, dc_before, dgates, thread_count())
