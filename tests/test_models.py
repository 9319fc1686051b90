"""The models that come with minicaffe: they are found, they are whole, they hold Caffe's numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cli_case import contents, run
from kills import killed_at_each_step

from minicaffe import graph, models, proto
from minicaffe.errors import MinicaffeError
from minicaffe.net import Net
from minicaffe.proto.files import read_net, read_solver
from minicaffe.tools.cli import main

ALL = [path for name in models.names() for path in Path(models.folder(name)).rglob("*.prototxt")]
SOLVERS = [path for path in ALL if "solver" in path.stem]
NETS = [path for path in ALL if path not in SOLVERS and path.stem != "labels"]


def layers(path, phase):
    return graph.filter_net(graph.with_state(read_net(models.find(path))[0], phase)).layer


def test_names():
    assert models.names() == [
        "alexnet", "caffenet", "cifar10", "flickr_style", "googlenet", "lenet", "mnist_autoencoder", "mobilenet",
        "rcnn_ilsvrc13", "resnet50", "segmentation", "siamese", "squeezenet", "ssd", "vgg16",
    ]  # fmt: skip


def test_find_prefers_a_file_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = models.find("lenet/lenet.prototxt")
    assert Path(shipped).is_absolute()
    for name in ("lenet/absent.prototxt", "lenet"):
        with pytest.raises(
            MinicaffeError, match=f"no file {name}; the model 'lenet' has: .*lenet/lenet_solver.prototxt"
        ):
            models.find(name)
    with pytest.raises(MinicaffeError, match="name of a file was expected; found an empty one"):
        models.find("")
    (tmp_path / "lenet").mkdir()
    (tmp_path / "lenet" / "lenet.prototxt").write_text("")
    assert models.find("lenet/lenet.prototxt") == "lenet/lenet.prototxt"
    assert models.find("lenet/absent.prototxt") == "lenet/absent.prototxt"
    assert models.find("/lenet/absent.prototxt") == "/lenet/absent.prototxt"


@pytest.mark.parametrize("path", SOLVERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_solver_names_a_net_beside_it(path):
    assert (path.parent / read_solver(path).net).is_file()


@pytest.mark.parametrize("path", NETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
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


COMMON = {"momentum": 0.9, "weight_decay": 5e-4, "solver_mode": 1}
CIFAR = {"momentum": 0.9, "lr_policy": "fixed", "weight_decay": 0.004, "solver_mode": 1}
FULL = {
    **CIFAR,
    "test_interval": 1000,
    "display": 200,
    "snapshot_format": 0,
    "snapshot_prefix": "examples/cifar10/cifar10_full",
}
QUICK = {**CIFAR, "test_interval": 500, "display": 100, "snapshot_prefix": "examples/cifar10/cifar10_quick"}
SIGMOID = {
    "test_iter": [10], "test_interval": 1000, "base_lr": 0.001, "lr_policy": "step", "gamma": 1, "stepsize": 5000,
    "momentum": 0.9, "weight_decay": 0, "display": 100, "max_iter": 60_000, "snapshot": 10_000, "snapshot_format": 1,
}  # fmt: skip
ALEX = {
    **COMMON, "test_iter": [1000], "test_interval": 1000, "base_lr": 0.01, "lr_policy": "step", "gamma": 0.1,
    "stepsize": 100_000, "display": 20, "max_iter": 450_000, "snapshot": 10_000,
}  # fmt: skip
GOOGLE = {
    "test_iter": [1000], "test_interval": 4000, "test_initialization": False, "base_lr": 0.01, "momentum": 0.9,
    "weight_decay": 2e-4, "display": 40, "average_loss": 40, "snapshot": 40_000, "solver_mode": 1,
}  # fmt: skip
AUTOENCODER = {
    "test_iter": [500, 100], "test_interval": 500, "test_compute_loss": True, "display": 100, "max_iter": 65_000,
    "weight_decay": 5e-4, "snapshot": 10_000, "solver_mode": 1,
}  # fmt: skip


@pytest.mark.parametrize("path, expected", [
    ("cifar10/cifar10_quick_solver.prototxt", {**QUICK, "base_lr": 1e-3, "max_iter": 4000, "snapshot": 4000, "snapshot_format": 1}),
    ("cifar10/cifar10_quick_solver_lr1.prototxt", {**QUICK, "base_lr": 1e-4, "max_iter": 5000, "snapshot": 5000, "snapshot_format": 0}),
    ("cifar10/cifar10_full_solver.prototxt", {**FULL, "base_lr": 1e-3, "max_iter": 60_000, "snapshot": 10_000}),
    ("cifar10/cifar10_full_solver_lr1.prototxt", {**FULL, "base_lr": 1e-4, "max_iter": 65_000, "snapshot": 5000}),
    ("cifar10/cifar10_full_solver_lr2.prototxt", {**FULL, "base_lr": 1e-5, "max_iter": 70_000, "snapshot": 5000}),
    ("cifar10/cifar10_full_sigmoid_solver.prototxt", SIGMOID),
    ("cifar10/cifar10_full_sigmoid_solver_bn.prototxt", SIGMOID),
    ("alexnet/solver.prototxt", {**ALEX, "snapshot_prefix": "models/bvlc_alexnet/caffe_alexnet_train"}),
    ("caffenet/solver.prototxt", {**ALEX, "snapshot_prefix": "models/bvlc_reference_caffenet/caffenet_train"}),
    ("googlenet/solver.prototxt", {
        **GOOGLE, "lr_policy": "step", "stepsize": 320_000, "gamma": 0.96, "max_iter": 10_000_000,
        "snapshot_prefix": "models/bvlc_googlenet/bvlc_googlenet"}),
    ("googlenet/quick_solver.prototxt", {
        **GOOGLE, "lr_policy": "poly", "power": 0.5, "max_iter": 2_400_000,
        "snapshot_prefix": "models/bvlc_googlenet/bvlc_googlenet_quick"}),
    ("flickr_style/solver.prototxt", {
        **ALEX, "test_iter": [100], "base_lr": 0.001, "stepsize": 20_000, "max_iter": 100_000,
        "snapshot_prefix": "models/finetune_flickr_style/finetune_flickr_style"}),
    ("mnist_autoencoder/mnist_autoencoder_solver.prototxt", {
        **AUTOENCODER, "type": "SGD", "base_lr": 0.01, "lr_policy": "step", "gamma": 0.1, "stepsize": 10_000, "momentum": 0.9}),
    ("mnist_autoencoder/mnist_autoencoder_solver_nesterov.prototxt", {
        **AUTOENCODER, "type": "Nesterov", "base_lr": 0.01, "lr_policy": "step", "gamma": 0.1, "stepsize": 10_000, "momentum": 0.95}),
    ("mnist_autoencoder/mnist_autoencoder_solver_adagrad.prototxt", {
        **AUTOENCODER, "type": "AdaGrad", "base_lr": 0.01, "lr_policy": "fixed", "momentum": 0}),
    ("mnist_autoencoder/mnist_autoencoder_solver_adadelta.prototxt", {
        **AUTOENCODER, "type": "AdaDelta", "base_lr": 1, "lr_policy": "fixed", "momentum": 0.95, "delta": 1e-8}),
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
    expected = {"test_iter": [100], **expected}
    for name, value in expected.items():
        found = getattr(solver, name)
        assert (list(found) if name == "test_iter" else found) == pytest.approx(value), name


def test_list_and_copy(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = run(capsys, "models", "list")
    assert listed.status == 0
    for file in (
        "siamese/digits_solver.prototxt",
        "cifar10/cifar10_quick_solver_lr1.prototxt",
        "resnet50/deploy.prototxt",
    ):
        assert file in listed.out
    assert run(capsys, "models", "copy", "siamese", "mine").status == 0
    assert contents(tmp_path / "mine") == contents(Path(models.folder("siamese")))
    (tmp_path / "mine" / "README.md").write_text("changed")
    before = contents(tmp_path)
    refused = run(capsys, "models", "copy", "siamese", "mine")
    assert refused.status == 1
    assert "exists already; nothing was copied" in refused.errors[0]
    assert contents(tmp_path) == before
    assert "there are: alexnet, caffenet" in run(capsys, "models", "copy", "resnet").errors[0]


def test_a_copy_that_was_killed_left_nothing_and_can_be_made(capsys, tmp_path, in_folder):
    in_folder(tmp_path)
    for _ in killed_at_each_step(lambda: main(["models", "copy", "lenet"])):
        pass
    assert contents(tmp_path / "lenet") == contents(Path(models.folder("lenet")))
    assert os.listdir(tmp_path) == ["lenet"]
    expected = contents(tmp_path)
    for _ in killed_at_each_step(lambda: main(["models", "copy", "lenet"]), lambda: shutil.rmtree(tmp_path / "lenet")):
        if (tmp_path / "lenet").exists():
            assert contents(tmp_path / "lenet") == contents(Path(models.folder("lenet")))
        assert run(capsys, "models", "copy", "lenet").status == 0
        assert contents(tmp_path) == expected


def test_a_copy_into_a_folder_of_ones_own_that_was_killed_is_completed(capsys, tmp_path, in_folder):
    in_folder(tmp_path)
    for step in killed_at_each_step(lambda: main(["models", "copy", "lenet", "mine"]), lambda: own_folder(tmp_path)):
        if step % 5 == 0:
            assert run(capsys, "models", "copy", "lenet", "mine").status == 0
            copied = contents(tmp_path / "mine")
            del copied["notes"]
            assert copied == contents(Path(models.folder("lenet")))


def own_folder(tmp_path):
    shutil.rmtree(tmp_path / "mine", ignore_errors=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")


def test_solvers_of_the_imagenet_models_are_ready_to_train():
    for name in ("squeezenet", "resnet50", "mobilenet", "vgg16"):
        solver = read_solver(models.find(f"{name}/solver.prototxt"))
        train = layers(f"{name}/train_val.prototxt", proto.TRAIN)[0]
        test = layers(f"{name}/train_val.prototxt", proto.TEST)[0]
        assert solver.iter_size * train.data_param.batch_size in (256, 512)
        assert solver.test_iter[0] * test.data_param.batch_size == 50_000
        assert train.transform_param.mirror and not test.transform_param.mirror


def test_nets_are_those_of_caffe_beyond_their_shapes():
    norm = {layer.name: layer.lrn_param for layer in layers("cifar10/cifar10_full_train_test.prototxt", proto.TRAIN)}[
        "norm2"
    ]
    assert (norm.local_size, norm.alpha, norm.beta, norm.norm_region) == (3, pytest.approx(5e-5), 0.75, 1)
    specs = {
        layer.name: [(p.lr_mult, p.decay_mult) for p in layer.param]
        for layer in layers("cifar10/cifar10_full_train_test.prototxt", proto.TRAIN)
    }
    assert specs["ip1"] == [(1, 250), (2, 0)] and specs["conv3"] == []
    specs = {
        layer.name: [(p.lr_mult, p.decay_mult) for p in layer.param]
        for layer in layers("flickr_style/train_val.prototxt", proto.TRAIN)
    }
    assert specs["fc8_flickr"] == [(10, 1), (20, 0)]
    biases = {
        layer.name: layer.convolution_param.bias_filler.value
        for layer in layers("alexnet/train_val.prototxt", proto.TRAIN)
    }
    assert biases["conv4"] == pytest.approx(0.1) and biases["conv3"] == 0
    weights = [
        layer.loss_weight[0]
        for layer in layers("googlenet/train_val.prototxt", proto.TRAIN)
        if layer.type == "SoftmaxWithLoss"
    ]
    assert weights == pytest.approx([0.3, 0.3, 1])
