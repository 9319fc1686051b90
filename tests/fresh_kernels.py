"""Kernels that have never been compiled, for tests of how they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of kernels from its source, which is there as long as the test runs; their cache is in ``folder``."""
    path = folder / "fresh.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"minicaffe.kernels.cpu.fresh_{folder.name}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module
