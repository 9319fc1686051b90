"""Compiled code that the disk cache held, ready to be called, and the rest of it when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import binding as llvm
from numba.core.codegen import JITCodeLibrary


class KeptLibrary(JITCodeLibrary):
    """Machine code; what code that is compiled anew would be linked with is read when some is.

    Numba reads it in any case, and notes the names in it: a third of the time that it takes to load a kernel.
    """

    _bitcode: bytes | None = None

    @classmethod
    def _unserialize(cls, codegen: Any, state: tuple) -> Any:
        name, kind, data = state
        if kind != "object":
            return super()._unserialize(codegen, state)
        library = codegen.create_library(name)
        code, library._bitcode = data
        library.enable_object_caching()
        library._set_compiled_object(code)
        library._finalize_final_module()
        return library

    def _get_module_for_linking(self) -> Any:
        if self._bitcode is not None:
            self._shared_module, self._bitcode = llvm.parse_bitcode(self._bitcode), None
        return super()._get_module_for_linking()

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return self._codegen._engine.get_function_address(name)


@contextmanager
def libraries_are(kind: type[JITCodeLibrary], codegen: Any) -> Iterator[None]:
    """In a ``with`` block, under Numba's compiler lock: of which class the code is that ``codegen`` makes or loads."""
    earlier = codegen._library_class
    codegen._library_class = kind
    try:
        yield
    finally:
        codegen._library_class = earlier
