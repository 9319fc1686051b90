"""Any scalar formula, translated to C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, formula
from minicaffe.kernels.cuda.translate import translate


class ElementwiseOps:
    """The function of ``kernels/reference/elementwise.py``."""

    launch: Launcher

    def elementwise(
        self, function: Callable[..., float], arrays: Sequence[Any], scalars: Sequence[float], out: Any
    ) -> None:
        """See ``kernels.reference.elementwise``; ``function`` is computed in the dtype of ``out``, or float32."""
        source, values = formula("elementwise", translate(function), out, arrays, 0, scalars)
        self.launch.flat(source, "elementwise", out.size, out, *arrays, *values)
