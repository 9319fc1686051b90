"""Solver trajectories computed by Caffe (golden/solvers): params and outputs after every iteration."""

from __future__ import annotations

import pytest
from golden_layers import SOLVERS, check_trajectory, solver_cases


@pytest.mark.parametrize("case", solver_cases())
def test_trajectory_is_caffes(case, in_folder):
    in_folder(SOLVERS)
    check_trajectory(case)
