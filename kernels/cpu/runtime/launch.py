"""Launches: kernels in parts that run on several threads; and lists of launches, which are replayed without Python.

A launch is a record in memory of what to call and how far the work has come.  Its first cache line holds

====  ==========================================================
word  meaning
====  ==========================================================
0     address of the code of a part
1     offset of its arguments from the record, in bytes
2     number of parts
3     number of workers, among which they are divided
4     bytes to the next launch of a list
5     whether others wait until this launch is done
====  ==========================================================

and each of the following lines a counter, so that whoever counts there disturbs nobody else: the parts that are done
and, for each worker, how many of its share have been taken.
"""

from __future__ import annotations

import functools
import platform
import threading
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicaffe.kernels.cpu.runtime.address import LINE, align, store, word
from minicaffe.kernels.cpu.runtime.compile import as_words, by_name, call_by_name, called, caller, kernel, outside

_WORD = ir.IntType(64)
_SIZE = 8
_NONE, _ONE = np.intp(0), np.intp(1)
_AWAITED = 5 * _SIZE
_SPINS = (
    1 << 14
)  # looks at a launch, most of a millisecond, before its core is offered to others: it comes back only after several

_captured = np.zeros(4, np.intp)
"""Where launches are captured: the thread whose launches are (0: none), an address, the room there, and the bytes used.

More are used than there is room for when that was too little.
"""
llvm.add_symbol("minicaffe_captured", _captured.ctypes.data)


def begin_capture(address: int, room: int) -> None:
    """Write what this thread launches from now on to ``room`` bytes at ``address``, which is aligned to ``LINE``."""
    _captured[1:] = address, room, 0
    _captured[0] = threading.get_ident()


def captured_bytes() -> int:
    """The bytes that the launches captured so far take."""
    return int(_captured[3])


def end_capture() -> int:
    """Capture no more; returns the bytes that all launches take, more than ``room`` if they did not fit."""
    _captured[0] = 0
    return captured_bytes()


@intrinsic
def _captured_address(context):
    """Where ``_captured`` lies."""

    def generate(context, builder, signature, values):
        place = cgutils.add_global_variable(builder.module, _WORD, "minicaffe_captured")
        return builder.ptrtoint(place, _WORD)

    return types.intp(), generate


_this_thread, _offer_core = outside("pthread_self", _SIZE), outside("sched_yield", 4)


