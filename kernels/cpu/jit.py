"""How the kernels of this package are compiled: at the first call, kept on disk, announced once."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, event
from numba.extending import intrinsic

if "OMP_WAIT_POLICY" not in os.environ:
    # GNU's OpenMP, under Numba's threads, lets a thread without work spin for milliseconds: where other programs compete for
    # the cores it then has used up its time when there is work again.  This many turns (some 100 us) bridge the gap between kernels.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

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


def _package_stamp() -> tuple:
    """Tells when any file of this package has changed."""
    files = sorted((file.name, file.stat()) for file in Path(__file__).parent.glob("*.py"))
    return tuple((name, status.st_mtime, status.st_size) for name, status in files)


_STAMP = _package_stamp()


def _cached(compiler: Callable[..., Any], function: Callable, **options: Any) -> Any:
    """Numba caches beside the source, or in the user's cache folder where that is read-only.

    Where neither can be written, every process compiles anew.  Numba knows what is stale by the file of ``function`` alone, but
    compiled code holds that of the kernels it calls, too: any change in this package makes all of it stale.
    """
    options.update(nogil=True, error_model="numpy")
    try:
        compiled = compiler(cache=True, **options)(function)
    except RuntimeError:  # no folder to cache in
        return compiler(**options)(function)
    index = compiled._cache._cache_file
    index._source_stamp = (index._source_stamp, _STAMP)
    return compiled


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
def _call(context, function, part, parts, worker, arguments):
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * 4)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@intrinsic
def _take(context, counter):
    """Count one up and return the number before: no two threads get the same."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", builder.inttoptr(values[0], _WORD.as_pointer()), _WORD(1), "monotonic")

    return types.intp(types.intp), generate


@kernel(parallel=True)
def _launch(function, arguments, parts, workers, counter):
    for worker in prange(workers):
        part = _take(counter)
        while part < parts:
            _call(function, part, parts, np.intp(worker), arguments)
            part = _take(counter)


def _parallel(context: Any, function: Any, arguments: Any, numbered: bool) -> Callable[..., Any]:
    """Code generator: ``function(part, parts[, worker if numbered], *arguments)`` for values (function, parts, workers, arguments)."""
    own = 3 if numbered else 2
    signature = function.get_call_type(context, (types.intp,) * own + tuple(arguments.types), {})
    launch = types.Dispatcher(_launch)
    launch_signature = launch.get_call_type(context, (types.intp,) * 5, {})

    def generate(context, builder, _, values):
        _, parts, workers, given = values
        compiled = function.dispatcher.get_compile_result(signature)
        context.active_code_library.add_linking_library(compiled.library)
        module = builder.module
        part = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD] * 4), module.get_unique_name("part"))
        part.linkage = "internal"
        body = ir.IRBuilder(part.append_basic_block())
        place = body.inttoptr(part.args[3], given.type.as_pointer())
        items = [body.extract_value(body.load(place), i) for i in range(len(arguments))]
        context.call_internal_no_propagate(body, compiled.fndesc, signature, [*part.args[:own], *items])
        body.ret_void()
        slot, counter = cgutils.alloca_once_value(builder, given), cgutils.alloca_once(builder, _WORD)
        builder.store(_WORD(0), counter)
        code, slot, counter = (builder.ptrtoint(item, _WORD) for item in (part, slot, counter))
        context.get_function(launch, launch_signature)(builder, [code, slot, parts, workers, counter])
        return context.get_dummy_value()

    return generate


@intrinsic
def parallel(context, function, parts, arguments):
    """``function(part, parts, *arguments)`` for every part, each on a thread of Numba's; an intrinsic of kernels.

    ``function`` is a kernel that returns and raises nothing.  Kernels that share this one parallel loop compile in half the
    time that a ``prange`` of their own takes them.  ``numba.get_num_threads`` must have been called before: it starts the threads.
    """
    generate = _parallel(context, function, arguments, numbered=False)

    def one_each(context, builder, signature, values):
        return generate(context, builder, signature, [*values[:2], values[1], values[2]])

    return types.void(function, types.intp, arguments), one_each


@intrinsic
def parallel_queue(context, function, parts, workers, arguments):
    """``function(part, parts, worker, *arguments)`` for every part, each taken by the worker that is free next.

    For parts of which there are more than threads, so that a thread that is held up holds up no other; ``worker``, below
    ``workers``, says which scratch memory is its own.  Otherwise as ``parallel``.
    """
    return types.void(function, types.intp, types.intp, arguments), _parallel(
        context, function, arguments, numbered=True
    )


@kernel(inline=True)
def share(part: int, parts: int, size: int) -> tuple[int, int]:
    """The first and the last index + 1 of thread ``part``'s share of ``size`` items."""
    return size * part // parts, size * (part + 1) // parts


def queue_length(threads: int) -> int:
    """Parts for a ``parallel_queue``: few, for each part begins anew, but so many that all threads end together."""
    return 4 * threads if threads > 1 else 1
