"""Bad input on the command line: one clear message naming the place, exit status 1, no traceback, no file harmed."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from cli_case import NET, contents, run, write_case

from minicaffe.data.write import write_images

DATA_NET = """\
name: "data"
layer {
  name: "images"
  type: "Data"
  top: "data"
  top: "label"
  data_param { source: "images_lmdb" batch_size: 2 backend: LMDB }
}
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SHARING = """\
layer {{ name: "{0}" type: "InnerProduct" bottom: "data" top: "{0}" param {{ name: "w" }}
        inner_product_param {{ num_output: {1} }} }}
"""
NO_TEST = {"test_iter": None, "test_interval": None}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, folder, *args) -> str:
    """The whole message of a command that fails as it should."""
    before = contents(folder)
    outcome = run(capsys, *args)
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert "Traceback" not in outcome.err
    assert contents(folder) == before
    return outcome.err[outcome.err.index("error:") :]


def fails_at_work(capsys, folder, *args) -> str:
    """As ``fails``, of a training that has begun: it has told what it did until then, and changes nothing else."""
    told = {"tiny_log.csv", "tiny_log.txt"}
    before = contents(folder)
    outcome = run(capsys, *args)
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert "Traceback" not in outcome.err
    after = contents(folder)
    assert {name: after[name] for name in after.keys() - told} == {name: before[name] for name in before.keys() - told}
    assert "Starting Optimization" in (folder / "tiny_log.txt").read_text()
    return outcome.err[outcome.err.index("error:") :]


def test_a_missing_solver(capsys, tmp_path):
    message = fails(capsys, tmp_path, "train", "-solver", "solver.prototxt")
    assert "File not found: solver.prototxt" in message
    assert str(tmp_path) in message


def test_a_missing_net(capsys, tmp_path):
    solver = write_case(tmp_path)
    (tmp_path / "net.prototxt").rename(tmp_path / "other.prototxt")
    assert "File not found: net.prototxt" in fails(capsys, tmp_path, "train", "-solver", solver)


@pytest.mark.parametrize("broken, line, message", [
    ('layer { name: "ip" type: "InnerProduct"', 1, 'the text ends inside "layer {", opened at line 1'),
    ("name: \"x\"\nlayer { name: tiny }", 2, 'in field "name"'),
    ("name: \"x\"\n\nlayer { nmae: \"ip\" }", 3, 'LayerParameter has no field "nmae"; did you mean "name"?'),
    ('solver_mode: GPU', 1, "SolverParameter does: is this a solver file, given where a net is expected?"),
    ("layer { pooling_param { pool: MIN } }", 1, 'has no value MIN (legal: MAX, AVE, STOCHASTIC)'),
])  # fmt: skip
def test_a_net_that_does_not_parse(capsys, tmp_path, broken, line, message):
    solver = write_case(tmp_path, broken)
    told = fails(capsys, tmp_path, "train", "-solver", solver)
    assert f"net.prototxt:{line}:" in told
    assert message in told


def test_an_unknown_field_of_the_solver(capsys, tmp_path):
    solver = write_case(tmp_path, base_learning_rate=1)
    told = fails(capsys, tmp_path, "train", "-solver", solver)
    assert f'{solver}:11:1: SolverParameter has no field "base_learning_rate"' in told


@pytest.mark.parametrize("fields, message", [
    ({"lr_policy": '"fxed"'}, "Unknown learning rate policy: 'fxed'; did you mean 'fixed'?"),
    ({"type": '"SDG"'}, "Unknown solver type: SDG; did you mean 'SGD'?"),
    ({"test_interval": None}, "test_interval: must be positive"),
    ({"train_net": '"net.prototxt"'}, "must specify a train net using exactly one of these fields"),
    ({"snapshot_prefix": '"absent/tiny"'}, "absent does not exist; create it"),
])  # fmt: skip
def test_a_solver_that_contradicts_itself(capsys, tmp_path, fields, message):
    assert message in fails(capsys, tmp_path, "train", "-solver", write_case(tmp_path, **fields))


