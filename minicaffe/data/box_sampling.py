"""Random parts of an image: those with enough of an object (``batch_sampler`` of SSD), and those of jittered edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.boxes import geometry
from minicaffe.data.distortion import between, chance
from minicaffe.errors import DataError

KINDS = ("jaccard_overlap", "sample_coverage", "object_coverage")
MOST_TRIALS = 10_000
"""So many for each image take a fifth of a second."""


def check_samplers(samplers: Sequence[Any]) -> None:
    """DataError for bounds of BatchSamplers that leave nothing to draw."""
    for number, each in enumerate(samplers):
        s, where = each.sampler, f"annotated_data_param.batch_sampler, number {number + 1}"
        if not 0 < s.min_scale <= s.max_scale <= 1:
            raise DataError(
                f"{where}: needs 0 < min_scale <= max_scale <= 1; found {s.min_scale:g} and {s.max_scale:g}"
            )
        if not 0 < s.min_aspect_ratio <= s.max_aspect_ratio < np.inf:
            raise DataError(
                f"{where}: needs 0 < min_aspect_ratio <= max_aspect_ratio; found {s.min_aspect_ratio:g} and "
                f"{s.max_aspect_ratio:g}"
            )
        if each.max_trials > MOST_TRIALS:
            raise DataError(f"{where}: max_trials must be at most {MOST_TRIALS}; found {each.max_trials}")


def sample(samplers: Sequence[Any], objects: np.ndarray, stream: Stream) -> np.ndarray | None:
    """One of the parts (4,) that the BatchSamplers find in an image with these ``objects`` (G, 4); None if none does.

    Each draws at most ``max_trials`` parts until ``max_sample`` of them meet its ``sample_constraint`` with one of the
    objects.
    """
    found: list[np.ndarray] = []
    for each in samplers:
        if not each.use_original_image:
            continue
        limit = each.max_sample if each.HasField("max_sample") else each.max_trials
        own: list[np.ndarray] = []
        for _ in range(each.max_trials):
            if len(own) >= limit:
                break
            part = _draw(each.sampler, stream)
            if satisfies(part, objects, each.sample_constraint):
                own.append(part)
        found += own
    return found[stream.draw() % len(found)] if found else None


def jittered(jitter: float, keeps_proportions: bool, stream: Stream) -> np.ndarray | None:
    """A part (4,) of 1 - ``jitter`` to 1 of the width, and the height, at a random place (MobileNet-YOLO).

    A fifth of the images stay as they are (None), for another fifth the ``jitter`` is half as much.
    ``keeps_proportions``: the height is cut as much as the width.
    """
    drawn = chance(stream)
    if drawn < 0.2:
        return None
    least = 1 - (jitter / 2 if drawn < 0.4 else jitter)
    width = between(stream, least, 1)
    height = width if keeps_proportions else between(stream, least, 1)
    left, top = between(stream, 0, 1 - width), between(stream, 0, 1 - height)
    return np.array([left, top, left + width, top + height], np.float32)


def _draw(sampler: Any, stream: Stream) -> np.ndarray:
    """A part of ``scale`` squared of the image, at a random place."""
    scale = between(stream, sampler.min_scale, sampler.max_scale)
    ratio = between(stream, sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    ratio = min(max(ratio, scale**2), 1 / scale**2)
    width, height = min(scale * ratio**0.5, 1), min(scale / ratio**0.5, 1)
    left, top = between(stream, 0, 1 - width), between(stream, 0, 1 - height)
    return np.array([left, top, left + width, top + height], np.float32)


def satisfies(part: np.ndarray, objects: np.ndarray, constraint: Any) -> bool:
    """Whether ``part`` lies as a SampleConstraint wants it to one of the objects; without a constraint it always does.

    SSD's code looks at the first kind of constraint only if several are given; here all must hold.
    """
    bounds = {
        kind: tuple(getattr(constraint, f"{end}_{kind}") if constraint.HasField(f"{end}_{kind}") else None
                    for end in ("min", "max"))
        for kind in KINDS
    }  # fmt: skip
    given = {kind: ends for kind, ends in bounds.items() if ends != (None, None)}
    if not given:
        return True
    holds = np.ones(len(objects), bool)
    for kind, (least, most) in given.items():
        values = _MEASURES[kind](part, objects)
        holds &= (values >= (-np.inf if least is None else least)) & (values <= (np.inf if most is None else most))
    return bool(holds.any())


_MEASURES = {
    "jaccard_overlap": geometry.jaccard,
    "sample_coverage": geometry.coverage,
    "object_coverage": lambda part, objects: geometry.coverage(objects, part),
}
