"""Numba's front end, quicker: for processes that only compile kernels, a fifth of the time.

Each function here stands for one of Numba and gives what that gives, without work that is of no use for kernels, or
that is done again for each of them.  They replace those of the whole process, so a process that runs other code, too,
leaves them alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from llvmlite.binding import ffi
from numba import types
from numba.core import byteflow, interpreter, ir, postproc, ssa, transforms
from numba.core.base import BaseContext
from numba.core.dispatcher import _FunctionCompiler
from numba.core.inline_closurecall import InlineWorker
from numba.core.types.functions import BaseFunction

from minicaffe.kernels.cpu.runtime.pipeline import OPERATORS

_WITHOUT_VARIABLES: set[type] = {ir.Loc, str, int, float, bool, type(None)}


def hasten(typing: Any, target: Any) -> None:
    """Replace Numba's functions by those below, for kernels that are typed and compiled in these contexts."""
    for step in _steps(typing, target):
        with contextlib.suppress(AttributeError):  # of another version of Numba, which then is as slow as it is
            step()
    with _without_scipy():
        target.refresh()


def _steps(typing: Any, target: Any) -> list[Callable[[], None]]:
    return [
        _find_variables_by_type,
        _leave_out_entry_variables,
        _inline_from_one_frontend_run,
        _remember_operators,
        _remember_sizes,
        _leave_out_wrappers,
        *[partial(_refresh_if_registered, context) for context in (typing, target)],
        *[partial(_log_nothing, module) for module in (byteflow, interpreter, ssa)],
        _tell_of_no_lock,
    ]


@contextlib.contextmanager
def _without_scipy() -> Iterator[None]:
    """While Numba imports all that it can compile: without SciPy's BLAS, which no kernel calls; half of the time."""
    blas = "scipy.linalg.cython_blas"
    absent = sys.modules.setdefault(blas, None) is None  # type: ignore[arg-type]
    try:
        yield
    finally:
        if absent:
            del sys.modules[blas]


def _find_variables_by_type() -> None:
    """The variables of a statement: by the types of what it consists of, most of which are no containers."""

    def find(value: Any, found: list[ir.Var]) -> None:
        kind = type(value)
        if kind is ir.Var:
            found.append(value)
        elif kind in _WITHOUT_VARIABLES:
            pass
        elif isinstance(value, ir.Inst):
            found += value.list_vars()
        elif isinstance(value, (list, tuple)):
            for item in value:
                find(item, found)
        elif isinstance(value, dict):
            for item in value.values():
                find(item, found)
        else:
            _WITHOUT_VARIABLES.add(kind)

    def variables(_: ir.Inst, value: Any) -> list[ir.Var]:
        found: list[ir.Var] = []
        find(value, found)
        return found

    _replace(ir.Inst, "_rec_list_vars", lambda _: variables)


def _leave_out_entry_variables() -> None:
    """What is known about a function after each pass: without the variables at the entry of each block, which only
    generators and Python's interpreter need.
    """

    def replacement(run: Callable) -> Callable:
        def run_quickly(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
            function = self.func_ir
            if emit_dels or function.is_generator:
                run(self, emit_dels, extend_lifetimes)
                return
            function.blocks = transforms.canonicalize_cfg(function.blocks)
            function.variable_lifetime = postproc.VariableLifetime(function.blocks)
            function.generator_info = None

        return run_quickly

    _replace(postproc.PostProcessor, "run", replacement)


def _inline_from_one_frontend_run() -> None:
    """A function to be inlined: made once, not for each call; it is copied into the caller."""
    known: dict[tuple[Callable, bool], Any] = {}

    def replacement(run: Callable) -> Callable:
        def remembered(self: Any, function: Callable, enable_ssa: bool = False) -> Any:
            key = function, enable_ssa
            if key not in known:
                known[key] = run(self, function, enable_ssa)
            return known[key]

        return remembered

    _replace(InlineWorker, "run_untyped_passes", replacement)


def _remember_operators() -> None:
    """What an operator gives for some types: remembered also where Numba asks for it again, to write code."""
    known: dict[tuple[types.Type, tuple], Any] = {}

    def replacement(resolve: Callable) -> Callable:
        def remembered(self: Any, context: Any, arguments: tuple, named: dict) -> Any:
            if named or self.typing_key not in OPERATORS:
                return resolve(self, context, arguments, named)
            key = self, arguments
            found = known.get(key)
            if found is None:
                found = resolve(self, context, arguments, named)
                if found is not None:
                    known[key] = found
            return found

        return remembered

    _replace(BaseFunction, "get_call_type", replacement)


def _remember_sizes() -> None:
    """The bytes that a type takes: Numba has LLVM read a module for each question."""
    known: dict[str, int] = {}

    def replacement(size: Callable) -> Callable:
        def remembered(self: Any, kind: Any) -> int:
            key = str(kind)
            if key not in known:
                known[key] = size(self, kind)
            return known[key]

        return remembered

    _replace(BaseContext, "get_abi_sizeof", replacement)


def _leave_out_wrappers() -> None:
    """Functions of Numba's and of formulas that kernels call: without code for Python and C to call them."""

    def replacement(customize: Callable) -> Callable:
        def without(self: Any, flags: Any) -> Any:
            flags = customize(self, flags)
            if "no_cpython_wrapper" not in self.targetoptions:  # kernels say whether Python calls them
                flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
            return flags

        return without

    _replace(_FunctionCompiler, "_customize_flags", replacement)


def _refresh_if_registered(context: Any) -> None:
    """Look for new declarations, as Numba does before and while it compiles, only if there are more than before, and
    not for each of them once more.
    """
    refresh = context.refresh
    refreshing, seen = False, -1

    def known() -> int:
        return sum(
            len(getattr(registry, kind))
            for registry, loader in context._registries.items()
            for kind in loader.registry_items
        )

    def refresh_if_registered() -> None:
        nonlocal refreshing, seen
        if not refreshing and known() != seen:
            refreshing = True
            refresh()
            refreshing, seen = False, known()

    context.refresh = refresh_if_registered


def _log_nothing(module: ModuleType) -> None:
    """Messages for those who debug Numba: a process that only compiles logs nothing."""
    module._logger.debug = lambda *_, **__: None  # type: ignore[attr-defined]


def _tell_of_no_lock() -> None:
    """Nobody listens for how long each call of LLVM waits for its lock."""
    ffi.lib._lock._cblist.clear()


def _replace(owner: Any, name: str, replacement: Callable[[Callable], Callable]) -> None:
    setattr(owner, name, replacement(getattr(owner, name)))
