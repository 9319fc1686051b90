"""Every layer case computed by Caffe (golden/layers), on the CPU and on the strict stand-in for CuPy.

On the stand-in a second pass must neither allocate nor wait for the device.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.layers import layer_types
from minicaffe.net import Net

FOLDER = Path(__file__).parent / "golden" / "layers"
CASES = sorted(path.stem for path in FOLDER.glob("*.npz"))
ON_HOST = {"ArgMax", "DummyData", "Filter"}
"""Layers that compute on the host, or whose shapes depend on the data: these wait for a device."""
WITHOUT_CASE = {"Data", "HDF5Data", "HDF5Output", "ImageData", "MemoryData", "Python", "WindowData"}
"""Types that other tests hold against Caffe's numbers."""


class Case:
    """One golden case: its net, with Caffe's params and inputs."""

    def __init__(self, name):
        with np.load(FOLDER / f"{name}.npz") as file:
            self.golden = dict(file)
        self.meta = json.loads(str(self.golden["meta"]))
        self.net = Net(FOLDER / f"{name}.prototxt", proto.Phase.Value(self.meta["phase"]))
        self.layer = self.net.layer_dict["test"]
        for i, blob in enumerate(self.layer.blobs):
            if f"param_{i}" in self.golden:
                assert blob.shape == self.golden[f"param_{i}"].shape
                blob.data[...] = self.golden[f"param_{i}"]

    def feed(self, suffix=""):
        for i in range(len(self.meta["bottoms"])):
            if f"bottom_{i}{suffix}" in self.golden:
                name = f"bottom_{i}" if suffix or f"raw_{i}" not in self.net.blobs else f"raw_{i}"
                self.net.blobs[name].data[...] = self.golden[f"bottom_{i}{suffix}"]

    def expect(self, name, found):
        expected = self.golden[name]
        assert found.shape == expected.shape, name
        finite = np.abs(expected[np.isfinite(expected)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * finite.max(initial=0) + 1e-6, err_msg=name)

    def check_forward(self, suffix=""):
        self.feed(suffix)
        self.net.forward()
        for i, top in enumerate(self.meta["tops"]):
            if f"top_{i}{suffix}" in self.golden:
                self.expect(f"top_{i}{suffix}", self.net.blobs[top].data)

    def seed_gradients(self):
        self.net.clear_param_diffs()
        for i, top in enumerate(self.meta["tops"]):
            if f"top_diff_{i}" in self.golden:
                self.net.blobs[top].diff[...] = self.golden[f"top_diff_{i}"]

    def check_backward(self):
        self.seed_gradients()
        self.net.backward(start="test", end="test")
        for i in range(len(self.meta["bottoms"])):
            if f"bottom_diff_{i}" in self.golden and i not in self.meta["bottom_diff_not_written"]:
                self.expect(f"bottom_diff_{i}", self.net.blobs[f"bottom_{i}"].diff)
        for i, blob in enumerate(self.layer.blobs):
            if f"param_diff_{i}" in self.golden:
                self.expect(f"param_diff_{i}", blob.diff)


@pytest.mark.parametrize("name", CASES)
def test_caffes_numbers(name, where):
    case = Case(name)
    case.check_forward()
    if any(key.endswith("_fwd2") for key in case.golden):
        case.check_forward("_fwd2")
    for i, blob in enumerate(case.layer.blobs):
        if f"param_after_{i}" in case.golden:
            case.expect(f"param_after_{i}", blob.data)
    if case.meta["backward"]:
        case.check_backward()
    if where.name == "strict":
        with without_waiting(case):
            case.net.run_forward()
            if case.meta["backward"]:
                case.net.run_backward()


@contextlib.contextmanager
def without_waiting(case):
    """No allocation and no synchronisation inside, unless the layer is one of those that cannot do without."""
    import strict_cupy

    if case.meta["type"] in ON_HOST:
        yield
        return
    case.seed_gradients()
    for blob in case.net.blobs.values():
        blob.xdata, blob.xdiff  # noqa: B018  (the device is the head from here on)
    for blob in case.layer.blobs:
        blob.xdata, blob.xdiff  # noqa: B018
    before = strict_cupy.allocations()
    with strict_cupy.no_sync():
        yield
    assert strict_cupy.allocations() == before


def test_every_type_has_a_case():
    assert {name.partition("__")[0] for name in CASES} == set(layer_types()) - WITHOUT_CASE
