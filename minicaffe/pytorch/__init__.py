"""Nets as PyTorch modules, which run and train without minicaffe.

``export_torch(net, path)`` writes a ``.pt`` file of weights and, beside it, the module's source; ``module(net)`` is
that module, made and loaded; ``check.differences`` compares it with the net; ``exported_types`` lists the types of
layers that can be exported.
"""

from minicaffe.pytorch.export import Exported, export_torch, exported_types, module

__all__ = ["Exported", "export_torch", "exported_types", "module"]
