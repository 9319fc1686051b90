"""Which values layers in place overwrite although a backward pass reads them: steps keep copies of those."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step


def find_lost(steps: Sequence[Step]) -> list[list[Blob]]:
    """For each step, the blobs that its backward reads and a later layer overwrites in place; none without backward."""
    overwriters: dict[int, list[tuple[int, Step]]] = {}
    for index, step in enumerate(steps):
        for blob in step.overwritten():
            overwriters.setdefault(id(blob.data_storage), []).append((index, step))

    def is_lost(blob: Blob, reader: int) -> bool:
        kept = ("all", "sign") if steps[reader].layer.reads_sign else ("all",)
        later = (step for index, step in overwriters.get(id(blob.data_storage), ()) if index > reader)
        return any(step.layer.leaves not in kept for step in later)

    return [
        [blob for blob in step.read_in_backward() if is_lost(blob, index)] if step.need_backward else []
        for index, step in enumerate(steps)
    ]
