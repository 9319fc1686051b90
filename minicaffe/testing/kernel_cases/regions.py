"""Regions of interest, pooled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels import reference
from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, Values, normal, output

SHAPES: list[tuple[Shape, int, Shape]] = [
    # image, regions, grid
    ((1, 1, 1, 1), 1, (1, 1)),
    ((2, 3, 8, 9), 5, (3, 2)),
    ((3, 4, 14, 10), 20, (7, 7)),
    ((2, 70, 6, 5), 3, (2, 2)),
    ((1, 2, 5, 5), 0, (2, 2)),
]


def regions(items: int, count: int, size: float) -> Values:
    """Rows (item, x1, y1, x2, y2), some of them beyond the image, turned, far, or of an item that there is not."""

    def draw(rng: np.random.Generator, shape: Shape) -> NDArray:
        item = rng.integers(0, items, (shape[0], 1))
        corners = rng.uniform(-0.2, 0.8, (shape[0], 2)) * size
        rows = np.hstack([item, corners, corners + rng.uniform(-0.1, 1, (shape[0], 2)) * size])
        odd = [(items, 0, 0, 9, 9), (-1, 0, 0, 9, 9), (0, -1e30, -1e30, 1e30, 1e30), (0, *[np.nan] * 4)]
        rows[len(rows) - 4 :] = odd if len(rows) > 8 else rows[len(rows) - 4 :]
        return rows

    return Values((count, 5), draw)


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    large = [((2, max(1, sizes.large // (2 * 38 * 50)), 38, 50), 128, (7, 7))] if sizes.large else []
    for image, count, grid in [*SHAPES, *large]:
        yield from _pooled(image, count, grid)
    for bins, outputs, count in ((1, 1, 1), (3, 2, 5), (7, 4, 20)):
        image, pooled = (2, outputs * bins * bins, 9, 8), (count, outputs, bins, bins)
        rois = regions(2, count, 120)
        yield KernelCase("position_sensitive_pool", (normal(*image), rois, output(*pooled), 0.0625))
        yield KernelCase("position_sensitive_pool_grad", (normal(*pooled), rois, output(*image), 0.0625))


def _pooled(image: Shape, count: int, grid: Shape) -> Iterator[KernelCase]:
    pooled = (count, image[1], *grid)
    rois = regions(image[0], count, 16 * max(image[2:]))
    mask = output(*pooled, dtype=np.int32)
    chosen = Values(pooled, lambda rng, size: np.zeros(size), np.int32)
    for pad_ratio in (0.0, 0.25):
        how = ((0.0625, 0.125), pad_ratio)
        yield KernelCase("roi_pool", (normal(*image), rois, output(*pooled), mask, *how))
        yield KernelCase("roi_pool_grad", (normal(*pooled), chosen, rois, output(*image), *how), prepare=_choose)
        yield KernelCase("roi_sample", (normal(*image), rois, output(*pooled), 0.0625, pad_ratio))
        yield KernelCase("roi_sample_grad", (normal(*pooled), rois, output(*image), 0.0625, pad_ratio))


def _choose(dy: NDArray, mask: NDArray, rois: NDArray, dx: NDArray, *how: Any) -> None:
    """Fill the mask with the pixels that pooling of some image chose."""
    x = np.random.default_rng(1).standard_normal(dx.shape).astype(dx.dtype)
    reference.roi_pool(x, rois, np.empty_like(dy), mask, *how)
