"""The passes of Numba's compiler that kernels need."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

from numba import types
from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.ir_utils import get_definition, guard
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


@register_pass(mutates_CFG=False, analysis_only=False)
class _ChooseOfTwo(FunctionPass):
    """Has ``min`` and ``max`` of two numbers take ``_OF_TWO``: Numba compiles a function for each pair of types."""

    _name = "choose_of_two"

    def __init__(self) -> None:
        pass  # the class that this is made of asks for one

    def run_pass(self, state: Any) -> bool:
        for block in state.func_ir.blocks.values():
            for call in block.find_exprs("call"):
                function = guard(get_definition, state.func_ir, call.func)
                known = isinstance(function, ir.Global) and (function.value is min or function.value is max)
                if known and len(call.args) == 2 and not call.kws and call.vararg is None:
                    function.value = _OF_TWO[function.value]
        return False


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
                passes.add_pass(_ChooseOfTwo, "choose of two")
            counts = self.state.flags.nrt or kind.__name__ != _FOR_REFERENCES
            if counts and kind.__name__ not in _LEFT_OUT:
                passes.add_pass(kind, description)
        passes.finalize()
        return [passes]
