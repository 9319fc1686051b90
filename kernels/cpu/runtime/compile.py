"""How the kernels of this package are compiled: at the first call, kept on disk, announced once."""

from __future__ import annotations

import dis
import functools
import gc
import inspect
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors, event, sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic, register_jitable

from minicaffe.kernels.cpu.runtime import cache
from minicaffe.kernels.cpu.runtime.optimization import optimized
from minicaffe.kernels.cpu.runtime.pipeline import KernelCompiler

if "OMP_WAIT_POLICY" not in os.environ:
    # GNU's OpenMP, on which Numba's threads run, lets an idle thread spin for milliseconds.  If other programs compete
    # for the cores, its time slice is then used up when there is work again.  So many spins (some 300 us) bridge the
    # gap between two kernels.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")

if hasattr(errors, "init"):
    # Where colorama is installed Numba has it set up the terminal for messages, some of which are made whenever it
    # compiles: the process then ends with an escape sequence on stdout, behind results that another program may read.
    errors.init = errors.reinit = errors.deinit = lambda: None

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Fast-math flags that let a sum be vectorised: its order changes, the meaning of NaN and infinity does not.

They are for kernels in which sums, and products that are summed, are all there is to round.  ``reassoc`` lets the
compiler take ``(x + big) - big`` for ``x``, and a square of a difference for three products; whether it does depends on
the processor.  The flags spread to whatever such a kernel calls that does not refuse them, as ``as_written`` does.

==========================  =========================================================================================
kernel                      what is reassociated
==========================  =========================================================================================
``simd.sums.row_sum``       a sum, in pieces of 1024
``channel.sum_within_part`` the sum of a formula's values, which are computed ``as_written``
``loss._sigmoid_loss_part`` the sigmoid cross-entropy's sum of terms, which are computed ``as_written``
``loss._square``            a sum of squares
``pooling._mean_part``      a sum, before it is divided
``batch_norm._moments``     a sum, and one of squares of differences, which are computed ``as_written``
``batch_norm._sums``        a sum, and one of products with differences, which are computed ``as_written``
``batch_norm._scale_grad``  a sum, and one of products
``softmax``                 ``_row_total`` and ``_row_product``: a row's sum, and its inner product with another
``unit_norm``               ``_row_product`` and ``_row_size``: a row's inner product with another, and its magnitudes
``dot._inner_product_part`` an inner product, in float64
==========================  =========================================================================================
"""


def as_written(function: Callable) -> Callable:
    """Decorator: a function for kernels to call whose every operation is rounded as it is written.

    Fast-math flags of the kernel that calls it do not reach it.
    """
    return register_jitable(fastmath=False)(function)


@as_written
def difference(a, b):
    """``a - b``, rounded."""
    return a - b


_PACKAGE = __package__.rpartition(".")[0]  # kernels.cpu


class _Uncollected(AbstractContextManager):
    """Keeps garbage from being collected while kernels compile: a fifth of the time, for many objects, most of which
    stay.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._collected = True

    def __enter__(self) -> None:
        if self._depth == 0:
            self._collected = gc.isenabled()
            gc.disable()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._collected:
            gc.enable()


_uncollected = _Uncollected()


class _Compiling(event.Listener):
    """Hears of kernels that the disk cache does not hold."""

    def on_start(self, event: event.Event) -> None:
        if _is_kernel(event):
            _uncollected.__enter__()
            announce()

    def on_end(self, event: event.Event) -> None:
        if _is_kernel(event):
            _uncollected.__exit__()


@functools.cache
def announce() -> None:
    """Say, once a process, that kernels are being compiled, and if they are not kept where they are wanted."""
    log = logging.getLogger("minicaffe")
    log.info("compiling kernels for this machine, once (this takes a few seconds) ...")
    if wrong := cache.complaint():
        log.warning("%s", wrong)


def _is_kernel(event: event.Event) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith(_PACKAGE)


event.register("numba:compile", _Compiling())


class _Capturing(threading.local):
    """What captures this thread's launches (``runtime.capture``), or only notes them (``runtime.ahead``), if anything
    does.  It says whether a kernel is to run.
    """

    launches: Any = None
    callbacks: dict | None = None
    """Notes callbacks, and that they are to be compiled later, in a process that calls none."""


capturing = _Capturing()


