"""One step of long short-term memory."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class LstmOps:
    """The functions of ``kernels/reference/lstm.py``."""

    launch: Launcher

    def lstm_unit(self, c_before: Any, gates: Any, cont: Any, c: Any, h: Any) -> None:
        """See ``kernels.reference.lstm_unit``."""
        self.launch.planes(program("lstm", c.dtype), "lstm_unit", *c.shape, c_before, gates, cont, c, h)

    def lstm_unit_grad(
        self, c_before: Any, gates: Any, cont: Any, c: Any, dc: Any, dh: Any, dc_before: Any, dgates: Any
    ) -> None:
        """See ``kernels.reference.lstm_unit_grad``."""
        args = (c_before, gates, cont, c, dc, dh, dc_before, dgates)
        self.launch.planes(program("lstm", c.dtype), "lstm_unit_grad", *c.shape, *args)
