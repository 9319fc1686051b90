"""Compare what a layer computes on different backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicaffe import backend
from minicaffe.backend import Backend
from minicaffe.testing.definition import Definition
from minicaffe.testing.rig import Result, Rig, own_stream


def check_parity(
    layer: Definition,
    bottoms: Sequence[ArrayLike] = (),
    /,
    *,
    params: Sequence[ArrayLike] | None = None,
    top_diffs: Sequence[ArrayLike] | None = None,
    backward: bool = True,
    backends: Sequence[Backend] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    seed: int = 0,
    **how: Any,
) -> None:
    """Check that a layer computes the same tops, loss, bottom and param gradients on all ``backends``.

    ``check_parity("LRN", [x], alpha=5.0)``

    Args:
        layer: as for ``run``.
        bottoms: as for ``run``.
        params: as for ``run``.  Learned blobs that are all zero are drawn from N(0, 1), unless they are given here.
        backward: as for ``run``.
        top_diffs: as for ``run``; default: drawn from N(0, 1), or the loss weights of a loss.
        backends: what to compute on; all are compared with the first.  Default: the CPU, and the GPU that
            ``minicaffe.set_device`` chose.
        rtol: arrays a and b agree if ``|a - b| <= rtol * max|a| + atol`` everywhere (float32 rounding of a long sum),
            or both are NaN.
        atol: see ``rtol``.
        seed: of the layer's random numbers and those of the check.
        **how: as for ``run``.

    Random numbers differ between backends: check a random layer in the TEST phase.

    Raises AssertionError saying what differs, where and by how much; DeviceError or MissingExtraError if there is no
    GPU.
    """
    chosen = list(backends) if backends is not None else [backend.host_backend(), backend.gpu_backend()]
    if len(chosen) < 2:
        raise ValueError(f"parity needs at least two backends; found {len(chosen)}")
    results: list[Result] = []
    layers = []
    for where in chosen:
        with backend.use(where):
            rig = Rig(layer, bottoms, params=params, backward=backward, seed=seed, **how)
            layers.append(rig.layer)
            if params is None:
                rig.fill_zero_params(own_stream(seed))
                params = [blob.data.copy() for blob in rig.layer.blobs]
            results.append(_run(rig, top_diffs, own_stream(seed, "top_diffs") if backward else None))
    names = [where.name for where in chosen]
    problems = [
        problem
        for name, other in zip(names[1:], results[1:], strict=True)
        for problem in _differences(results[0], other, (names[0], name), rtol, atol)
    ]
    if problems:
        raise AssertionError(f"{layers[0].error('the backends disagree')}\n" + "\n".join(problems))


def _run(rig: Rig, top_diffs: Sequence[ArrayLike] | None, rng: np.random.Generator | None) -> Result:
    """What a rig computes on the current backend; backward too, with top gradients drawn from ``rng``, if
    there is one.
    """
    try:
        rig.forward()
        if rng is not None:
            if top_diffs is None and not rig.layer.layer_param.loss_weight:
                top_diffs = [rng.standard_normal(blob.shape) for blob in rig.top]
            rig.backward(top_diffs)
        return rig.result()
    finally:
        rig.net.close()


def _differences(a: Result, b: Result, names: tuple[str, str], rtol: float, atol: float) -> Iterator[str]:
    """One line for each array in which two results differ."""
    rows: list[tuple[str, Any, Any]] = [("loss", np.array(a.loss), np.array(b.loss))]
    for what, left, right in (
        ("top", a.tops, b.tops),
        ("gradient of bottom", a.bottom_diffs, b.bottom_diffs),
        ("gradient of param", a.param_diffs, b.param_diffs),
        ("param after forward", a.params, b.params),
    ):
        rows += [(f"{what} {i}", x, y) for i, (x, y) in enumerate(zip(left, right, strict=True)) if x is not None]
    for what, x, y in rows:
        if x.shape != y.shape:
            yield f"  {what}: shape {x.shape} on {names[0]}, {y.shape} on {names[1]}"
        elif (bad := _disagree(x, y, rtol, atol)).any():
            worst = np.unravel_index(np.argmax(np.where(bad, np.nan_to_num(np.abs(x - y), nan=np.inf), -1)), x.shape)
            yield (
                f"  {what}, shape {x.shape}: {bad.sum()} of {x.size} elements, most at {[int(i) for i in worst]}: "
                f"{x[worst]:.9g} on {names[0]}, {y[worst]:.9g} on {names[1]}"
            )


def _disagree(x: NDArray, y: NDArray, rtol: float, atol: float) -> NDArray:
    largest = np.abs(x[np.isfinite(x)]).max(initial=0)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        return ~(same | (np.abs(x - y) <= rtol * largest + atol))