class Kernel(CPUDispatcher):
    """A compiled kernel that tells what captures launches what Python calls it with."""

    def __call__(self, *arguments: Any) -> Any:
        if capturing.launches is not None and not capturing.launches.passes(self, arguments):
            return 0.0
        return super().__call__(*arguments)

    def entry(self, *signature: types.Type) -> Callable[..., Any]:
        """Its code for arguments of these types, to be called with no others, and where nothing is captured: Numba's
        way there, and the look for a capture, take longer than a small launch.
        """
        if signature not in self.overloads:
            self.compile(signature)
        return self.overloads[signature].entry_point

    def compile(self, signature: Any) -> Any:
        with global_compiler_lock, cache.locks, optimized(self.targetctx.codegen(), self._once):
            return super().compile(signature)

    @property
    def _once(self) -> bool:
        """Whether LLVM is to optimise it once: it leaves no loop to make vectors of."""
        launches = not self.targetoptions["fastmath"] and not _loops(self.py_func.__code__)
        return launches or self.name.startswith(_WRITTEN_OUT)

    def types_of(self, arguments: tuple) -> tuple[types.Type, ...]:
        """The types of arguments, for which there is a version of its own."""
        code = self.py_func.__code__
        if code.co_flags & inspect.CO_VARARGS:
            arguments = *arguments[: code.co_argcount], arguments[code.co_argcount :]
        return tuple(map(self.typeof_pyval, arguments))

    @property
    def name(self) -> str:
        """The module within ``kernels.cpu``, and the function."""
        return _name(self.py_func).removeprefix(_PACKAGE + ".")


_WRITTEN_OUT = (
    "conv.",
    "datum.",
    "matmul.",
    "neighbours.",
    "runtime.",
    "simd.memory.",
    "simd.pairs.",
    "simd.rectify.",
    "simd.taps.",
    "simd.damping.",
    "lrn._lrn_part",
    "pooling._largest",
)
"""Where kernels have loops, but leave none to LLVM to make vectors of that takes long."""


def _loops(code: CodeType) -> bool:
    """Whether anything is done again: there is a jump back, or one that may be."""
    return not _BACK.isdisjoint(code.co_code[::2])


_BACK = {number for name, number in dis.opmap.items() if "JUMP" in name and "FORWARD" not in name}
if any("BACKWARD" in name for name in dis.opmap):  # Python 3.11 and later tell the direction
    _BACK = {number for name, number in dis.opmap.items() if "BACKWARD" in name}
_ALLOCATING = {"arange", "copy", "empty", "ones", "zeros"}
_OPTIONS = {"nogil": True, "error_model": "numpy"}


_kernels: dict[str, Any] = {}
"""All kernels, by name."""


def kernel(
    *,
    parallel: bool = False,
    fastmath: set[str] | bool = False,
    inline: bool = False,
    internal: bool = False,
    stamp: str = "",
) -> Callable[[Callable], Any]:
    """Decorator: compile in nopython mode at the first call, to run without the interpreter's lock; cached on disk.

    An ``internal`` kernel is called by other kernels only.  ``stamp`` distinguishes kernels that are defined inside one
    function.
    """
    options = _OPTIONS | {"parallel": parallel, "fastmath": fastmath, "inline": "always" if inline else "never"}
    options |= {"no_cpython_wrapper": internal, "no_cfunc_wrapper": True}  # C code calls a ``callback``, not kernels
    if not parallel:
        options["pipeline_class"] = KernelCompiler

    def compiled(function: Callable) -> Any:
        function.__qualname__ += stamp
        # others have no references to count, and compile sooner without; Numba refuses what needs them
        allocates = not _ALLOCATING.isdisjoint(function.__code__.co_names)
        made = _kernels[_name(function)] = numba.njit(**options, _nrt=allocates)(function)
        made._cache = cache.cache(function, stamp)
        made.__class__ = Kernel
        return made

    return compiled


def part_kernel(*, fastmath: set[str] | bool = False, stamp: str = "") -> Callable[[Callable], Any]:
    """Decorator: a kernel that ``parallel`` or ``parallel_queue`` runs; it returns and raises nothing."""
    return kernel(fastmath=fastmath, internal=True, stamp=stamp)


def _name(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}"


