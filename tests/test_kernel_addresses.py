"""Numba frees an array after its last use as it sees it: not even the call that is given ``array.ctypes.data`` counts.
So compiled code may work with the address of an array of its own only as long as it still has to do with the array.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicaffe.kernels import cpu

COMPILED = {"kernel", "part_kernel", "called", "callback", "register_jitable"}
LOOPS = (ast.For, ast.While)


class Function:
    """The source of a compiled function: which statements and loops each of its nodes is in."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.name, self._nodes = tree.name, list(ast.walk(tree))
        self._parents = {id(child): parent for parent in self._nodes for child in ast.iter_child_nodes(parent)}

    def early_frees(self) -> Iterator[str]:
        """The lines that use the address of an array which may have been given back."""
        for array, maker in self._own_arrays():
            for use in self._uses_of_address(array):
                if not self._is_alive_after(use, array, maker):
                    yield f"{self.name}, line {use.lineno}: the address of {array}"

    def _own_arrays(self) -> Iterator[tuple[str, ast.stmt]]:
        """The names of what calls gave, and where."""
        for name, value, statement in self._assignments():
            if isinstance(value, ast.Call):
                yield name, statement

    def _assignments(self) -> Iterator[tuple[str, ast.expr, ast.stmt]]:
        for node in self._nodes:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                apart = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts) if apart else [(target, node.value)]
                yield from ((to.id, value, node) for to, value in pairs if isinstance(to, ast.Name))

    def _uses_of_address(self, array: str) -> Iterator[ast.stmt]:
        """The statements that have to do with the address of an array, or with one that was computed from it."""
        places = {array}
        sources = [node for node in self._nodes if self._is_address_of(node, array)]
        yield from map(self._statement, sources)
        names: set[str] = set()
        while places:
            places = {
                name
                for name, value, _ in self._assignments()
                if not (isinstance(value, ast.Call) and not _name(value.func).startswith("align"))
                and any(
                    node in sources or (isinstance(node, ast.Name) and node.id in names) for node in ast.walk(value)
                )
            } - names
            names |= places
        yield from (self._statement(node) for node in self._nodes if isinstance(node, ast.Name) and _loads(node, names))

    def _is_address_of(self, node: ast.AST, array: str) -> bool:
        is_address = isinstance(node, ast.Attribute) and ast.unparse(node).endswith(".ctypes.data")
        return is_address and _base(node) == array

    def _is_alive_after(self, use: ast.stmt, array: str, maker: ast.stmt) -> bool:
        """Whether an array is read after a statement on some path, which may lead around a loop."""
        around = [loop for loop in self._around(use) if isinstance(loop, LOOPS)]
        for node in self._nodes:
            if not (isinstance(node, ast.Name) and _loads(node, {array})):
                continue
            reader = self._around(node)
            if any(loop in reader and loop not in self._around(maker) for loop in around):
                return True
            arms, arms_of_use = self._arms(node), self._arms(use)
            reachable = all(arms[each] == arms_of_use[each] for each in arms.keys() & arms_of_use.keys())
            if node.lineno > (use.end_lineno or 0) and reachable:
                return True
        return False

    def _statement(self, node: ast.AST) -> ast.stmt:
        while not isinstance(node, ast.stmt):
            node = self._parents[id(node)]
        return node

    def _around(self, node: ast.AST) -> list[ast.AST]:
        found = []
        while id(node) in self._parents:
            node = self._parents[id(node)]
            found.append(node)
        return found

    def _arms(self, node: ast.AST) -> dict[int, bool]:
        """Which arm of each ``if`` around it a node is in."""
        found = {}
        for parent in self._around(node):
            if isinstance(parent, ast.If):
                found[id(parent)] = node in parent.body
            node = parent
        return found


def _base(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return _name(node)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _loads(node: ast.Name, names: set[str]) -> bool:
    return node.id in names and isinstance(node.ctx, ast.Load)


def early_frees(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            calls = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
            if COMPILED.intersection(map(_name, calls)):
                found += Function(node).early_frees()
    return found


PATHS = sorted(Path(cpu.__file__).parent.rglob("*.py"))


def test_no_kernel_uses_memory_that_was_given_back():
    assert {path.name: found for path in PATHS if (found := early_frees(path.read_text()))} == {}


WRONG = {
    "in a call": "m = np.empty(4)\nwork(m.ctypes.data, m.size)",
    "of a part": "m, n = np.empty((4, 4)), 3\nfor i in range(n):\n    m[i] = 0\nwork(m[1].ctypes.data)",
    "before a loop": "m = np.empty(4)\nplace = m.ctypes.data\nfor i in range(4):\n    work(place + i)",
    "computed": "m = np.empty(4)\nplace = align(m.ctypes.data) + 4\nm[0] = 1\nwork(place)",
    "after a loop": "m = np.empty(4)\nfor i in range(4):\n    place = m.ctypes.data\nwork(place)",
    "made in the loop": "for i in range(4):\n    m = np.empty(4)\n    work(m.ctypes.data)",
    "the other arm": "m = np.empty(4)\nif x:\n    work(m.ctypes.data)\nelse:\n    m[0] = 1",
}
RIGHT = {
    "in a loop": "m = np.empty(4)\nfor i in range(4):\n    work(m.ctypes.data)",
    "a loop that has to do with it": "m = np.empty(4)\nplace = m.ctypes.data\nfor i in range(4):\n    m[0] = i\n    work(place)",
    "read afterwards": "m = np.empty(4)\nwork(m.ctypes.data)\nreturn m.sum()",
    "read in the same arm": "m = np.empty(4)\nif x:\n    work(m.ctypes.data)\n    y[:] = m",
    "an argument": "work(x.ctypes.data)",
}


@pytest.mark.parametrize("body", [*WRONG, *RIGHT])
def test_what_is_noticed(body):
    lines = (WRONG | RIGHT)[body].replace("\n", "\n    ")
    assert bool(early_frees(f"@kernel()\ndef f(x, y):\n    {lines}\n")) == (body in WRONG)
