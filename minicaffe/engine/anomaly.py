"""Which layer made the first number that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.engine.assembly import Step
from minicaffe.errors import AnomalyError


def check_outputs(step: Step, names: Sequence[str]) -> None:
    """After a layer's forward: AnomalyError unless its tops are finite; ``names`` are those of the net's blobs."""
    tops = zip(step.top_ids, step.top, strict=True)
    _check(step, "forward", ((f"top '{names[i]}'", blob.peek_data()) for i, blob in tops))


def check_gradients(step: Step, names: Sequence[str]) -> None:
    """After a layer's backward: AnomalyError unless all gradients that it made are finite."""
    bottoms = zip(step.bottom_ids, step.bottom, step.propagate_down, strict=True)
    params = enumerate(zip(step.layer.blobs, step.layer.param_propagate_down, strict=False))
    _check(step, "backward", (
        *((f"the gradient of bottom '{names[i]}'", blob.peek_diff()) for i, blob, down in bottoms if down),
        *((f"the gradient of param {j}", blob.peek_diff()) for j, (blob, learns) in params if learns),
    ))  # fmt: skip


def _check(step: Step, direction: str, found: Iterable[tuple[str, NDArray]]) -> None:
    for what, values in found:
        finite = np.isfinite(values)
        if not finite.all():
            at = np.unravel_index(int(np.argmin(finite)), values.shape)
            raise step.layer.error(
                f"{direction} made {what} not finite: {values[at]} at {[int(i) for i in at]}, one of "
                f"{int((~finite).sum())} such values of {values.size}; all that layers before it made is finite. Look "
                "at "
                "its input and params, and lower base_lr or set clip_gradients if they have grown",
                kind=AnomalyError,
            )


def first_non_finite(steps: Sequence[Step], names: Sequence[str]) -> str:
    """ " (first found in layer ..., ...)" of the first step with a param or top that is not finite; "" if all are."""
    for step in steps:
        for what, blob in [
            *((f"param {j}", blob) for j, blob in enumerate(step.layer.blobs)),
            *((f"top '{names[i]}'", blob) for i, blob in zip(step.top_ids, step.top, strict=True)),
        ]:
            if not np.isfinite(blob.peek_data()).all():
                return f" (first found in layer '{step.layer.name}', {what})"
    return ""
