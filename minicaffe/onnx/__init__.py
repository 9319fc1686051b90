"""Nets as ONNX models, which other programs run.

``export_onnx(net, path)`` writes one, ``check.differences`` compares it with the net in ONNX Runtime, ``exports`` is
for layer types of your own, ``exported_types`` lists what can be exported.
"""

from minicaffe.onnx import exporters
from minicaffe.onnx.export import Exported, export_onnx
from minicaffe.onnx.graph import OPSET
from minicaffe.onnx.writer import Writer, exports

__all__ = ["OPSET", "Exported", "Writer", "export_onnx", "exported_types", "exporters", "exports"]


def exported_types() -> list[str]:
    """The types of layers that can be exported."""
    from minicaffe.onnx.writer import exporters as table

    return sorted(table)
