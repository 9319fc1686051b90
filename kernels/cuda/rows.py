"""Rows of a matrix by index."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class RowsOps:
    """The functions of ``kernels/reference/rows.py``."""

    launch: Launcher

    def gather_rows(self, x: Any, index: Any, y: Any) -> None:
        """See ``kernels.reference.gather_rows``."""
        self.launch.planes(program("rows", x.dtype), "gather_rows", *y.shape, x, index, y, x.shape[0])

    def copy_columns(self, x: Any, x_start: int, y: Any, y_start: int) -> None:
        """See ``kernels.reference.copy_columns``."""
        count = min(x.shape[1] - x_start, y.shape[1] - y_start)
        y[:, y_start : y_start + count] = x[:, x_start : x_start + count]

    def scatter_rows(self, y: Any, index: Any, x: Any) -> None:
        """See ``kernels.reference.scatter_rows``."""
        self.launch.planes(program("rows", x.dtype), "scatter_rows", *y.shape, y, index, x, x.shape[0])
