"""The models that come with minicaffe: they are found, they are whole, they hold Caffe's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_case import contents, run

from minicaffe import graph, models, proto
from minicaffe.net import Net
from minicaffe.proto.files import read_net, read_solver

ALL = [path for name in models.names() for path in Path(models.folder(name)).rglob("*.prototxt")]
SOLVERS = [path for path in ALL if path.name.endswith("_solver.prototxt")]
NETS = [path for path in ALL if path not in SOLVERS]


def layers(path, phase):
    return graph.filter_net(graph.with_state(read_net(models.find(path))[0], phase)).layer


def test_names():
    assert models.names() == ["lenet", "siamese"]


def test_find_prefers_a_file_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = models.find("lenet/lenet.prototxt")
    assert Path(shipped).is_absolute()
    (tmp_path / "lenet").mkdir()
    (tmp_path / "lenet" / "lenet.prototxt").write_text("")
    assert models.find("lenet/lenet.prototxt") == "lenet/lenet.prototxt"
    assert models.find("lenet/absent.prototxt") == "lenet/absent.prototxt"
    assert models.find("/lenet/absent.prototxt") == "/lenet/absent.prototxt"


@pytest.mark.parametrize("path", SOLVERS, ids=lambda path: path.stem)
def test_a_solver_names_a_net_beside_it(path):
    assert (path.parent / read_solver(path).net).is_file()


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_every_net_has_a_name_and_layers(path):
    net, _ = read_net(path)
    assert net.name
    assert net.layer
    assert not net.layers


@pytest.mark.parametrize("name", ["mnist_siamese_train_test", "mnist_siamese"])
def test_the_legacy_form_is_the_same_net(name):
    legacy, _ = read_net(models.find(f"siamese/legacy/{name}_v1.prototxt"))
    today, _ = read_net(models.find(f"siamese/{name}.prototxt"))
    assert "layers {" in Path(models.find(f"siamese/legacy/{name}_v1.prototxt")).read_text()
    if name == "mnist_siamese":  # upgraded input fields become a layer of this name
        assert legacy.layer[0].name == "input"
        legacy.layer[0].name = "data"
    assert legacy == today


def test_the_siamese_tower_has_the_tutorials_shapes():
    definition, _ = read_net(models.find("siamese/mnist_siamese.prototxt"))
    definition.layer[0].input_param.shape[0].dim[0] = 2
    net = Net(definition, 1)
    assert net.outputs == ["feat"]
    shapes = {name: blob.shape for name, blob in net.blobs.items()}
    assert shapes == {
        "data": (2, 1, 28, 28), "conv1": (2, 20, 24, 24), "pool1": (2, 20, 12, 12), "conv2": (2, 50, 8, 8),
        "pool2": (2, 50, 4, 4), "ip1": (2, 500), "ip2": (2, 10), "feat": (2, 2),
    }  # fmt: skip
    assert sum(blob.count for blobs in net.params.values() for blob in blobs) == 431_102


@pytest.mark.parametrize("path", ["siamese/mnist_siamese_train_test.prototxt", "siamese/digits_train_test.prototxt"])
def test_the_towers_share_every_param(path):
    for phase, batch in ((proto.TRAIN, 64), (proto.TEST, 100)):
        found = layers(path, phase)
        by_name = {layer.name: layer for layer in found}
        first = [layer for layer in found if f"{layer.name}_p" in by_name]
        assert [layer.name for layer in first] == ["conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "feat"]
        for layer in first:
            twin = proto.LayerParameter()
            twin.CopyFrom(layer)
            twin.name += "_p"
            twin.bottom[0] += "_p"
            twin.top[0] += "_p"
            assert by_name[twin.name] == twin
        assert len({spec.name for layer in first for spec in layer.param}) == 10
        assert by_name["pair_data"].data_param.batch_size == batch
        assert by_name["pair_data"].transform_param.scale == 0.00390625
        assert by_name["loss"].contrastive_loss_param.margin == 1


def test_lenet_gives_ten_probabilities():
    net = Net(models.find("lenet/lenet.prototxt"), 1)
    assert {name: blob.shape for name, blob in net.blobs.items()}["prob"] == (64, 10)
    assert [blob.shape for blobs in net.params.values() for blob in blobs] == [
        (20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,),
    ]  # fmt: skip
    assert [layer.type for layer in layers("lenet/lenet_train_test.prototxt", proto.TEST)][-2:] == [
        "Accuracy",
        "SoftmaxWithLoss",
    ]


@pytest.mark.parametrize("path, expected", [
    ("siamese/mnist_siamese_solver.prototxt", {
        "test_interval": 500, "base_lr": 0.01, "momentum": 0.9, "weight_decay": 0, "lr_policy": "inv",
        "gamma": 1e-4, "power": 0.75, "display": 100, "max_iter": 50_000, "snapshot": 5000, "solver_mode": 1,
        "snapshot_prefix": "examples/siamese/mnist_siamese"}),
    ("lenet/lenet_solver.prototxt", {
        "test_interval": 500, "base_lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "lr_policy": "inv",
        "gamma": 1e-4, "power": 0.75, "display": 100, "max_iter": 10_000, "snapshot": 5000, "solver_mode": 1,
        "snapshot_prefix": "examples/mnist/lenet"}),
])  # fmt: skip
def test_the_solvers_have_caffes_numbers(path, expected):
    solver = read_solver(models.find(path))
    assert {name: getattr(solver, name) for name in expected} == pytest.approx(expected)
    assert list(solver.test_iter) == [100]


def test_list_and_copy(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = run(capsys, "models", "list")
    assert listed.status == 0
    assert "siamese/digits_solver.prototxt" in listed.out
    assert run(capsys, "models", "copy", "siamese", "mine").status == 0
    assert contents(tmp_path / "mine") == contents(Path(models.folder("siamese")))
    (tmp_path / "mine" / "README.md").write_text("changed")
    before = contents(tmp_path)
    refused = run(capsys, "models", "copy", "siamese", "mine")
    assert refused.status == 1
    assert "exists already; nothing was copied" in refused.errors[0]
    assert contents(tmp_path) == before
    assert "there are: lenet, siamese" in run(capsys, "models", "copy", "resnet").errors[0]