@pytest.mark.parametrize("net, place, message", [
    (NET.replace('"InnerProduct"', '"InnerProdct"'), "net.prototxt:14",
     "Unknown layer type: InnerProdct; did you mean 'InnerProduct'?"),
    (NET.replace('bottom: "data" top: "ip"', 'bottom: "dta" top: "ip"'), "net.prototxt:14",
     "Unknown bottom blob 'dta' (layer 'ip', bottom index 0)"),
    (NET.replace("shape { dim: 4 }", "shape { dim: 5 }"), "net.prototxt:17", "layer 'loss' (SoftmaxWithLoss)"),
    (NET.replace('bottom: "label" top: "loss"', 'top: "loss"'), "net.prototxt:17",
     "SoftmaxWithLoss Layer takes 2 bottom blob(s) as input; found 1"),
    (NET + 'layer { name: "again" type: "ReLU" bottom: "data" top: "ip" }\n', "net.prototxt:18",
     "produced by multiple sources"),
    (NET + "".join(SHARING.format(name, size) for name, size in (("a", 2), ("b", 3))), "net.prototxt:20",
     "Cannot share param 'w' owned by layer 'a' with layer 'b'; shape mismatch"),
], ids=["unknown layer", "bottom no one makes", "shapes that do not fit", "missing bottom", "top made twice",
        "named params of two shapes"])  # fmt: skip
def test_a_net_whose_layers_do_not_fit(capsys, tmp_path, net, place, message):
    told = fails(capsys, tmp_path, "train", "-solver", write_case(tmp_path, net))
    assert place in told
    assert message in told
    assert message in fails(capsys, tmp_path, "time", "-model", "net.prototxt")


def test_a_missing_database(capsys, tmp_path):
    told = fails(capsys, tmp_path, "train", "-solver", write_case(tmp_path, DATA_NET, **NO_TEST))
    assert "net.prototxt:2: layer 'images' (Data)" in told
    assert str(tmp_path / "images_lmdb") in told
    assert "minicaffe data" in told


@pytest.mark.parametrize("model, command", [
    ("siamese/digits_train_test.prototxt", "minicaffe data siamese digits"),
    ("siamese/mnist_siamese_train_test.prototxt", "minicaffe data siamese mnist"),
    ("lenet/lenet_train_test.prototxt", "minicaffe data mnist"),
])  # fmt: skip
def test_a_shipped_nets_missing_database_is_made_by_a_command_that_the_error_tells(capsys, tmp_path, model, command):
    assert fails(capsys, tmp_path, "time", "-model", model).endswith(f"(make it with: {command})\n")


@pytest.mark.parametrize("solver, command", [
    ("siamese/digits_solver.prototxt", "minicaffe data siamese digits"),
    ("siamese/mnist_siamese_solver.prototxt", "minicaffe data siamese mnist"),
    ("lenet/lenet_solver.prototxt", "minicaffe data mnist"),
])  # fmt: skip
def test_a_shipped_solver_without_its_folder(capsys, tmp_path, solver, command):
    assert fails(capsys, tmp_path, "train", "-solver", solver).endswith(f"(make it with: {command})\n")


@pytest.fixture
def database(tmp_path):
    write_images(tmp_path / "images_lmdb", np.zeros((400, 8, 8), np.uint8), np.arange(400) % 2)
    return tmp_path / "images_lmdb" / "data.mdb"


def test_a_truncated_database(capsys, tmp_path, database):
    solver = write_case(tmp_path, DATA_NET, **NO_TEST)
    with open(database, "r+b") as file:
        file.truncate(8192 + 100)
    told = fails(capsys, tmp_path, "train", "-solver", solver)
    assert "net.prototxt:2: layer 'images' (Data)" in told
    assert str(tmp_path / "images_lmdb") in told


