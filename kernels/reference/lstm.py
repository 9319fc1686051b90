"""One step of long short-term memory."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.reference.arrays import Array


def _sigmoid(x: Array) -> Array:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def lstm_unit(c_before: Array, gates: Array, cont: Array, c: Array, h: Array) -> None:
    """One step of an LSTM: c_before, c, h (N, D), gates (N, 4D) i, f, o, g before their nonlinearities, cont (N,).

    ``c = cont sigmoid(f) c_before + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``; where cont is 0, c_before is not
    read.
    """
    i, f, o, g = np.split(gates, 4, axis=1)
    keep = np.where(cont[:, None] == 0, 0, cont[:, None] * _sigmoid(f) * np.where(cont[:, None] == 0, 0, c_before))
    c[...] = keep + _sigmoid(i) * np.tanh(g)
    h[...] = _sigmoid(o) * np.tanh(c)


def lstm_unit_grad(
    c_before: Array, gates: Array, cont: Array, c: Array, dc: Array, dh: Array, dc_before: Array, dgates: Array
) -> None:
    """Gradients of ``lstm_unit``: dc_before (N, D) and dgates (N, 4D) from dc and dh (N, D); dc_before may be dc.

    Caffe: the gradient of f uses ``cont sigmoid(f)`` as if it were a sigmoid's value, which differs if cont is neither
    0 nor 1.
    """
    i, f, o = (_sigmoid(part) for part in np.split(gates[:, : 3 * c.shape[1]], 3, axis=1))
    g, squashed = np.tanh(gates[:, 3 * c.shape[1] :]), np.tanh(c)
    keep = np.where(cont[:, None] == 0, 0, cont[:, None] * f)
    before = np.where(cont[:, None] == 0, 0, c_before)
    total = dc + dh * o * (1 - squashed * squashed)
    dgates[...] = np.concatenate(
        [
            total * g * i * (1 - i),
            total * before * keep * (1 - keep),
            dh * squashed * o * (1 - o),
            total * i * (1 - g * g),
        ],
        axis=1,
    )
    dc_before[...] = total * keep
