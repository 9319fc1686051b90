"""Layers, nets and solvers computed by Caffe (``golden/layers``, ``nets``, ``solvers``) and its forks
(``golden/forks``), held against the current backend.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from minicaffe import proto
from minicaffe.net import Net
from minicaffe.solvers import get_solver

LAYERS = Path(__file__).parent / "golden" / "layers"
FORKS = Path(__file__).parent / "golden" / "forks"
NETS = Path(__file__).parent / "golden" / "nets"
SOLVERS = Path(__file__).parent / "golden" / "solvers"


def layer_cases():
    """The names of all golden cases of layers."""
    return sorted(path.stem for folder in (LAYERS, FORKS) for path in folder.glob("*.npz"))


def solver_cases():
    """The names of all golden runs of solvers."""
    return sorted(path.stem for path in SOLVERS.glob("*.npz"))


class LayerCase:
    """One golden case: its net, with Caffe's params and inputs."""

    def __init__(self, name):
        folder = LAYERS if (LAYERS / f"{name}.npz").exists() else FORKS
        with np.load(folder / f"{name}.npz") as file:
            self.golden = dict(file)
        self.meta = json.loads(str(self.golden["meta"]))
        self.net = Net(folder / f"{name}.prototxt", proto.Phase.Value(self.meta["phase"]))
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

    def check(self):
        """Everything that Caffe computed: tops, also of a second pass, params after it, gradients."""
        self.check_forward()
        if any(key.endswith("_fwd2") for key in self.golden):
            self.check_forward("_fwd2")
        for i, blob in enumerate(self.layer.blobs):
            if f"param_after_{i}" in self.golden:
                self.expect(f"param_after_{i}", blob.data)
        if self.meta["backward"]:
            self.check_backward()


def net_cases():
    """The names of all nets whose every number Caffe has computed."""
    return sorted(path.stem for path in NETS.glob("*.prototxt"))


def check_net(case):
    """Loss, blobs and gradients of one pass over a whole net are Caffe's."""
    with np.load(NETS / f"{case}.npz") as file:
        golden = dict(file)
    net = Net(NETS / f"{case}.prototxt", proto.TRAIN)
    params = {f"{name}__{i}": blob for name, blobs in net.params.items() for i, blob in enumerate(blobs)}
    own = {name: blob for name, blob in params.items() if f"param__{name}" in golden}  # the others share these
    for name, blob in own.items():
        blob.data[...] = golden[f"param__{name}"]
    for name in net.inputs:
        net.blobs[name].data[...] = golden[f"blob__{name}"]
    net.clear_param_diffs()
    net.forward()
    agree(net.loss, golden["loss"], "loss")
    for name in (key.removeprefix("blob__") for key in golden if key.startswith("blob__")):
        agree(net.blobs[name].data, golden[f"blob__{name}"], name)
    net.backward()
    for name, blob in own.items():
        agree(blob.diff, golden[f"paramdiff__{name}"], f"gradient of {name}")
    for name in (key.removeprefix("blobdiff__") for key in golden if key.startswith("blobdiff__")):
        agree(net.blobs[name].diff, golden[f"blobdiff__{name}"], f"gradient of {name}")


def check_trajectory(case):
    """Params and outputs after every iteration are Caffe's."""
    with np.load(SOLVERS / f"{case}.npz") as file:
        golden = dict(file)
    solver = get_solver(SOLVERS / f"{case}_solver.prototxt")
    params = {}
    for key in golden:
        if key.startswith("init__"):
            layer, index = key[len("init__") :].rsplit("__", 1)
            params[key[len("init__") :]] = solver.net.params[layer][int(index)]
            params[key[len("init__") :]].data[...] = golden[key]
    for t in range(int(golden["iters"])):
        if not np.isnan(golden["lr_before_step"][t]):
            np.testing.assert_allclose(solver.lr, golden["lr_before_step"][t], rtol=1e-6)
        solver.step(1)
        for name, blob in params.items():
            agree(blob.data, golden[f"param__{name}"][t], f"{name} after iteration {t}")
            agree(blob.diff, golden[f"update__{name}"][t], f"update of {name} at iteration {t}")
        for key in (k for k in golden if k.startswith("out__")):
            agree(solver.net.blobs[key[len("out__") :]].data, golden[key][t], f"{key} at iteration {t}")


def agree(got, want, what):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max() + 1e-6, err_msg=what)
