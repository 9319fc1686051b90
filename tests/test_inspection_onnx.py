"""What ``inspect`` says of ONNX models, whoever wrote them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cli_case import run

from minicaffe import proto
from minicaffe.errors import DataError, MissingExtraError, WeightsError
from minicaffe.inspection import inspect
from minicaffe.net import Net
from minicaffe.onnx import export_onnx
from minicaffe.proto import kinds

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
NET = """
name: "tiny"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }
"""


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def exported(values=((1.0, 2.0, 3.0, 6.0),) * 3) -> Path:
    Path("tiny.prototxt").write_text(NET)
    net = Net("tiny.prototxt", proto.TEST)
    net.params["ip"][0].data[...] = values
    export_onnx(net, "tiny.onnx")
    return Path("tiny.onnx")


def foreign() -> Path:
    """A model of another program: an operator of a domain of its own, numbers in a file beside it, sizes not told."""
    helper = onnx.helper
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3], np.arange(12.0))
    outside = onnx.TensorProto(name="far", data_type=onnx.TensorProto.FLOAT16, dims=[5, 2])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="far.bin")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Twice", ["h"], ["y"], domain="org.example"),
        helper.make_node("Shape", ["h"], ["n"]),
    ]
    ends = (
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", None, 4])],
        [
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
            helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [3]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 2)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, [weight, outside]), opset_imports=opsets, producer_name="p",
        producer_version="1.2", doc_string="d" * 300, model_version=300,
    )  # fmt: skip
    Path("foreign.onnx").write_bytes(model.SerializeToString())
    return Path("foreign.onnx")


def test_an_exported_model(capsys):
    found = inspect(exported())
    assert found.kind == "an ONNX model"
    assert found.facts["opset"] == {"ai.onnx": 18} and found.facts["producer"] == "minicaffe"
    assert found.facts["inputs"] == {"x": "float batch x 4"} and found.facts["outputs"] == {"y": "float batch x 3"}
    assert found.facts["types"] == {"Gemm": 1} and found.facts["nodes"] == 1
    assert found.facts["numbers"] == 15 and found.facts["initializer_bytes"] == {"float": 60}
    assert found.arrays["ip.weight"].shape == (3, 4) and found.arrays["ip.weight"].mean == 3
    outcome = run(capsys, "inspect", "tiny.onnx", "--quiet")
    assert outcome.status == 0 and "  types: Gemm: 1" in outcome.out.splitlines()


def test_numbers_that_are_not_finite_are_named():
    assert inspect(exported(np.nan)).problems == ["ip.weight: 12 NaN"]


def test_a_model_of_another_program():
    found = inspect(foreign())
    assert found.facts["producer"] == "p 1.2" and found.facts["opset"] == {"ai.onnx": 17, "org.example": 2}
    assert found.facts["inputs"] == {"x": "float N x ? x 4"}
    assert found.facts["outputs"] == {"y": "float, of any shape", "n": "int64 3"}
    assert found.facts["types"] == {"MatMul": 1, "org.example.Twice": 1, "Shape": 1}
    assert found.facts["initializer_bytes"] == {"float": 48, "float16": 20}
    assert found.facts["in_files_beside_it"] == ["far.bin"]
    assert set(found.arrays) == {"w"}


def test_a_damaged_model():
    content = exported().read_bytes()
    for size in range(40, len(content), 17):
        Path("cut.onnx").write_bytes(content[:size])
        with pytest.raises(DataError, match="cut.onnx is a truncated or damaged ONNX model"):
            inspect("cut.onnx")
    short = onnx.ModelProto(ir_version=8, producer_name="p", graph=onnx.GraphProto(name="g"))
    Path("none.onnx").write_bytes(short.SerializeToString())
    with pytest.raises(DataError, match="without a graph"):
        inspect("none.onnx")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3], raw_data=b"\0" * 11)
    short.graph.initializer.append(tensor)
    Path("short.onnx").write_bytes(short.SerializeToString())
    with pytest.raises(DataError, match="initializer 'w' of the ONNX model is damaged"):
        inspect("short.onnx")


def test_without_the_package_its_extra_is_named(monkeypatch):
    path = exported()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"minicaffe\[onnx\]"):
        inspect(path)


def test_other_readers_name_it():
    path = exported()
    with pytest.raises(WeightsError, match="tiny.onnx is an ONNX model, which minicaffe writes"):
        Net("tiny.prototxt", proto.TEST).copy_from(path)


def test_no_message_of_caffes_is_taken_for_one():
    net = proto.NetParameter(name="n", layer=[proto.LayerParameter(name="a", type="ReLU")])
    state = proto.SolverState(iter=7, learned_net="a.caffemodel", history=[proto.BlobProto(data=[1])], current_step=2)
    blob = proto.BlobProto(num=1, channels=1, height=1, width=2, double_data=[1, 2])
    blob.shape.dim.extend([1, 2])
    datum = proto.Datum(channels=1, height=1, width=2, data=b"ab", label=3)
    for message in (net, state, blob, datum, proto.BlobProto(num=8), proto.SolverState(iter=8)):
        assert not kinds.is_onnx(message.SerializeToString())
    assert kinds.is_onnx(foreign().read_bytes())
