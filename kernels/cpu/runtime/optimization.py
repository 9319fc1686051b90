"""How often LLVM optimises a kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary

from minicaffe.kernels.cpu.runtime.kept import libraries_are

_KNOWN = (numba.version_info.major, numba.version_info.minor) >= (0, 63)  # what is said below was found out there


class _OptimizedOnce(JITCodeLibrary):
    """Code that LLVM's whole series of passes goes through once, when all that it calls has been linked to it.

    Numba has each function optimised before that, by itself, and then all of it twice, to look for references to arrays
    that cancel out in between.
    """

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


def optimized(codegen: Any, once: bool) -> AbstractContextManager[None]:
    """In a ``with`` block, under Numba's compiler lock: have what ``codegen`` compiles optimised once, or as usual.

    Once saves a tenth of the time that it takes to compile.  Loops that LLVM makes vectors of may be some percent
    slower then: it is for code whose vectors are written out, or that only launches other code.
    """
    return libraries_are(_OptimizedOnce if once and _KNOWN else JITCodeLibrary, codegen)
