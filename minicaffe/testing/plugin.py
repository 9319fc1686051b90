"""The pytest plugin that comes with minicaffe: fixtures to run one test body on every backend.

pytest loads it at every start, so that the engine is imported only inside the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from minicaffe.backend import Backend


@pytest.fixture
def gpu_backend() -> Backend:
    """The GPU that ``minicaffe.set_device`` chose; the test is skipped where none can be used."""
    from minicaffe import backend
    from minicaffe.errors import DeviceError, MissingExtraError

    try:
        return backend.gpu_backend()
    except (DeviceError, MissingExtraError) as error:
        raise pytest.skip.Exception(f"no GPU: {error}") from None


@pytest.fixture(params=["cpu", "gpu"])
def layer_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Runs the test on the CPU, then on the GPU (``gpu_backend``); the backend in use, which is the current one."""
    from minicaffe import backend

    chosen = backend.host_backend() if request.param == "cpu" else request.getfixturevalue("gpu_backend")
    with backend.use(chosen):
        yield chosen
