"""``minicaffe test``, ``time`` and ``device_query``."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cli_case import NET, run, write_case

from minicaffe.net import Net
from minicaffe.tools import device_query


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights(capsys, tmp_path):
    run(capsys, "train", "-solver", write_case(tmp_path))
    return "tiny_iter_6.caffemodel"


def values(messages, start):
    return [float(re.fullmatch(re.escape(start) + r"(\S+)( \(.*\))?", m)[1]) for m in messages if m.startswith(start)]


def test_test_reports_every_batch_and_the_means(capsys, weights):
    outcome = run(capsys, "test", "-model", "net.prototxt", "-weights", weights, "-iterations", 3)
    assert outcome.status == 0
    told = outcome.messages[outcome.messages.index("Running for 3 iterations.") :]
    assert [re.sub(r"= [-+.\de]+", "= _", m) for m in told[1:]] == [
        *(f"Batch {i}, {name} = _" for i in range(3) for name in ("accuracy", "loss")),
        "Loss: " + told[7].removeprefix("Loss: "), "accuracy = _", "loss = _ (* 1 = _ loss)",
    ]  # fmt: skip
    losses = [values(told, f"Batch {i}, loss = ")[0] for i in range(3)]
    assert values(told, "Loss: ")[0] == pytest.approx(np.mean(losses), rel=1e-5)
    assert values(told, "loss = ")[0] == pytest.approx(np.mean(losses), rel=1e-5)


def test_test_uses_the_weights(capsys, tmp_path, weights):
    net = NET.replace('"gaussian" std: 1', '"constant" value: 0.5')
    (tmp_path / "constant.prototxt").write_text(net)
    outcome = run(capsys, "test", "-model", "constant.prototxt", "-weights", weights, "-iterations", 1)
    expected = Net("constant.prototxt", 1, weights=weights).forward()["loss"]
    assert values(outcome.messages, "Loss: ") == [pytest.approx(float(expected), rel=1e-5)]


def test_test_takes_level_and_stage(capsys, tmp_path, weights):
    rule = 'include { min_level: 1 stage: "more" }'
    extra = f'layer {{ name: "again" type: "Accuracy" bottom: "ip" bottom: "label" top: "again" {rule} }}\n'
    (tmp_path / "net.prototxt").write_text(NET + extra)
    args = ("test", "-model", "net.prototxt", "-weights", weights, "-iterations", 1)
    assert "Batch 0, again" in run(capsys, *args, "-level", 1, "-stage", "more").err
    assert "Batch 0, again" not in run(capsys, *args, "-level", 1).err


def test_time_tells_every_layer_as_caffe_does(capsys, tmp_path):
    write_case(tmp_path)
    outcome = run(capsys, "time", "-model", "net.prototxt", "-iterations", 2)
    assert outcome.status == 0
    told = outcome.messages[outcome.messages.index("Performing Forward") :]
    number = r"[-+.\de]+"
    patterns = [
        "Performing Forward", f"Initial loss: {number}", "Performing Backward", r"\*\*\* Benchmark begins \*\*\*",
        "Testing for 2 iterations.", *(f"Iteration: {i} forward-backward time: {number} ms." for i in (1, 2)),
        "Average time per layer: ",
        *(f"{name:>10}\t{way}: {number} ms." for name in ("data", "ip", "loss") for way in ("forward", "backward")),
        *(f"Average {what}: {number} ms." for what in ("Forward pass", "Backward pass", "Forward-Backward")),
        f"Total Time: {number} ms.", r"\*\*\* Benchmark ends \*\*\*",
    ]  # fmt: skip
    assert len(told) == len(patterns)
    for line, pattern in zip(told, patterns, strict=True):
        assert re.fullmatch(pattern, line)


def test_times_add_up(capsys, tmp_path):
    write_case(tmp_path)
    told = run(capsys, "time", "-model", "net.prototxt", "-iterations", 4).messages
    numbers = {
        line.rpartition(": ")[0].strip(): float(line.rpartition(": ")[2].split()[0])
        for line in told
        if line.endswith(" ms.")
    }
    forward, backward = (
        sum(numbers[f"{name}\t{way}"] for name in ("data", "ip", "loss")) for way in ("forward", "backward")
    )
    assert numbers["Average Forward pass"] == pytest.approx(forward, rel=1e-3)
    assert numbers["Average Backward pass"] == pytest.approx(backward, rel=1e-3)
    assert numbers["Average Forward-Backward"] == pytest.approx(forward + backward, rel=1e-3)
    assert numbers["Total Time"] == pytest.approx(4 * (forward + backward), rel=1e-3)


def test_time_takes_the_phase(capsys, tmp_path):
    write_case(tmp_path)
    assert "accuracy\tforward" in run(capsys, "time", "-model", "net.prototxt", "-phase", "TEST", "-iterations", 1).err
    assert "accuracy\tforward" not in run(capsys, "time", "-model", "net.prototxt", "-iterations", 1).err


def test_device_query_without_cupy_names_the_extra(capsys, monkeypatch):
    from minicaffe import compat
    from minicaffe.errors import MissingExtraError

    def absent(module):
        raise MissingExtraError(f"this needs the package {module!r}")

    monkeypatch.setattr(compat, "require", absent)
    for flag in ("0", "all"):
        outcome = run(capsys, "device_query", "-gpu", flag)
        assert (outcome.status, outcome.errors) == (1, ["error: this needs the package 'cupy'"])


def test_device_query_asks_nothing_without_gpu(capsys):
    outcome = run(capsys, "device_query")
    assert outcome.status == 0
    assert outcome.messages == ["Querying GPUs ", "No GPU was named: give --gpu 0, or --gpu all"]


PROPERTIES = {
    "name": b"Tesla K40", "major": 3, "minor": 5, "totalGlobalMem": 12079136768, "sharedMemPerBlock": 49152,
    "regsPerBlock": 65536, "warpSize": 32, "memPitch": 2147483647, "maxThreadsPerBlock": 1024,
    "maxThreadsDim": (1024, 1024, 64), "maxGridSize": (2147483647, 65535, 65535),
    "clockRate": 745000, "totalConstMem": 65536, "textureAlignment": 512,
    "deviceOverlap": 1, "multiProcessorCount": 15, "kernelExecTimeoutEnabled": 0,
}  # fmt: skip


def test_device_query_has_caffes_lines(capsys, monkeypatch):
    monkeypatch.setattr(device_query, "_properties", lambda number: PROPERTIES)
    assert run(capsys, "device_query", "-gpu", "0").messages == [
        "Querying GPUs 0",
        "Device id:                     0",
        "Major revision number:         3",
        "Minor revision number:         5",
        "Name:                          Tesla K40",
        "Total global memory:           12079136768",
        "Total shared memory per block: 49152",
        "Total registers per block:     65536",
        "Warp size:                     32",
        "Maximum memory pitch:          2147483647",
        "Maximum threads per block:     1024",
        "Maximum dimension of block:    1024, 1024, 64",
        "Maximum dimension of grid:     2147483647, 65535, 65535",
        "Clock rate:                    745000",
        "Total constant memory:         65536",
        "Texture alignment:             512",
        "Concurrent copy and execution: Yes",
        "Number of multiprocessors:     15",
        "Kernel execution timeout:      No",
    ]
