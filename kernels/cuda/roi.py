"""Regions of interest, pooled: one thread for each element of a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.kernels.cuda.launch import Launcher, program

_SIZES = np.dtype([(name, np.int32) for name in ("items", "channels", "height", "width", "regions", "rows", "columns")])


def _sizes(image: Sequence[int], pooled: Sequence[int]) -> np.ndarray:
    """roi.cu's struct ``Sizes``."""
    return np.array((*image, pooled[0], *pooled[2:]), _SIZES)


class RoiOps:
    """The functions of ``kernels/reference/roi.py``."""

    launch: Launcher

    def roi_pool(self, x: Any, rois: Any, y: Any, mask: Any, scale: Sequence[float], pad_ratio: float) -> None:
        """See ``kernels.reference.roi_pool``."""
        self._roi("roi_pool", x.shape, y.shape, y, x, rois, y, mask, *_scalars(x, *scale, pad_ratio))

    def roi_pool_grad(self, dy: Any, mask: Any, rois: Any, dx: Any, scale: Sequence[float], pad_ratio: float) -> None:
        """See ``kernels.reference.roi_pool_grad``."""
        scalars = _scalars(dx, *scale, pad_ratio)
        self._roi("roi_pool_grad", dx.shape, dy.shape, dx, dy, mask, rois, dx, *scalars)

    def position_sensitive_pool(self, x: Any, rois: Any, y: Any, scale: float) -> None:
        """See ``kernels.reference.position_sensitive_pool``."""
        self._roi("position_sensitive_pool", x.shape, y.shape, y, x, rois, y, *_scalars(x, scale))

    def position_sensitive_pool_grad(self, dy: Any, rois: Any, dx: Any, scale: float) -> None:
        """See ``kernels.reference.position_sensitive_pool_grad``."""
        self._roi("position_sensitive_pool_grad", dx.shape, dy.shape, dx, dy, rois, dx, *_scalars(dx, scale))

    def roi_sample(self, x: Any, rois: Any, y: Any, scale: float, pad_ratio: float) -> None:
        """See ``kernels.reference.roi_sample``."""
        self._roi("roi_sample", x.shape, y.shape, y, x, rois, y, *_scalars(x, scale, pad_ratio))

    def roi_sample_grad(self, dy: Any, rois: Any, dx: Any, scale: float, pad_ratio: float) -> None:
        """See ``kernels.reference.roi_sample_grad``."""
        self._roi("roi_sample_grad", dx.shape, dy.shape, dx, dy, rois, dx, *_scalars(dx, scale, pad_ratio))

    def _roi(self, kernel: str, image: Sequence[int], pooled: Sequence[int], result: Any, *args: Any) -> None:
        planes, size = result.shape[0] * result.shape[1], result.shape[2] * result.shape[3]
        self.launch.planes(program("roi", result.dtype), kernel, planes, size, *args, _sizes(image, pooled))


def _scalars(like: Any, *values: float) -> tuple[Any, ...]:
    """Numbers in the dtype of an array."""
    return tuple(np.dtype(like.dtype).type(value) for value in values)
