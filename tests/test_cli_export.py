"""``minicaffe export``."""

from __future__ import annotations

import json
import sys

import pytest
from cli_case import NET, run

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")

from minicaffe import proto  # noqa: E402
from minicaffe.net import Net  # noqa: E402
from minicaffe.onnx import check  # noqa: E402


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    Net("net.prototxt", proto.TEST).save("net.caffemodel")
    return tmp_path


def test_it_tells_what_it_wrote(here, capsys):
    outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", "net.onnx", "--check", "--quiet")
    assert outcome.status == 0
    first, *sides, last = outcome.out.splitlines()
    model = onnx.load("net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert first == f"net.onnx: opset 18, {len(model.graph.node)} nodes"
    assert sides == [
        "input data: batch x 3",
        "input label: batch",
        "output accuracy: one number",
        "output loss: one number",
        "note: layer 'data' (DummyData) is left out: data, label are inputs",
    ]
    assert last.startswith("checked in ONNX Runtime: the largest difference is ")


def test_it_tells_it_as_json(here, capsys):
    outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", "net.onnx", "--json", "--output", "ip", "--quiet")
    told = json.loads(outcome.out)
    assert told == {
        "opset": 18,
        "inputs": {"data": ["batch", 3]},
        "outputs": {"ip": ["batch", 2]},
        "notes": told["notes"],
        "differences": None,
    }


def test_a_model_that_computes_something_else_is_an_error(here, capsys, monkeypatch):
    monkeypatch.setattr(check, "differences", lambda exported: {"loss": 0.5, "accuracy": 0.0})
    outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", "net.onnx", "--check", "--quiet")
    assert outcome.status == 1
    assert outcome.out.splitlines()[-1].endswith("the largest difference is 0.5 of the largest value of 'loss'")


def test_weights_that_leave_a_layer_without_are_an_error(here, capsys):
    (here / "other.prototxt").write_text(NET.replace('name: "ip"', 'name: "ip2"'))
    outcome = run(capsys, "export", "other.prototxt", "net.caffemodel", "net.onnx", "--quiet")
    assert outcome.status == 1 and "net.caffemodel" in outcome.err and "ip2" in outcome.err
    more = (
        NET
        + 'layer { name: "more" type: "InnerProduct" bottom: "ip" top: "more" inner_product_param { num_output: 2 } }'
    )
    (here / "more.prototxt").write_text(more)
    outcome = run(capsys, "export", "more.prototxt", "net.caffemodel", "net.onnx", "--quiet")
    assert outcome.status == 1 and "net.caffemodel holds no weights for more of net 'tiny'" in outcome.err
    assert not (here / "net.onnx").exists()
    outcome = run(capsys, "export", "more.prototxt", "net.caffemodel", "net.onnx", "--output", "loss", "--quiet")
    assert outcome.status == 0 and (here / "net.onnx").exists()


def test_sizes_stand_for_data_that_is_not_there(here, capsys):
    data = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "absent" batch_size: 4 } }'
    (here / "net.prototxt").write_text(data + NET[NET.index('layer { name: "ip"') :])
    words = ["export", "net.prototxt", "net.caffemodel", "net.onnx", "--quiet"]
    outcome = run(capsys, *words)
    assert outcome.status == 1 and "absent" in outcome.err and "give --shape for each top" in outcome.err
    outcome = run(capsys, *words, "--shape", "data=2,3", "--shape", "label=2")
    assert outcome.status == 0 and "input data: batch x 3" in outcome.out


def test_a_folder_that_is_not_there_is_made_and_a_bad_path_is_an_error(here, capsys):
    outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", "net.prototxt/net.onnx", "--quiet")
    assert outcome.status == 1 and outcome.errors


def test_nothing_is_written_without_a_suffix_that_says_what(here, capsys):
    before = (here / "net.caffemodel").read_bytes()
    for path in ("net.caffemodel", "net", "net.tflite"):
        outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", path, "--quiet")
        assert outcome.status != 0 and "OUT must end in .onnx, .pt or .pth" in outcome.err
    assert (here / "net.caffemodel").read_bytes() == before and not (here / "net.tflite").exists()


def test_it_writes_for_pytorch_by_the_suffix(here, capsys):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    words = ["export", "net.prototxt", "net.caffemodel", "net.pt", "--output", "ip", "--quiet"]
    first, *sides, last = run(capsys, *words, "--check").out.splitlines()
    assert first.startswith("net.pt: a state_dict of 2 tensors; net.py: its module, the class ")
    assert sides == ["input data: 4 x 3", "output ip: 4 x 2"]
    assert last.startswith("checked in PyTorch: the largest difference is ")
    told = json.loads(run(capsys, *words, "--json").out)
    assert told["module"] == "net.py" and told["inputs"] == {"data": [4, 3]} and told["differences"] is None


def test_for_pytorch_it_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = run(capsys, "export", "net.prototxt", "net.caffemodel", "net.pth", "--quiet")
    assert outcome.status != 0 and "pip install 'minicaffe[torch]'" in outcome.err
    assert not (here / "net.pth").exists()


def test_weights_of_nan_are_refused(here, capsys):
    net = Net("net.prototxt", proto.TEST)
    next(iter(net.params.values()))[0].data.flat[0] = float("nan")
    net.save("nan.caffemodel")
    outcome = run(capsys, "export", "net.prototxt", "nan.caffemodel", "net.onnx", "--quiet")
    assert outcome.status == 1 and not (here / "net.onnx").exists()
    assert "nan.caffemodel holds NaN in ip: " in outcome.err
