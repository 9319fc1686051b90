"""Nets as ONNX models, which other programs run.

``export_onnx(net, path)`` writes one; ``check.differences`` runs it in ONNX Runtime and compares it with the net;
``exported_types`` lists the types of layers that can be exported, ``exports`` registers a function for another.
"""

from minicaffe.onnx.export import Exported, export_onnx, exported_types
from minicaffe.onnx.graph import OPSET
from minicaffe.onnx.writer import Writer, exports

__all__ = ["OPSET", "Exported", "Writer", "export_onnx", "exported_types", "exports"]