@intrinsic
def _add(context, counter, number):
    """Atomic fetch-and-add, with acquire and release ordering."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", builder.inttoptr(values[0], _WORD.as_pointer()), values[1], "acq_rel")

    return types.intp(types.intp, types.intp), generate


_PAUSE = "llvm.x86.sse2.pause" if platform.machine() == "x86_64" else None


@intrinsic
def _look(context, counter):
    """Atomic load with acquire ordering, after a pause instruction if the processor has one: for spin loops."""

    def generate(context, builder, signature, values):
        if _PAUSE:
            builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), _PAUSE), [])
        return builder.load_atomic(builder.inttoptr(values[0], _WORD.as_pointer()), "acquire", _SIZE)

    return types.intp(types.intp), generate


_call_part = caller("part", "parts", "worker", "arguments")


@intrinsic
def share(context, part, parts, size):
    """The range [first, last) of part number ``part`` when ``size`` items are divided into ``parts``."""

    def generate(context, builder, signature, values):
        part, parts, size = values
        ends = part, builder.add(part, _WORD(1))
        limits = [builder.udiv(builder.mul(size, end), parts) for end in ends]
        return context.make_tuple(builder, signature.return_type, limits)

    return types.UniTuple(types.intp, 2)(*[types.intp] * 3), generate


@kernel(inline=True)
def _write(launch, function, arguments, parts, workers, length):
    """Write the record of a launch."""
    store(launch, function)
    store(launch + _SIZE, arguments)
    store(launch + 2 * _SIZE, parts)
    store(launch + 3 * _SIZE, workers)
    store(launch + 4 * _SIZE, length)
    store(launch + _AWAITED, _ONE)


@kernel(inline=True)
def _begin(launch):
    """Reset the counters of a launch."""
    for i in range(1 + word(launch + 3 * _SIZE)):
        store(launch + (1 + i) * LINE, _NONE)


@kernel(inline=True)
def _await(launch):
    """Spin until all parts are done."""
    parts, done, looks = word(launch + 2 * _SIZE), launch + LINE, 0
    while _look(done) < parts:
        looks += 1
        if looks > _SPINS:
            _offer_core()


@called
def _take_parts(launch, worker):
    """Run the parts of the worker's own share, then steal what is left of the others', and wait until all are done.

    A worker thus mostly reads what it wrote itself in the previous launch, which may still be in its core's cache.
    """
    function, arguments = word(launch), launch + word(launch + _SIZE)
    parts, workers, done = word(launch + 2 * _SIZE), word(launch + 3 * _SIZE), launch + LINE
    for i in range(workers if worker < workers else 0):
        owner = (worker + i) % workers
        first, last = share(owner, workers, parts)
        taken, ran = done + (1 + owner) * LINE, _NONE
        part = first + _add(taken, _ONE)
        while part < last:
            _call_part(function, part, parts, worker, arguments)
            ran += 1
            part = first + _add(taken, _ONE) if part + 1 < last else last
        if ran > 0 and _add(done, ran) + ran == parts:
            return
    _await(launch)


@called
def _run_alone(launch):
    """Run all parts of a launch on this thread."""
    function, parts, arguments = word(launch), word(launch + 2 * _SIZE), launch + word(launch + _SIZE)
    for part in range(parts):
        _call_part(function, part, parts, _NONE, arguments)


@kernel(parallel=True)
def run_launches(first, end, workers):
    """Run launches that follow one another in memory.

    A worker continues as soon as all parts of a launch are done, no matter by whom, so that there may be fewer threads
    than workers.  What only the first of them works on it does without counting, until others wait for that.
    """
    launch = first
    while launch < end:
        _begin(launch)
        launch += word(launch + 4 * _SIZE)
    for worker in prange(workers):
        place = first
        while place < end:
            awaited = word(place + _AWAITED)
            if word(place + 3 * _SIZE) > 1:
                _take_parts(place, np.intp(worker))
            elif worker == 0:
                _run_alone(place)
                if awaited:
                    _add(place + LINE, word(place + 2 * _SIZE))
            elif awaited:
                _await(place)
            place += word(place + 4 * _SIZE)


_run_launches = by_name(run_launches)


@kernel()
def run_launches_alone(first, end):
    """Make launches that lie one behind the other on this thread, without entering the parallel loop: as cheap as can
    be, and the only way in a forked process (``runtime.threads``).
    """
    launch = first
    while launch < end:
        _run_alone(launch)
        launch += word(launch + 4 * _SIZE)


@functools.cache
def entry_shared() -> Callable[[int, int, int], None]:
    """The code of ``run_launches``, for replays."""
    return run_launches.entry(*[types.intp] * 3)


@functools.cache
def entry_alone() -> Callable[[int, int], None]:
    """The code of ``run_launches_alone``, for replays."""
    return run_launches_alone.entry(*[types.intp] * 2)


def most_workers(launches: np.ndarray) -> int:
    """Among how many workers, at most, the parts of launches that lie one behind the other in ``launches`` can be
    divided.
    """
    return max((min(parts, workers) for _, parts, workers in _heads(launches)), default=1)


def link(launches: np.ndarray) -> None:
    """Have nobody wait between launches that lie one behind the other in ``launches`` and one worker makes."""
    words, heads = launches.view(np.intp), [*_heads(launches)]
    for (at, _, workers), (_, _, next_workers) in zip(heads, heads[1:], strict=False):
        words[at + _AWAITED // _SIZE] = max(workers, next_workers) > 1


def _heads(launches: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Of launches that lie one behind the other: at which word each begins, its parts and workers."""
    words, at = launches.view(np.intp), 0
    while at < len(words):
        _, _, parts, workers, length = words[at : at + 5].tolist()
        yield at, parts, workers
        at += length // _SIZE


@called
def _note(function, arguments, size, parts, workers):
    """Add a launch to those captured, arguments included."""
    words = _captured_address()
    place, room, used = word(words + _SIZE), word(words + 2 * _SIZE), word(words + 3 * _SIZE)
    head = (2 + workers) * LINE
    length = head + align(size)
    if used + length <= room:
        launch = place + used
        _write(launch, function, head, parts, workers, length)
        for at in range(0, size, _SIZE):
            store(launch + head + at, word(arguments + at))
    store(words + 3 * _SIZE, used + length)


