"""Solver trajectories computed by Caffe (golden/solvers): params and outputs after every iteration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe.solvers import get_solver

FOLDER = Path(__file__).parent / "golden" / "solvers"


@pytest.mark.parametrize("case", sorted(path.stem for path in FOLDER.glob("*.npz")))
def test_trajectory_is_caffes(case, in_folder):
    in_folder(FOLDER)
    with np.load(f"{case}.npz") as file:
        golden = dict(file)
    solver = get_solver(f"{case}_solver.prototxt")
    params = {}
    for key in golden:
        if key.startswith("init__"):
            layer, index = key[len("init__") :].rsplit("__", 1)
            params[key[len("init__") :]] = solver.net.params[layer][int(index)]
            params[key[len("init__") :]].data[...] = golden[key]
    for t in range(int(golden["iters"])):
        if not np.isnan(golden["lr_before_step"][t]):
            assert solver.lr == pytest.approx(golden["lr_before_step"][t], rel=1e-6)
        solver.step(1)
        for name, blob in params.items():
            agree(blob.data, golden[f"param__{name}"][t], f"{name} after iteration {t}")
            agree(blob.diff, golden[f"update__{name}"][t], f"update of {name} at iteration {t}")
        for key in (k for k in golden if k.startswith("out__")):
            agree(solver.net.blobs[key[len("out__") :]].data, golden[key][t], f"{key} at iteration {t}")


def agree(got, want, what):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max() + 1e-6, err_msg=what)