def test_a_database_with_a_page_of_zeros(capsys, tmp_path, database):
    """LMDB itself would end the process; the page in the middle is read long after the first record."""
    solver = write_case(tmp_path, DATA_NET, **NO_TEST, max_iter=400, snapshot=0)
    with open(database, "r+b") as file:
        file.seek(database.stat().st_size // 2 // 4096 * 4096)
        file.write(bytes(4096))
    told = fails_at_work(capsys, tmp_path, "train", "-solver", solver, "-quiet")
    assert "net.prototxt:2: layer 'images' (Data)" in told
    assert "the database is damaged" in told


def test_an_empty_folder_for_a_database(capsys, tmp_path):
    (tmp_path / "images_lmdb").mkdir()
    assert "an empty folder, not a database" in fails(capsys, tmp_path, "time", "-model", _net(tmp_path, DATA_NET))


def test_a_record_that_is_no_datum(capsys, tmp_path):
    from minicaffe.data.db import open_db

    with open_db(tmp_path / "images_lmdb", "lmdb", "new") as database:
        database.put(b"00000007", b"\xff\xff\xff")
    told = fails(capsys, tmp_path, "time", "-model", _net(tmp_path, DATA_NET))
    assert "record '00000007'" in told


def _net(folder, text):
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


@pytest.fixture
def trained(capsys, tmp_path):
    """A solver that has been run, with its snapshots at iterations 4 and 6."""
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    return solver


@pytest.mark.parametrize("ending", ["solverstate", "caffemodel"])
def test_a_truncated_snapshot(capsys, tmp_path, trained, ending):
    path = tmp_path / f"tiny_iter_4.{ending}"
    path.write_bytes(path.read_bytes()[:-7])
    told = fails(capsys, tmp_path, "train", "-solver", trained, "-snapshot", "tiny_iter_4.solverstate")
    assert f"tiny_iter_4.{ending}" in told
    assert "truncated" in told


@pytest.mark.parametrize("snapshot, message", [
    ("absent.solverstate", "File not found: absent.solverstate"),
    ("tiny_iter_4.caffemodel", "a net with its weights (.caffemodel)"),
    ("solver.prototxt", "is a text file, probably a prototxt"),
])  # fmt: skip
def test_a_snapshot_that_is_none(capsys, tmp_path, trained, snapshot, message):
    assert message in fails(capsys, tmp_path, "train", "-solver", trained, "-snapshot", snapshot)


def test_a_snapshot_without_its_weights(capsys, tmp_path, trained):
    (tmp_path / "moved").mkdir()
    (tmp_path / "tiny_iter_4.solverstate").rename(tmp_path / "moved" / "tiny_iter_4.solverstate")
    (tmp_path / "tiny_iter_4.caffemodel").unlink()
    told = fails(capsys, tmp_path, "train", "-solver", trained, "-snapshot", "moved/tiny_iter_4.solverstate")
    assert "the weights that it goes with, tiny_iter_4.caffemodel, are not there" in told


def test_a_net_too_large_for_the_memory(capsys, tmp_path):
    model = _net(tmp_path, NET.replace("dim: 4 dim: 3", "dim: 400000000 dim: 3000000"))
    assert "error: not enough memory: " in fails(capsys, tmp_path, "time", "-model", model)


def test_a_snapshot_of_another_net(capsys, tmp_path, trained):
    solver = write_case(tmp_path, NET.replace("num_output: 2", "num_output: 3"))
    told = fails(capsys, tmp_path, "train", "-solver", solver, "-snapshot", "tiny_iter_4.solverstate")
    assert "tiny_iter_4.solverstate: history blob 0 has shape" in told


@pytest.mark.parametrize("change, message", [
    (("num_output: 2", "num_output: 3"), "Cannot copy param 0 weights from layer 'ip'; shape mismatch."),
    (('name: "ip"', 'name: "other"'), "belong to another net"),
])  # fmt: skip
def test_weights_of_another_net(capsys, tmp_path, trained, change, message):
    model = _net(tmp_path, NET.replace(*change))
    weights = ("-weights", "tiny_iter_4.caffemodel")
    assert message in fails(capsys, tmp_path, "test", "-model", model, *weights)
    assert message in fails(capsys, tmp_path, "train", "-solver", trained, *weights)


@pytest.mark.parametrize("weights, message", [
    ("absent.caffemodel", "File not found: absent.caffemodel"),
    ("tiny_iter_4.solverstate", "a solver state (.solverstate)"),
    ("net.prototxt", "is a text file, probably a prototxt"),
])  # fmt: skip
def test_weights_that_are_none(capsys, tmp_path, trained, weights, message):
    assert message in fails(capsys, tmp_path, "test", "-model", "net.prototxt", "-weights", weights)


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_a_disk_too_full_for_a_snapshot(capsys, tmp_path, trained, snapshot_format):
    """The earlier snapshot stays; HDF5 itself would end the process with a segmentation fault."""
    solver = write_case(tmp_path, snapshot=2, snapshot_format=snapshot_format)
    ending = "caffemodel.h5" if snapshot_format == "HDF5" else "caffemodel"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        told = fails_at_work(capsys, tmp_path, "train", "-solver", solver)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write tiny_iter_2.{ending}: File too large" in told


def test_an_error_of_the_system_is_told_without_pythons_words(capsys, tmp_path):
    (tmp_path / "lenet").write_text("in the way")
    told = fails(capsys, tmp_path, "models", "copy", "lenet", "lenet/copy")
    assert told == "error: lenet/copy: Not a directory\n"


def test_a_loss_that_is_not_finite(capsys, tmp_path):
    net = NET.replace('data_filler { type: "gaussian" std: 1 }', 'data_filler { type: "constant" value: 1e30 }')
    solver = write_case(tmp_path, net, base_lr="1e30", snapshot=0, test_iter=None, test_interval=None)
    told = fails_at_work(capsys, tmp_path, "train", "-solver", solver)
    assert "the training loss is" in told
    assert "Lower base_lr" in told