@kernel(internal=True)
def _launch(function, arguments, size, parts, workers, words):
    """Run all parts, and return when they are done; ``words`` is memory for the record, with a spare line to
    align it.
    """
    captured = word(_captured_address())
    if captured != 0 and captured == _this_thread():
        _note(function, arguments, size, parts, workers)
    if workers == 1:
        for part in range(parts):
            _call_part(function, part, parts, 0, arguments)
    else:
        launch = align(words)
        _write(launch, function, arguments - launch, parts, workers, LINE)
        _run_launches(launch, launch + LINE, workers)


def _borrowed(context: Any, builder: ir.IRBuilder, kind: types.Type, value: Any) -> Any:
    """Code for arguments whose arrays do not own their memory: captured copies of them must not change its
    ref count.
    """
    if isinstance(kind, types.Array):
        for name in ("meminfo", "parent"):
            place = context.data_model_manager[kind].get_field_position(name)
            value = builder.insert_value(value, cgutils.get_null_value(value.type.elements[place]), place)
        return value
    if isinstance(kind, types.BaseTuple):
        for i, item in enumerate(kind.types):
            borrowed = _borrowed(context, builder, item, builder.extract_value(value, i))
            value = builder.insert_value(value, borrowed, i)
    return value


def _parallel(context: Any, function: Any, arguments: Any, numbered: bool) -> Callable[..., Any]:
    """The code generator of both intrinsics below, for values (function, parts, workers, arguments).

    It calls ``function(part, parts, *arguments)``, or ``function(part, parts, worker, *arguments)`` if ``numbered``.
    """
    own = 3 if numbered else 2
    signature = function.get_call_type(context, (types.intp,) * own + tuple(map(as_words, arguments.types)), {})
    launch_signature = types.Dispatcher(_launch).get_call_type(context, (types.intp,) * 6, {})

    def generate(context, builder, _, values):
        _, parts, workers, given = values
        module = builder.module
        part = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD] * 4), module.get_unique_name("part"))
        part.linkage = "internal"
        body = ir.IRBuilder(part.append_basic_block())
        place = body.inttoptr(part.args[3], given.type.as_pointer())
        items = [
            context.cast(body, body.load(cgutils.gep(body, place, 0, i)), kind, signature.args[own + i])
            for i, kind in enumerate(arguments.types)
        ]
        call_by_name(context, body, function.dispatcher, signature, [*part.args[:own], *items])
        body.ret_void()
        slot = cgutils.alloca_once_value(builder, _borrowed(context, builder, arguments, given))
        lines = builder.add(workers, _WORD(3))
        words = builder.alloca(_WORD, builder.mul(lines, _WORD(LINE // _SIZE)))
        code, slot, words = (builder.ptrtoint(item, _WORD) for item in (part, slot, words))
        size = _WORD(context.get_abi_sizeof(given.type))
        call_by_name(context, builder, _launch, launch_signature, [code, slot, size, parts, workers, words])
        return context.get_dummy_value()

    return generate


@intrinsic
def parallel(context, function, parts, arguments):
    """Call ``function(part, parts, *arguments)`` for every part, each on a thread of its own; for use in kernels.

    ``function`` is a ``part_kernel``.  Kernels that share this one parallel loop compile in half the time that a
    ``prange`` in each would take.  ``numba.get_num_threads`` must have been called before: it starts the threads.
    """
    generate = _parallel(context, function, arguments, numbered=False)

    def one_each(context, builder, signature, values):
        return generate(context, builder, signature, [*values[:2], values[1], values[2]])

    return types.void(function, types.intp, arguments), one_each


@intrinsic
def parallel_queue(context, function, parts, workers, arguments):
    """Call ``function(part, parts, worker, *arguments)`` for every part, each on the worker that is free next.

    It is meant for more parts than threads: a thread that is delayed does not delay the others.  ``worker``, below
    ``workers``, tells a part which scratch memory it may use.  Otherwise it is like ``parallel``.
    """
    return types.void(function, types.intp, types.intp, arguments), _parallel(
        context, function, arguments, numbered=True
    )


def queue_length(threads: int) -> int:
    """The number of parts for a ``parallel_queue``: few, since each part has a start-up cost, but enough to balance the
    threads.
    """
    return 4 * threads if threads > 1 else 1
