"""AnnotatedData: SSD's own batches, and what random transformations do to images and boxes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.net import Net

GOLDEN = Path(__file__).parent / "golden" / "annotated"


@pytest.fixture
def golden(tmp_path, in_folder):
    """A copy of the databases, which LMDB may write locks to."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    in_folder(folder)
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.npz")))
def test_batches_are_ssds(name, golden):
    with np.load(golden / f"{name}.npz") as file:
        expected = dict(file)
    net = Net(golden / f"{name}.prototxt", proto.Phase.Value(str(expected["phase"])))
    batches = sum(key.startswith("data_") for key in expected)
    for n in range(batches):
        net.forward()
        np.testing.assert_allclose(net.blobs["data"].data, expected[f"data_{n}"], atol=1e-5, err_msg=f"batch {n}")
        if f"label_{n}" in expected:
            assert net.blobs["label"].shape == expected[f"label_{n}"].shape
            np.testing.assert_allclose(net.blobs["label"].data, expected[f"label_{n}"], atol=1e-6, err_msg=f"{n}")
    assert batches > 1
    net.close()
