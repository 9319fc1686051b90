"""``import caffe`` means minicaffe, for scripts and layers that nobody wants to edit."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from minicaffe.errors import MinicaffeError

_OTHER_NAMES = {"caffe._caffe": "minicaffe.pycaffe"}
"""Modules of Caffe that have another name here."""


def install_as_caffe() -> None:
    """Let ``import caffe``, and of everything in it, mean minicaffe in this process from now on.

    An installed Caffe is then out of reach.  MinicaffeError if it was imported before.
    """
    imported = sys.modules.get("caffe")
    if imported is not None and imported is not sys.modules["minicaffe"]:
        raise MinicaffeError(
            f"install_as_caffe: another package named caffe is imported already, from "
            f"{getattr(imported, '__file__', None)}; call minicaffe.install_as_caffe() before the first import of caffe"
        )
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    importlib.import_module("caffe")


class _Finder(MetaPathFinder):
    """Finds the module of minicaffe under its name in Caffe."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "caffe":
            return None
        name = _OTHER_NAMES.get(fullname, "mini" + fullname)
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            return None
        return ModuleSpec(fullname, _Loader(name))


class _Loader(Loader):
    """Gives a module that has a name and a loader of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put that of the other name there
