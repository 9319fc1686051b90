"""How the kernels of this package are compiled: at the first call, kept on disk, announced once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, event
from numba.extending import intrinsic

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Fast-math flags that let a sum be vectorised: its order changes, the meaning of NaN and infinity does not."""


class _Announcement(event.Listener):
    """Says, once a process, that kernels are being compiled; hears only of kernels that the disk cache does not hold."""

    def __init__(self) -> None:
        self.made = False

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if not self.made and function.__module__.startswith(__package__):
            self.made = True
            logging.getLogger("minicaffe").info(
                "compiling kernels for this machine, once (this takes a few seconds) ..."
            )

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())


def _cached(compiler: Callable[..., Any], function: Callable, **options: Any) -> Any:
    """Numba caches beside the source, or in the user's cache folder where that is read-only.

    Where neither can be written, every process compiles anew.
    """
    options.update(nogil=True, error_model="numpy")
    try:
        return compiler(cache=True, **options)(function)
    except RuntimeError:  # no folder to cache in
        return compiler(**options)(function)


def kernel(
    *, parallel: bool = False, fastmath: set[str] | bool = False, inline: bool = False
) -> Callable[[Callable], Any]:
    """Decorator: compile for nopython mode at the first call, without the interpreter's lock, and cache on disk."""
    options = {"parallel": parallel, "fastmath": fastmath, "inline": "always" if inline else "never"}
    return lambda function: _cached(numba.njit, function, **options)


def callback(signature: Any) -> Callable[[Callable], Any]:
    """Decorator: compile now, or take from the disk cache, a function that compiled code calls at its ``address``."""
    return lambda function: _cached(functools.partial(numba.cfunc, signature), function)


_WORD = ir.IntType(64)


@intrinsic
def _call(context, function, part, parts, arguments):
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * 3)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@kernel(parallel=True)
def _launch(function, arguments, parts):
    for part in prange(parts):
        _call(function, np.intp(part), parts, arguments)


@intrinsic
def parallel(context, function, parts, arguments):
    """``function(part, parts, *arguments)`` for every part, each on a thread of Numba's; an intrinsic of kernels.

    ``function`` is a kernel that returns and raises nothing.  Kernels that share this one parallel loop compile in half the
    time that a ``prange`` of their own takes them.
    """
    signature = function.get_call_type(context, (types.intp, types.intp, *arguments.types), {})
    launch = types.Dispatcher(_launch)
    launch_signature = launch.get_call_type(context, (types.intp,) * 3, {})

    def generate(context, builder, _, values):
        _, parts_value, arguments_value = values
        compiled = function.dispatcher.get_compile_result(signature)
        context.active_code_library.add_linking_library(compiled.library)
        module = builder.module
        part = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD] * 3), module.get_unique_name("part"))
        part.linkage = "internal"
        body = ir.IRBuilder(part.append_basic_block())
        place = body.inttoptr(part.args[2], arguments_value.type.as_pointer())
        items = [body.extract_value(body.load(place), i) for i in range(len(arguments))]
        context.call_internal_no_propagate(body, compiled.fndesc, signature, [*part.args[:2], *items])
        body.ret_void()
        slot = cgutils.alloca_once_value(builder, arguments_value)
        addresses = [builder.ptrtoint(part, _WORD), builder.ptrtoint(slot, _WORD)]
        context.get_function(launch, launch_signature)(builder, [*addresses, parts_value])
        return context.get_dummy_value()

    return types.void(function, types.intp, arguments), generate


@kernel(inline=True)
def share(part: int, parts: int, size: int) -> tuple[int, int]:
    """The first and the last index + 1 of thread ``part``'s share of ``size`` items."""
    return size * part // parts, size * (part + 1) // parts
