"""``inspect``, ``diff`` and ``verify``: what they say of files of every kind, and of files that are wrong."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from cli_case import run
from PIL import Image

from minicaffe import models, proto, weight_files
from minicaffe.data.datum import from_array
from minicaffe.data.db import open_db
from minicaffe.data.write import write_images
from minicaffe.inspection import inspect
from minicaffe.net import Net
from minicaffe.statistics import describe

GOLDEN = Path(__file__).parent / "golden" / "formats"
LENET = models.find("lenet/lenet.prototxt")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lenet(path: str = "lenet.caffemodel", change=lambda net: None) -> Net:
    net = Net(LENET, proto.TEST)
    change(net)
    net.save(path)
    return net


def as_json(capsys, *args: object):
    outcome = run(capsys, *args, "--json", "--quiet")
    return outcome.status, json.loads(outcome.out)


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_statistics():
    found = describe(np.array([[1.0, np.nan, 0.0], [np.inf, -3.0, -np.inf]], np.float32))
    assert (found.shape, found.dtype, found.zeros, found.nan, found.infinite) == ((2, 3), "float32", 1, 1, 2)
    assert (found.minimum, found.maximum) == (-3, 1)
    assert found.mean == pytest.approx(-2 / 3) and found.std == pytest.approx(np.std([1, 0, -3]))
    assert found.remark == "1 NaN, 2 infinite"
    assert describe(np.zeros(3)).remark == "all zero"
    assert describe(np.full(2, np.nan)).minimum is None
    assert describe(np.array([3, 200], np.uint8)).mean == 101.5


def test_a_net(capsys):
    status, found = as_json(capsys, "inspect", "lenet/lenet.prototxt")
    assert status == 0 and found["kind"] == "a net (prototxt)"
    assert found["inputs"] == {"data": [64, 1, 28, 28]} and found["outputs"] == {"prob": [64, 10]}
    assert found["params"] == 431080
    conv1 = found["layers"][1]
    assert conv1["name"] == "conv1" and conv1["shapes"] == [[64, 20, 24, 24]]
    assert conv1["settings"] == {"outputs": 20, "kernel size": "5", "stride": "1", "pad": "0"}


def test_a_net_without_its_data(capsys):
    outcome = run(capsys, "inspect", "lenet/lenet_train_test.prototxt", "--quiet")
    assert outcome.status == 0 and "shapes: not known, since the net cannot be built as it is" in outcome.out
    assert "accuracy" in outcome.out


def test_a_solver(capsys):
    _, found = as_json(capsys, "inspect", "lenet/lenet_solver.prototxt")
    assert found["kind"] == "a solver (prototxt)" and found["lr_policy"] == "inv" and found["test_iter"] == [100]


@pytest.mark.parametrize("ending", [".caffemodel", ".h5", ".npz", ".safetensors"])
def test_weights_of_every_format(capsys, ending):
    net = lenet()
    weight_files.write(f"x{ending}", weight_files.read("lenet.caffemodel"))
    _, found = as_json(capsys, "inspect", f"x{ending}")
    assert found["kind"] == "weights of a net" and found["params"] == 431080
    values = net.params["conv2"][0].data
    conv2 = found["arrays"]["conv2/0"]
    assert conv2["shape"] == [50, 20, 5, 5]
    assert conv2["maximum"] == pytest.approx(float(values.max())) and conv2["mean"] == pytest.approx(
        values.mean(dtype=np.float64)
    )


def test_numbers_that_are_not_finite_are_named(capsys):
    def spoil(net):
        net.params["ip2"][1].data[3:5] = np.nan

    lenet("nan.caffemodel", spoil)
    outcome = run(capsys, "inspect", "nan.caffemodel", "--quiet")
    assert "problem: ip2/1: 2 NaN" in outcome.out.splitlines()


def test_a_solver_state():
    state = proto.SolverState(iter=7, learned_net="a.caffemodel", current_step=2)
    state.history.add(data=[1, 2, 3, 4]).shape.dim.extend([2, 2])
    Path("x.solverstate").write_bytes(state.SerializeToString())
    found = inspect("x.solverstate")
    assert found.kind == "a solver state" and found.facts["iter"] == 7
    assert found.arrays["history 0"].shape == (2, 2) and found.arrays["history 0"].mean == 2.5


def test_a_mean_image():
    found = inspect(GOLDEN / "mean.binaryproto")
    assert found.kind == "a blob, such as an image mean"
    assert found.facts["channel_means"] == pytest.approx([142.158, 128.263, 120.383], abs=5e-4)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_a_database(capsys, backend):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 5), np.uint8)
    write_images("db", images, np.arange(30) % 3, backend)
    _, found = as_json(capsys, "inspect", "db")
    assert found["kind"] == f"a database ({backend})" and found["records_looked_at"] == 30
    assert found["shapes"] == {"1 x 4 x 5": 30} and found["labels"] == {"0": 10, "1": 10, "2": 10}
    assert found["mean"] == pytest.approx(images.mean()) and found["std"] == pytest.approx(images.std())
    assert as_json(capsys, "inspect", "db", "--records", 7)[1]["records_looked_at"] == 7


def test_a_database_of_several_labels():
    with open_db("db", "lmdb", "new") as database:
        for n, labels in enumerate(([1, 0.5], [3, -2])):
            database.put(b"%d" % n, from_array(np.zeros((1, 2, 2), np.uint8), np.array(labels)).SerializeToString())
    facts = inspect("db").facts
    assert facts["labels_each"] == "2" and "labels" not in facts
    assert (facts["smallest_labels"], facts["largest_labels"]) == ("1, -2", "3, 0.5")
    with open_db("db", "lmdb", "replace") as database:
        for n in (1, 3):
            database.put(b"%d" % n, from_array(np.zeros((1, 2, 2), np.uint8), np.ones(n)).SerializeToString())
    assert inspect("db").facts["labels_each"] == "1 or 3"


def test_an_encoded_database():
    found = inspect(GOLDEN / "db_enc_lmdb")
    assert found.facts["encoded"] is True and found.facts["shapes"] == {"3 x 12 x 10": 20}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(packed):
    data = struct.pack(">4I", 2051, 2, 3, 4) + bytes(range(24))
    Path("images").write_bytes(gzip.compress(data) if packed else data)
    found = inspect("images")
    assert found.kind == "images (IDX, as MNIST's)" and found.arrays["data"].shape == (2, 3, 4)
    Path("labels").write_bytes(struct.pack(">2I", 2049, 3) + bytes([7, 7, 1]))
    assert inspect("labels").facts["labels"] == {"1": 1, "7": 2}


def test_arrays_and_images():
    np.save("a.npy", np.arange(6.0).reshape(2, 3))
    np.savez("b.npz", x=np.ones(4))
    Image.fromarray(np.full((4, 5, 3), [1, 2, 3], np.uint8)).save("c.png")
    assert inspect("a.npy").arrays["array"].shape == (2, 3)
    assert inspect("b.npz").arrays["x"].mean == 1
    found = inspect("c.png")
    assert [(name, part.mean) for name, part in found.arrays.items()] == [("blue", 3), ("green", 2), ("red", 1)]


def test_data_in_hdf5():
    found = inspect(GOLDEN / "part0.h5")
    assert found.kind == "data (HDF5)" and {"data", "label"} <= set(found.arrays)


def test_a_list_of_images():
    Path("list.txt").write_text("a.png 3\nmy photo.png 0\n")
    found = inspect("list.txt")
    assert found.kind == "a list of images and labels"
    assert found.facts["largest_label"] == 3 and found.facts["not_found_here_or_beside_it"] == 2


@pytest.mark.parametrize("name, content, message", [
    ("none", None, "File not found: none"),
    ("empty", b"", "empty is an empty file"),
    ("page", b"<!DOCTYPE html><html>", "is a web page: the download failed"),
    ("x.prototxt", b'layer { nam: "a" }', 'x.prototxt:1:9: LayerParameter has no field "nam"'),
    ("s.prototxt", b"base_lr: 1\nmax_itr: 3", 'SolverParameter has no field "max_itr"'),
    ("noise", bytes(range(256)), "noise (256 bytes) is truncated, corrupt or of another kind"),
    ("cut.npy", b"\x93NUMPY\x01\x00v", "no whole .npy file"),
    ("cut.png", b"\x89PNG\r\n\x1a\n....", "image"),
])  # fmt: skip
def test_what_cannot_be_told(capsys, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    outcome = run(capsys, "inspect", name)
    assert outcome.status == 1 and message in outcome.err
    assert "unexpected" not in outcome.err


def test_a_pipe_is_not_waited_for(capsys):
    os.mkfifo("pipe")
    for args in (
        ("inspect", "pipe"),
        ("diff", "pipe", "pipe"),
        ("convert", "pipe", "x.npz"),
        ("parse_log", "pipe", "."),
    ):
        outcome = run(capsys, *args)
        assert outcome.status == 1 and "pipe" in outcome.errors[0]


def test_no_code_of_a_net_is_run(capsys):
    Path("evil.py").write_text("raise SystemExit('run')")
    Path("net.prototxt").write_text(
        'layer { name: "p" type: "Python" top: "x" python_param { module: "evil" layer: "L" } }'
    )
    outcome = run(capsys, "inspect", "net.prototxt", "--quiet")
    assert outcome.status == 0 and "cannot be built as it is" in outcome.out


def test_folders_that_are_no_database(capsys):
    Path("folder").mkdir()
    assert "it is empty" in run(capsys, "inspect", "folder").errors[0]
    shutil.copytree(GOLDEN / "db_raw_lmdb", "db")
    assert "is a part of a database: inspect its folder" in run(capsys, "inspect", "db/data.mdb").errors[0]


# --- diff -------------------------------------------------------------------------------------------------------------


def test_equal_files_do_not_differ(capsys):
    lenet()
    weight_files.write("lenet.npz", weight_files.read("lenet.caffemodel"))
    for a, b in (
        ("lenet/lenet.prototxt",) * 2,
        ("lenet.caffemodel", "lenet.npz"),
        ("lenet/lenet_solver.prototxt",) * 2,
    ):
        outcome = run(capsys, "diff", a, b, "--quiet")
        assert outcome.status == 0 and outcome.out.splitlines()[-1] == "no difference"


def test_nets_differ_by_layers_and_fields(capsys):
    text = Path(LENET).read_text()
    changed = text.replace("num_output: 500", "num_output: 300").replace('name: "prob"', 'name: "probability"')
    changed = changed.replace('name: "LeNet"', 'name: "Other"').replace("pool: MAX", "pool: AVE", 1)
    Path("a.prototxt").write_text(text)
    Path("b.prototxt").write_text(changed)
    status, found = as_json(capsys, "diff", "a.prototxt", "b.prototxt")
    assert status == 1 and found["different"] and not found["other_order"]
    assert (found["only_a"], found["only_b"]) == (["prob"], ["probability"])
    assert found["fields"] == {
        "": [{"path": "name", "a": '"LeNet"', "b": '"Other"'}],
        "pool1": [{"path": "pooling_param.pool", "a": "MAX", "b": "AVE"}],
        "ip1": [{"path": "inner_product_param.num_output", "a": "500", "b": "300"}],
    }


def test_an_order_of_layers_is_a_difference(capsys):
    relu, tanh = 'layer { name: "a" type: "ReLU" }', 'layer { name: "b" type: "TanH" }'
    Path("a.prototxt").write_text(relu + tanh)
    Path("b.prototxt").write_text(tanh + relu)
    outcome = run(capsys, "diff", "a.prototxt", "b.prototxt", "--quiet")
    assert (outcome.status, outcome.out) == (1, "the layers that both have stand in another order\n")


def test_a_field_that_is_not_set_is_its_default(capsys):
    layer = 'layer { name: "p" type: "Pooling" pooling_param { %s } }'
    Path("a.prototxt").write_text(layer % "stride: 1")
    Path("b.prototxt").write_text(layer % "pool: MAX")
    assert run(capsys, "diff", "a.prototxt", "b.prototxt").status == 0


def test_weights_differ_by_numbers(capsys):
    before = lenet("a.caffemodel")
    stored = weight_files.read("a.caffemodel")
    stored.layers["ip1"][0][0, 0] += np.float32(0.25)
    stored.layers["extra"] = stored.layers.pop("conv2")
    stored.layers["ip2"][0] = stored.layers["ip2"][0].T.copy()
    stored.definition = None
    weight_files.write("b.caffemodel", stored)
    status, found = as_json(capsys, "diff", "a.caffemodel", "b.caffemodel")
    assert status == 1 and (found["only_a"], found["only_b"]) == (["conv2"], ["extra"])
    by_name = {(p["layer"], p["index"]): p for p in found["params"]}
    assert by_name["ip1", 0]["largest"] == pytest.approx(0.25, rel=1e-5)
    assert by_name["ip1", 0]["rms"] == pytest.approx(0.25 / np.sqrt(400000), rel=1e-5)
    assert by_name["ip1", 0]["relative"] == pytest.approx(0.25 / np.abs(before.params["ip1"][0].data).max(), rel=1e-5)
    assert by_name["ip1", 1]["largest"] == 0
    assert by_name["ip2", 0]["largest"] is None and by_name["ip2", 0]["shape_b"] == [500, 10]


def test_the_tolerance(capsys):
    lenet("a.caffemodel")
    stored = weight_files.read("a.caffemodel")
    stored.layers["ip2"][1] += np.float32(1e-4)
    weight_files.write("b.npz", stored)
    assert run(capsys, "diff", "a.caffemodel", "b.npz").status == 1
    assert run(capsys, "diff", "a.caffemodel", "b.npz", "--tolerance", "1e-3").status == 0


@pytest.mark.parametrize("values, different", [
    (([np.nan, 1], [np.nan, 1]), False), (([np.nan, 1], [0, 1]), True), (([np.inf], [np.inf]), False),
    (([np.inf], [-np.inf]), True), (([0], [1e-30]), True),
])  # fmt: skip
def test_numbers_that_are_not_finite_are_compared(capsys, values, different):
    for name, numbers in zip("ab", values, strict=True):
        np.savez(f"{name}.npz", **{"x/0": np.array(numbers, np.float64)})
    assert run(capsys, "diff", "a.npz", "b.npz").status == different


@pytest.mark.parametrize("a, b, status, message", [
    ("lenet/lenet.prototxt", "lenet/lenet_solver.prototxt", 2, "a solver can be compared with another solver only"),
    ("lenet/lenet.prototxt", "none.prototxt", 1, "File not found: none.prototxt"),
])  # fmt: skip
def test_what_cannot_be_compared(capsys, a, b, status, message):
    outcome = run(capsys, "diff", a, b)
    assert outcome.status == status and message in outcome.errors[0]


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".caffemodel", ".h5", ".npz", ".safetensors"])
def test_weights_that_fit(capsys, ending):
    lenet()
    weight_files.write(f"x{ending}", weight_files.read("lenet.caffemodel"))
    status, found = as_json(capsys, "verify", "lenet/lenet.prototxt", f"x{ending}")
    assert status == 0 and found["ok"] and found["params"] == 431080 and not found["unused"]
    assert found["outputs"]["prob"]["shape"] == [64, 10] and found["outputs"]["prob"]["mean"] == pytest.approx(0.1)


def test_data_layers_are_replaced_on_request(capsys):
    lenet()
    model = "lenet/lenet_train_test.prototxt"
    status, found = as_json(
        capsys, "verify", model, "lenet.caffemodel", "--shape", "data=5,1,28,28", "--shape", "label=5"
    )
    assert status == 0 and set(found["outputs"]) == {"accuracy", "loss"}


@pytest.mark.parametrize("change, problem", [
    (lambda s: s.layers.pop("ip1"), "layer 'ip1': the file holds no weights for it"),
    (lambda s: s.layers.update(ip2=[s.layers["ip2"][0].T.copy(), s.layers["ip2"][1]]), "shape mismatch"),
    (lambda s: s.layers["conv1"][1].fill(np.nan), "layer 'conv1' param 1: 20 of 20 values are NaN or infinity"),
    (lambda s: s.layers["ip1"][0].fill(1e38), "layer 'ip1' makes NaN or infinity in ip1"),
])  # fmt: skip
def test_weights_that_are_unfit(capsys, change, problem):
    lenet()
    stored = weight_files.read("lenet.caffemodel")
    change(stored)
    stored.definition = None
    weight_files.write("x.npz", stored)
    outcome = run(capsys, "verify", "lenet/lenet.prototxt", "x.npz", "--quiet")
    assert outcome.status == 1
    assert outcome.out.startswith("problem: ") and problem in outcome.out
    assert "fits" not in outcome.out


def test_layers_that_the_net_has_no_use_for_are_named(capsys):
    lenet()
    stored = weight_files.read("lenet.caffemodel")
    stored.layers["more"] = [np.ones(3, np.float32)]
    weight_files.write("x.npz", stored)
    outcome = run(capsys, "verify", "lenet/lenet.prototxt", "x.npz", "--quiet")
    assert outcome.status == 0 and outcome.out.startswith("not used by the net: more\n")


def test_weights_of_layers_that_share_some_of_them_in_hdf5(capsys):
    layer = """layer {{ name: "{0}" type: "InnerProduct" bottom: "x" top: "{0}" param {{ name: "w" }} param {{ }}
               inner_product_param {{ num_output: 2 }} }}"""
    data = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
    Path("net.prototxt").write_text(data + layer.format("a") + layer.format("b"))
    Net("net.prototxt", proto.TEST).save_hdf5("w.h5")
    _, found = as_json(capsys, "inspect", "w.h5")
    assert set(found["arrays"]) == {"data/a/0", "data/a/1", "data/b/1"}
    assert "has only one copy of a param that layers share" in run(capsys, "convert", "w.h5", "w.npz").errors[0]
