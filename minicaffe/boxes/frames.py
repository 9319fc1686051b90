"""Between boxes relative to what a net sees and boxes in the pixels of the image that it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes.geometry import clip, project

WARP, FIT_SMALL_SIZE, FIT_LARGE_SIZE_AND_PAD = 1, 2, 3
"""Values of ResizeParameter.Resize_mode."""


def padding(resize: Any, height: int, width: int) -> NDArray:
    """The box, relative to the padded image, that an image of these sizes fills after FIT_LARGE_SIZE_AND_PAD."""
    aspect = width / height
    if aspect > resize.width / resize.height:
        edge = (resize.height - resize.width / aspect) / 2 / resize.height
        return np.array([0, edge, 1, 1 - edge], np.float32)
    edge = (resize.width - resize.height * aspect) / 2 / resize.width
    return np.array([edge, 0, 1 - edge, 1], np.float32)


def in_pixels(boxes: NDArray, height: int, width: int, resize: Any = None) -> NDArray:
    """Boxes (…, 4) relative to an image as pixels of it; it had these sizes before it was resized by ``resize``, a
    ResizeParameter, whose padding is taken off."""
    size = np.array([width, height, width, height], boxes.dtype)
    if resize is not None and resize.resize_mode == FIT_LARGE_SIZE_AND_PAD:
        boxes, _ = project(padding(resize, height, width).astype(boxes.dtype), boxes)
    elif resize is not None and resize.resize_mode == FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        scale = np.array([resize.width_scale, resize.height_scale] * 2, boxes.dtype)
        return clip(boxes * scale, width, height)
    return clip(boxes) * size


def read_sizes(text: str) -> list[tuple[str, int, int]]:
    """The rows ``name height width`` of a name_size_file; ValueError naming the line of one that is not so."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()) or "0" in words[1:]:
            raise ValueError(f"line {number}: expected 'name height width'; found {line.strip()!r}")
        rows.append((words[0], int(words[1]), int(words[2])))
    return rows
