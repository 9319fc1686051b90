"""The passes of Numba's compiler that kernels need."""

from __future__ import annotations

import itertools
import operator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numba import types
from numba.core import cgutils, ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.ir_utils import get_definition, guard
from numba.core.typing.npydecl import parse_dtype
from numba.extending import intrinsic

_LEFT_OUT = {
    "AnnotateTypes",
    "DumpParforDiagnostics",
    "FindLiterallyCalls",
    "InlineClosureLikes",
    "InlineOverloads",
    "LiteralPropagationSubPipelinePass",
    "LiteralUnroll",
    "MakeFunctionToJitFunction",
    "NoPythonSupportedFeatureValidation",
    "NopythonRewrites",
    "RewriteDynamicRaises",
    "WithLifting",
}
"""They are for closures and comprehensions, expressions of whole arrays, ``with``, ``raise`` and ``literal_unroll``.
Kernels have none: with most a kernel would not compile, with expressions of arrays it would be slow.  One writes down
types for people to read."""
_FOR_REFERENCES = "IRLegalization"
"""It says where each variable is used for the last time, for its references to be counted; nearly half of all
statements then."""

OPERATORS = {bool, len, *(value for value in vars(operator).values() if callable(value))}


class _Remembering:
    """Numba's typing context, but it remembers what an operator gives for some types: a twentieth of the time.

    Types are inferred in rounds, until nothing new is found, and in each of them Numba tries for each operator all that
    it knows of, arrays first.
    """

    _known: ClassVar[dict[tuple, Any]] = {}

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: tuple, named: dict) -> Any:
        if named or not isinstance(function, types.Function) or function.typing_key not in OPERATORS:
            return self._context.resolve_function_type(function, arguments, named)
        call = function, arguments
        if call not in self._known:
            found = self._context.resolve_function_type(function, arguments, named)
            if found is None:
                return None
            self._known[call] = found
        return self._known[call]


def _of_two(sign: str) -> Any:
    """Python's ``min`` or ``max`` of two numbers: the second if it is less (``sign``), or greater, than the first."""

    @intrinsic
    def chosen(context, a, b):
        kind = context.unify_types(*map(types.unliteral, (a, b)))

        def generate(target, builder, signature, arguments):
            first, second = arguments
            if isinstance(kind, types.Float):
                better = builder.fcmp_ordered(sign, second, first)
            else:
                better = (builder.icmp_signed if kind.signed else builder.icmp_unsigned)(sign, second, first)
            return builder.select(better, second, first)

        return (kind(kind, kind), generate) if isinstance(kind, (types.Float, types.Integer)) else None

    return chosen


_OF_TWO = {min: _of_two("<"), max: _of_two(">")}


def _array(zero: bool, *default: types.Type) -> Any:
    """An array of a shape and a type, if not of the ``default``: of zeros, or as it is found in memory."""

    def made(context, shape, *dtype):
        lengths = [types.intp] * (len(shape) if isinstance(shape, types.BaseTuple) else 1)
        kind = types.Array((default or (parse_dtype(dtype[0]),))[0], len(lengths), "C")

        def generate(target, builder, signature, arguments):
            from numba.np.arrayobj import make_array, populate_array  # as in address.array_at

            shape = arguments[:1] if signature.args[0] is types.intp else cgutils.unpack_tuple(builder, arguments[0])
            item = target.get_constant(types.intp, target.get_abi_sizeof(target.get_data_type(kind.dtype)))
            *strides, size = itertools.accumulate(reversed(shape), partial(_times, builder), initial=item)
            owner = target.nrt.meminfo_alloc_aligned(builder, size, target.get_preferred_array_alignment(kind.dtype))
            data = target.nrt.meminfo_data(builder, owner)
            if zero:
                cgutils.memset(builder, data, size, 0)
            array = make_array(kind)(target, builder)
            populate_array(
                array,
                data=builder.bitcast(data, array.data.type),
                shape=cgutils.pack_array(builder, shape),
                strides=cgutils.pack_array(builder, strides[::-1]),
                itemsize=item,
                meminfo=owner,
            )
            return array._getvalue()

        whole = types.Tuple(lengths) if isinstance(shape, types.BaseTuple) else types.intp
        return kind(whole, *dtype), generate

    def of_default(context, shape):
        return made(context, shape)

    def of_type(context, shape, dtype):
        return made(context, shape, dtype)

    return intrinsic(of_default if default else of_type)


def _times(builder: Any, size: Any, length: Any) -> Any:
    """The product, or what no memory holds if it is too large for a word."""
    product = builder.smul_with_overflow(size, length)
    return builder.select(builder.extract_value(product, 1), size.type(1 << 62), builder.extract_value(product, 0))


_ARRAYS = {
    ("empty", 1): _array(False, types.float64),
    ("empty", 2): _array(False),
    ("zeros", 1): _array(True, types.float64),
    ("zeros", 2): _array(True),
}


@register_pass(mutates_CFG=False, analysis_only=False)
class _TakeOwn(FunctionPass):
    """Has ``min`` and ``max`` of two numbers take ``_OF_TWO``, and NumPy's ``empty`` and ``zeros`` take
    ``_ARRAYS``: Numba compiles a function, or several, for each pair of types.
    """

    _name = "take_own"

    def __init__(self) -> None:
        pass  # the class that this is made of asks for one

    def run_pass(self, state: Any) -> bool:
        for block in state.func_ir.blocks.values():
            for call in block.find_exprs("call"):
                if not call.kws and call.vararg is None:
                    self._take(state.func_ir, call)
        return False

    def _take(self, function: ir.FunctionIR, call: ir.Expr) -> None:
        called = guard(get_definition, function, call.func)
        if isinstance(called, ir.Global):
            if (called.value is min or called.value is max) and len(call.args) == 2:
                called.value = _OF_TWO[called.value]
        elif isinstance(called, ir.Expr) and called.op == "getattr":
            own = _ARRAYS.get((called.attr, len(call.args)))
            module = guard(get_definition, function, called.value)
            if own and isinstance(module, ir.Global) and module.value is np:
                _define(function, call.func.name, called, ir.Global(called.attr, own, called.loc))


def _define(function: ir.FunctionIR, name: str, earlier: ir.Expr, value: ir.Global) -> None:
    """Assign a value to the variable of a name, where an earlier one is assigned to it."""
    for block in function.blocks.values():
        for assignment in block.find_insts(ir.Assign):
            if assignment.value is earlier:
                assignment.value = value
    function._definitions[name] = [value]


class _Passes(PassManager):
    """Runs passes without an account of each: how long it took, with which flags."""

    def _runPass(self, index: int, one: Any, state: Any) -> None:  # noqa: N802  (Numba's name)
        one.analysis = self._analysis
        for step in (one.run_initialization, one.run_pass, one.run_finalizer):
            step(state)


class KernelCompiler(CompilerBase):
    """Numba's, without passes that look for what kernels do not contain: a twentieth of the time."""

    def __init__(self, context: Any, *arguments: Any) -> None:
        super().__init__(_Remembering(context), *arguments)

    def define_pipelines(self) -> list[PassManager]:
        passes = _Passes("kernel")
        for kind, description in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if kind.__name__ == "NopythonTypeInference":
                passes.add_pass(_TakeOwn, "take own")
            counts = self.state.flags.nrt or kind.__name__ != _FOR_REFERENCES
            if counts and kind.__name__ not in _LEFT_OUT:
                passes.add_pass(kind, description)
        passes.finalize()
        return [passes]
