"""What an ONNX file holds, whoever wrote it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from minicaffe import compat, limits
from minicaffe.errors import DataError


def read(path: str) -> Any:
    """The ModelProto of a file; numbers that lie in files beside it are not read.

    Raises MissingExtraError without the package onnx; DataError for a file that is damaged or cannot be read;
    OutOfMemoryError.
    """
    onnx = compat.require("onnx")
    try:
        model = onnx.load_model_from_string(limits.read_file(path, times=2))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # protobuf's DecodeError, of whichever implementation there is
        if type(error).__name__ != "DecodeError":
            raise
        raise DataError(f"{path} is a truncated or damaged ONNX model; copy or download it again") from None
    if not model.graph.node and not model.graph.initializer:
        raise DataError(f"{path} is an ONNX model without a graph: truncated or damaged; copy or download it again")
    return model


def facts(model: Any) -> dict[str, Any]:
    """Who wrote the model, its operator sets, inputs and outputs, nodes by type, and how much its initializers hold."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    nodes = Counter(_kind(node) for node in graph.node)
    result: dict[str, Any] = {
        "graph": graph.name,
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))) or "not told",
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": {value.name: _told(value.type) for value in graph.input if value.name not in stored},
        "outputs": {value.name: _told(value.type) for value in graph.output},
        "nodes": len(graph.node),
        "types": dict(nodes.most_common()),
        "initializers": len(stored),
        "numbers": sum(math.prod(tensor.dims) for tensor in graph.initializer),
        "initializer_bytes": _by_type(graph.initializer),
    }
    if outside := _outside(graph.initializer):
        result["in_files_beside_it"] = outside
    if model.functions:
        result["functions"] = [function.name for function in model.functions]
    return result


def constants(model: Any) -> Iterator[tuple[str, NDArray]]:
    """The initializers that are arrays of numbers of NumPy's and lie in the file itself, by name."""
    onnx = compat.require("onnx")
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = _array(tensor)
            if values is not None:
                yield tensor.name, values


def _array(tensor: Any) -> NDArray | None:
    """The values of an initializer; None for types that NumPy has no numbers for."""
    try:
        values = compat.require("onnx.numpy_helper").to_array(tensor)
    except (ValueError, TypeError) as error:
        raise DataError(f"initializer '{tensor.name}' of the ONNX model is damaged: {error}") from None
    return values if values.dtype.kind in "fiub" else None


def _kind(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _told(kind: Any) -> str:
    """The type and the sizes of a value, in words: ``float 1 x 3 x N``."""
    if not kind.HasField("tensor_type"):
        return kind.WhichOneof("value") or "not told"
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return f"{_type_name(tensor.elem_type)}, of any shape"
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{_type_name(tensor.elem_type)} {' x '.join(sizes) or 'scalar'}"


def _type_name(number: int) -> str:
    kinds = compat.require("onnx").TensorProto.DataType
    return kinds.Name(number).lower() if number in kinds.values() else f"type {number}"


def _by_type(tensors: Iterable[Any]) -> dict[str, int]:
    """The bytes of initializers by the type of their numbers, those in other files included."""
    helper = compat.require("onnx.helper")
    total: Counter[str] = Counter()
    for tensor in tensors:
        try:
            size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, ValueError):  # a type of a later version of ONNX
            size = 0
        total[_type_name(tensor.data_type)] += size * math.prod(tensor.dims)
    return dict(total)


def _outside(tensors: Iterable[Any]) -> list[str]:
    """The files beside the model in which numbers lie."""
    external = compat.require("onnx").TensorProto.EXTERNAL
    places = (
        entry.value
        for tensor in tensors
        if tensor.data_location == external
        for entry in tensor.external_data
        if entry.key == "location"
    )
    return list(dict.fromkeys(places))
