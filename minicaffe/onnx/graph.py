"""An ONNX graph while it is written: nodes, constants, and names that are used once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat

FLOAT, INT64 = 1, 7
"""Of TensorProto.DataType."""
OPSET = 18
IR_VERSION = 8
"""What ONNX 1.13 wrote, the first version with opset 18: newer runtimes read it, and older ones that know the opset."""


class Graph:
    """Nodes in the order of their running, and the constants that they read.  A value is known by its name."""

    def __init__(self) -> None:
        self._helper = compat.require("onnx.helper")
        self._from_array = compat.require("onnx.numpy_helper").from_array
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._taken: dict[str, int] = {}
        self._node_names: dict[str, int] = {}
        self._held: dict[Hashable, str] = {}

    def reserve(self, name: str) -> str:
        """Take a name for a value; it, or with a number behind it where it is taken."""
        return _new(name, self._taken)

    def node(self, layer: str, kind: str, inputs: Sequence[str], outputs: int, attributes: dict[str, Any]) -> list[str]:
        """Append a node that belongs to a layer; the names of its outputs."""
        names = [self.reserve(f"{layer}/{kind}") for _ in range(outputs)]
        made = self._helper.make_node(kind, list(inputs), names, name=_new(layer, self._node_names), **attributes)
        self.nodes.append(made)
        return names

    def constant(self, name: str, values: NDArray, key: Hashable = None) -> str:
        """A constant; one of the same ``key`` (default: of the same values) is not stored again."""
        values = np.array(values, order="C", copy=None)
        key = (values.dtype.str, values.shape, values.tobytes()) if key is None else key
        if key not in self._held:
            self._held[key] = self.reserve(name)
            self.constants.append(self._from_array(values, self._held[key]))
        return self._held[key]

    def name_value(self, value: str, name: str, since: int, layer: str) -> None:
        """Let a value be called ``name``, which is reserved: an output of a node from number ``since`` on is renamed,
        any other value copied.
        """
        for made in self.nodes[since:]:
            for k, output in enumerate(made.output):
                if output == value:
                    made.output[k] = name
                    self._read_as(value, name, since)
                    return
        copy = self.node(layer, "Identity", [value], 1, {})
        self.name_value(copy[0], name, len(self.nodes) - 1, layer)

    def _read_as(self, value: str, name: str, since: int) -> None:
        for made in self.nodes[since:]:
            for k, read in enumerate(made.input):
                if read == value:
                    made.input[k] = name

    def model(self, name: str, inputs: Mapping[str, Sequence], outputs: Mapping[str, Sequence]) -> Any:
        """The ModelProto; inputs and outputs are float32 of these sizes, of which a string names one that may change
        and nothing is known of None.
        """
        ends = (
            [self._helper.make_tensor_value_info(value, FLOAT, list(sizes)) for value, sizes in side.items()]
            for side in (inputs, outputs)
        )
        graph = self._helper.make_graph(self.nodes, name or "net", *ends, self.constants)
        opsets = [self._helper.make_opsetid("", OPSET)]
        model = self._helper.make_model(graph, opset_imports=opsets, producer_name="minicaffe")
        model.ir_version = IR_VERSION
        return model


def _new(name: str, taken: dict[str, int]) -> str:
    """A name that is not taken yet; ``taken`` has the last number tried behind each that is."""
    result = name
    while result in taken:
        taken[name] += 1
        result = f"{name}_{taken[name]}"
    taken[result] = 1
    return result
