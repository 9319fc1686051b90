"""What solvers of Caffe's forks ask for: stages, ramps, rates of single params, momentum and decay that move, lists of
devices; and fields that detection nets' solvers give.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_solver_policy import rates, solver_of

from minicaffe.errors import PrototxtError
from minicaffe.proto.files import read_solver

FIXED = 'lr_policy: "fixed" max_iter: 10 momentum: 0.5 '


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, in_folder):
    in_folder(tmp_path)


def test_multifixed_gives_each_stage_its_rate():
    text = 'lr_policy: "multifixed" stagelr: 0.5 stageiter: 3 stagelr: 0.25 stageiter: 6 stagelr: 0.125 stageiter: 9'
    assert rates(text, range(12)) == [0.5] * 4 + [0.25] * 3 + [0.125] * 5


def test_ramp_up_and_least_rate_of_nvcaffe():
    text = 'lr_policy: "poly" power: 1 max_iter: 10 rampup_interval: 4 rampup_lr: 0.02 min_lr: 0.03'
    expected = [0.02 + 0.08 * (i / 4) ** 2 for i in range(4)] + [0.1 * (1 - i / 10) for i in range(4, 12)]
    assert rates(text, range(12)) == pytest.approx([max(rate, 0.03) for rate in expected], rel=1e-6)


@pytest.mark.parametrize("policy", ["scale", "clip"])
def test_larc_gives_each_param_a_rate_by_its_norms(policy):
    solver = solver_of(FIXED + f'larc: true larc_eta: 0.01 larc_policy: "{policy}" iter_size: 2 weight_decay: 0')
    before, steps = [blob.data.copy() for blob in solver.net.params["ip"]], []
    solver.add_callback(lambda: None, lambda: steps.extend(blob.diff.copy() for blob in solver.net.params["ip"]))
    solver.step(1)
    for w, g, blob in zip(before, steps, solver.net.params["ip"], strict=True):
        own = 0.01 * np.linalg.norm(w) / np.linalg.norm(g / 2) if w.any() else 1.0
        rate = 0.1 * own if policy == "scale" else min(0.1, own)
        np.testing.assert_allclose(blob.data, w - rate * g / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ('momentum_policy: "poly" max_momentum: 0.9 momentum_power: 2', lambda i: 0.5 + 0.4 * (i / 10) ** 2),
        ('momentum_policy: "opt"', lambda i: (1 - 0.5 * math.sqrt(0.1)) ** 2),
        ('momentum_policy: "opt" max_momentum: 0.7', lambda i: 0.7),
        ("", lambda i: 0.5),
    ],
)
def test_momentum_moves_as_its_policy_says(policy, expected):
    solver, steps = solver_of(FIXED + policy), []
    solver.add_callback(lambda: None, lambda: steps.append(solver.net.params["ip"][0].diff.copy()))
    for i in range(4):
        assert solver.momentum == pytest.approx(expected(i), rel=1e-6)
        w, h = solver.net.params["ip"][0].data.copy(), solver.history_blobs()[0].copy()
        mu = solver.momentum
        solver.step(1)
        np.testing.assert_allclose(
            solver.net.params["ip"][0].data, w - (mu * h + 0.1 * steps[-1]), rtol=1e-4, atol=1e-6
        )


def test_weight_decay_grows_as_its_policy_says():
    solver = solver_of(FIXED + 'weight_decay: 0.5 weight_decay_policy: "poly" weight_decay_power: 1 momentum: 0')
    steps = []
    solver.add_callback(lambda: None, lambda: steps.append(solver.net.params["ip"][0].diff.copy()))
    for i in range(3):
        w = solver.net.params["ip"][0].data.copy()
        solver.step(1)
        g = steps[-1] + 0.5 * i / 10 * w
        np.testing.assert_allclose(solver.net.params["ip"][0].data, w - 0.1 * g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", ["device_id: [2, 0, 1]", "device_id: 2\ndevice_id: 0", "device_id : [2]"])
def test_of_a_list_of_devices_the_first_counts(text):
    with open("solver.prototxt", "w") as file:
        file.write(f'# device_id: [7]\nnet: "device_id: [9]" {text}  # device_id\n')
    solver = read_solver("solver.prototxt")
    assert solver.device_id == 2 and solver.net == "device_id: [9]"


def test_one_device_and_the_fields_of_detection_are_kept():
    with open("solver.prototxt", "w") as file:
        file.write(
            '# device_id: [7]\ndevice_id: 3 eval_type: "detection" ap_version: "11point" show_per_class_result: true'
        )
    solver = read_solver("solver.prototxt")
    assert (solver.device_id, solver.eval_type, solver.ap_version) == (3, "detection", "11point")
    assert solver.show_per_class_result
    assert not solver.device_ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('lr_policy: "multifixed"', "stageiter: must be given for lr_policy 'multifixed'"),
        ('lr_policy: "multifixed" stageiter: 1', "stagelr: must give one rate for each of 1 stages; found 0"),
        (
            'lr_policy: "multifixed" stageiter: 2 stageiter: 1 stagelr: 1 stagelr: 1',
            r"stageiter: must not fall; found \[2, 1\]",
        ),
        (FIXED + "min_lr: -1", "min_lr: must be 0 or more; found -1"),
        (FIXED + "rampup_interval: 2 warmup_iter: 2", "rampup_interval: and warmup_iter are two ways"),
        (FIXED + 'larc: true larc_policy: "auto"', "larc_policy: must be one of scale, clip; found 'auto'"),
        (FIXED + 'momentum_policy: "up"', "momentum_policy: must be one of fixed, poly, opt; found 'up'"),
        (FIXED + 'type: "Adam" momentum_policy: "opt"', "momentum_policy: only SGD and Nesterov solvers obey it"),
        ('lr_policy: "fixed" weight_decay_policy: "poly"', "max_iter: must be positive for weight_decay_policy 'poly'"),
        (FIXED + "local_lr_auto: true", "local_lr_auto: is NVCaffe's older form of larc"),
        (FIXED + "larc: true larc_turbo: true", "larc_turbo: is not in minicaffe"),
    ],
)
def test_what_makes_no_sense_is_named(text, expected):
    with pytest.raises(PrototxtError, match=expected):
        solver_of(text)
