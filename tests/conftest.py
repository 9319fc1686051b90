"""Where the tests find Caffe's numbers and, if it is there, the real MNIST."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("MINICAFFE_SHARED", HERE.parent.parent / "shared"))


def pytest_collection_finish():
    """Thousands of collected tests live to the end: the garbage collector need not go through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def golden() -> Path:
    """Numbers computed by Caffe itself; see tests/golden/README.md."""
    return HERE / "golden"


@pytest.fixture
def mnist() -> Path:
    """The folder of the real MNIST's four files."""
    folder = SHARED / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"the real MNIST is not at {folder}; set MINICAFFE_SHARED to the folder that holds data/mnist")
    return folder


@pytest.fixture
def in_folder(monkeypatch):
    """Call it with a path to work in that folder for the rest of the test."""
    return monkeypatch.chdir


@pytest.fixture(params=["cpu", "strict"])
def where(request):
    """The backend to compute on: the CPU's, and the strict stand-in for a device."""
    from minicaffe import backend

    if request.param == "cpu":
        yield backend.current()
        return
    if shutil.which("g++") is None:
        pytest.skip("g++ builds the CUDA kernels for the CPU")
    from strict_gpu import StrictBackend

    with backend.use(StrictBackend()) as strict:
        yield strict