class Callback(CFunc):
    """A function that compiled code calls at its ``address``, compiled when that is first asked for."""

    @property
    def name(self) -> str:
        """See ``Kernel``."""
        return _name(self._pyfunc).removeprefix(_PACKAGE + ".")

    @property
    def targetctx(self) -> Any:
        """What it is compiled for."""
        return self._targetdescr.target_context

    def compile(self, signature: Any = None) -> None:
        """Compile it, or take it from the disk cache; it has one signature."""
        with global_compiler_lock, _uncollected, cache.locks, optimized(self.targetctx.codegen(), once=True):
            if self._wrapper_address is None:
                super().compile()

    @property
    def address(self) -> int:
        """Where its code begins; 0 while callbacks are only noted."""
        if self._wrapper_address is None:
            if capturing.callbacks is not None:
                capturing.callbacks[self, self._sig] = None
                return 0
            self.compile()
        return self._wrapper_address


def callback(signature: Any) -> Callable[[Callable], Callback]:
    """Decorator: a function that compiled code calls at its ``address``."""

    def compiled(function: Callable) -> Callback:
        made = Callback(function, sigutils.normalize_signature(signature), {}, _OPTIONS, KernelCompiler)
        made._cache = cache.cache(function)
        return made

    return compiled


class _Binding(NamedTuple):
    """Makes a kernel's code for some types of arguments known to LLVM, under a name that other kernels' code calls it
    by.

    The disk cache keeps it with such code, and Numba calls it before that code is loaded.
    """

    kernel: str
    arguments: tuple[types.Type, ...]

    @property
    def symbol(self) -> str:
        return f"{self.kernel}{self.arguments}"

    def __call__(self) -> None:
        compiled = _kernels[self.kernel]
        compiled.compile(self.arguments)
        result = compiled.overloads[self.arguments]
        llvm.add_symbol(self.symbol, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def call_by_name(context: Any, builder: ir.IRBuilder, compiled: Any, signature: Any, values: list) -> None:
    """Code that calls a kernel which returns and raises nothing.

    Numba's own calls compile the kernel once more in every kernel that calls it.
    """
    binding = _Binding(_name(compiled.py_func), signature.args)
    binding()
    context.active_code_library._reload_init.add(binding)
    kind = context.call_conv.get_function_type(signature.return_type, signature.args)
    function = cgutils.get_or_insert_function(builder.module, kind, binding.symbol)
    context.call_conv.call_function(builder, function, signature.return_type, signature.args, values)


def by_name(compiled: Any) -> Any:
    """What kernels use to call a kernel by its name, so that it is compiled once; it returns and raises nothing.

    It takes all integers as words, or each caller's would be another kernel.
    """

    def define(context, *arguments):
        signature = types.Dispatcher(compiled).get_call_type(context, tuple(map(as_words, arguments)), {})

        def generate(target, builder, _, values):
            call_by_name(target, builder, compiled, signature, values)
            return target.get_dummy_value()

        return types.void(*signature.args), generate

    return _with_parameters(define, list(inspect.signature(compiled.py_func).parameters))


def called(function: Callable) -> Any:
    """Decorator: a kernel that only kernels call, by its name."""
    return by_name(kernel(internal=True)(function))


def _with_parameters(define: Callable, names: list[str]) -> Any:
    """The intrinsic that ``define(context, *arguments)`` defines, which takes parameters of these names."""
    define.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ["context", *names]]
    )
    return intrinsic(define)


def as_words(kind: types.Type) -> types.Type:
    """The type with words for all integers: a kernel that takes them is compiled once for all of these."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.Integer):
        return types.intp
    if isinstance(kind, types.BaseAnonymousTuple):
        return types.Tuple(list(map(as_words, kind)))
    return kind


_WORD = ir.IntType(64)


def caller(*words: str) -> Any:
    """A function of ``(address, *words)`` that calls the code at an address, such as a ``callback``'s, with words of
    these names.
    """

    def call(context, *arguments):
        def generate(context, builder, signature, values):
            kind = ir.FunctionType(ir.VoidType(), [_WORD] * len(words))
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * (1 + len(words))), generate

    return _with_parameters(call, ["address", *words])


def outside(name: str, size: int) -> Any:
    """A function of the C library that takes nothing and gives an integer of ``size`` bytes."""

    def define(context):
        def generate(target, builder, signature, values):
            kind = ir.FunctionType(ir.IntType(8 * size), [])
            number = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
            return builder.sext(number, _WORD)

        return types.intp(), generate

    return intrinsic(define)
