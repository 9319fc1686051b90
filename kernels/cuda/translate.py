"""Turns a Python scalar function into the C++ function of the same formula, for ``elementwise.cu``."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_UNARY = {ast.USub: "-", ast.UAdd: "+"}
_MATH = ("exp", "log", "sqrt", "tanh")
_FOLD = {"min": "Smaller()", "max": "Larger()"}


@functools.cache
def translate(function: Callable[..., float]) -> str:
    """C++ source of ``template <typename T> T function(T, ...)``, which computes what ``function`` does, in type T.

    ``function`` is a ``def`` with positional parameters whose body is one return (after a docstring, if any); see
    ``kernels.reference.elementwise`` for what it may use.  Raises TypeError that names what cannot be translated.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError, TypeError) as error:
        raise TypeError(f"the source of {function!r} cannot be read; write it as a def in a file") from error
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{function.__name__!r} is not a def: a lambda cannot be translated to C++")
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        raise TypeError(f"the body of {tree.name!r} must be one return of an expression to be translated to C++")
    names = [parameter.arg for parameter in tree.args.args]
    expression = _Formula(tree.name, names).visit(body[0].value)
    parameters = ", ".join(f"T {name}_" for name in names)
    return f"template <typename T>\n__device__ T function({parameters}) {{ return {expression}; }}\n\n"


class _Formula(ast.NodeVisitor):
    """Visits an expression and returns its C++ text, every value of type T."""

    def __init__(self, owner: str, names: list[str]) -> None:
        self._owner, self._names = owner, names

    def generic_visit(self, node: ast.AST) -> str:
        raise TypeError(f"{self._owner!r} cannot be translated to C++: {ast.unparse(node)!r} ({type(node).__name__})")

    def visit_Name(self, node: ast.Name) -> str:
        # a trailing underscore keeps a parameter from being a C++ keyword or one of CUDA's names
        return f"{node.id}_" if node.id in self._names else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> str:
        return f"T({float(node.value)!r})" if isinstance(node.value, (int, float)) else self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> str:
        sign = _UNARY.get(type(node.op))
        return f"({sign}{self.visit(node.operand)})" if sign else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> str:
        if isinstance(node.op, ast.Pow):
            return f"pow({self.visit(node.left)}, {self.visit(node.right)})"
        sign = _BINARY.get(type(node.op))
        return f"({self.visit(node.left)} {sign} {self.visit(node.right)})" if sign else self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> str:
        signs = [_COMPARE.get(type(operator)) for operator in node.ops]
        if None in signs:
            return self.generic_visit(node)
        values = [self.visit(value) for value in (node.left, *node.comparators)]
        return (
            "T(" + " && ".join(f"{a} {sign} {b}" for a, sign, b in zip(values, signs, values[1:], strict=False)) + ")"
        )

    def visit_IfExp(self, node: ast.IfExp) -> str:
        return f"({self.visit(node.test)} ? {self.visit(node.body)} : {self.visit(node.orelse)})"

    def visit_Call(self, node: ast.Call) -> str:
        name, arguments = ast.unparse(node.func).removeprefix("math."), [self.visit(argument) for argument in node.args]
        if node.keywords or not arguments:
            return self.generic_visit(node)
        if name in _FOLD and len(arguments) > 1:
            return functools.reduce(lambda a, b: f"{_FOLD[name]}({a}, {b})", arguments)
        if name == "abs" and len(arguments) == 1:
            return f"fabs({arguments[0]})"
        if name in _MATH and len(arguments) == 1:
            return f"{name}({arguments[0]})"
        return self.generic_visit(node)
