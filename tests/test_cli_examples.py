"""Every command's help ends with examples, and each of them runs, in a folder that holds what they name."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shlex
import shutil
import threading
from pathlib import Path

import click
import numpy as np
import pytest
from cli_case import run, write_case
from PIL import Image
from test_cli_data import write_idx
from test_data_cifar10 import archive, files  # noqa: F401  (fixtures)

from minicaffe import models, proto, weight_files
from minicaffe.data.write import write_images
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.tools.cli import cli

BN_NET = """
name: "with_bn"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool" top: "prob" }
"""
OF_A_GPU = ("device_query", "gpu_check")
LOG = """\
I1122 11:00:00.000000  1 solver.cpp:289] Solving tiny
I1122 11:00:01.000000  1 solver.cpp:347] Iteration 0, Testing net (#0)
I1122 11:00:01.500000  1 solver.cpp:414]     Test net output #0: accuracy = 0.1
I1122 11:00:01.500000  1 solver.cpp:414]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I1122 11:00:02.000000  1 solver.cpp:239] Iteration 0 (1 iter/s, 1s/1 iters), loss = 2.2
I1122 11:00:02.000000  1 solver.cpp:258]     Train net output #0: loss = 2.2 (* 1 = 2.2 loss)
I1122 11:00:02.000000  1 sgd_solver.cpp:112] Iteration 0, lr = 0.01
"""


def all_examples(group: click.Group, path: tuple[str, ...] = ()):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield from ((" ".join((*path, name)), example) for example in command.examples)
        if isinstance(command, click.Group):
            yield from all_examples(command, (*path, name))


def all_commands(group: click.Group, path: tuple[str, ...] = ()):
    yield path, group
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


EXAMPLES = [("", example) for example in cli.examples] + list(all_examples(cli))


COMMANDS = list(all_commands(cli))


@pytest.mark.parametrize("path, command", COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_every_help_shows_examples(capsys, path, command):
    assert command.examples, f"{' '.join(path)} has no example"
    shown = run(capsys, *path, "--help").out
    for example in command.examples:
        assert f"  {example}\n" in shown
        assert example.split()[0] == "minicaffe"


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A working folder with every file that an example names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    write_idx(tmp_path / "downloads", monkeypatch)
    shutil.copytree("downloads", "cache/minicaffe")
    lenet = Net(models.find("lenet/lenet.prototxt"), proto.TEST)
    for name in ("lenet", "before", "old"):
        lenet.save(f"{name}.caffemodel")
    weight_files.write("lenet.safetensors", weight_files.read("lenet.caffemodel"))
    lenet.params["ip2"][1].data[...] += 1e-7
    lenet.save("after.caffemodel")
    _small_images(rng)
    _nets(tmp_path, rng)
    digits = rng.integers(0, 256, (40, 28, 28), np.uint8)
    for path in ("examples/mnist/mnist_test_lmdb", "examples/digits/digits_test_lmdb", "train_lmdb"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_images(path, digits, np.arange(40) % 10)
    for model, name in (("ssd", "ssd"), ("segmentation", "fcn")):
        Net(models.find(f"{model}/deploy.prototxt"), proto.TEST).save(f"{name}.caffemodel")
    siamese = Net(models.find("siamese/mnist_siamese.prototxt"), proto.TEST)
    siamese.save("siamese.caffemodel")
    for log in ("train", "first", "second"):
        Path(f"{log}.log").write_text(LOG)
    return tmp_path


def _small_images(rng):
    for name in (
        "images/a.png",
        "images/b.png",
        "photos/cat/a.png",
        "photos/cat/b.png",
        "photos/dog/c.png",
        "image.png",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), np.uint8)).save(name)
    Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save("digit.png")
    Path("images/list.txt").write_text("a.png 0\nb.png 1\n")
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    Path("images/a.xml").write_text(
        f"<annotation><size><width>80</width><height>70</height></size><object><name>cat</name>{box}</object></annotation>"
    )
    Path("images/boxes.txt").write_text("a.png a.xml\n")
    Path("labels.prototxt").write_text(
        'item { name: "none" label: 0 display_name: "background" } item { name: "cat" label: 1 display_name: "cat" }\n'
    )
    Image.fromarray(rng.integers(0, 256, (96, 96), np.uint8)).save("scene.png")
    Path("pairs.txt").write_text("images/a.png images/b.png 1\n")
    Path("windows.csv").write_text("filename,xmin,ymin,xmax,ymax\nimage.png,0,0,20,30\nimage.png,5,5,40,40\n")


def _nets(folder, rng):
    net = Net(parse(BN_NET, proto.NetParameter()), proto.TEST)
    for param in net.params["bn"]:
        param.data[...] = rng.uniform(0.5, 1.5, param.shape)
    for name in ("net_with_bn", "net"):
        Path(f"{name}.prototxt").write_text(BN_NET)
        net.save(f"{name}.caffemodel")
    Path("labels.txt").write_text("a\nb\nc\nd\n")
    Path("old_solver.prototxt").write_text("solver_type: ADAM\n")
    mean = proto.BlobProto(num=1, channels=3, height=1, width=1, data=[1, 2, 3])
    Path("mean.binaryproto").write_bytes(mean.SerializeToString())
    Path("case").mkdir()
    write_case(folder / "case", max_iter=2, test_interval=2, display=1, snapshot=0)


def prepare(command: str, example: str) -> list[str]:
    """The example's words, with what would take too long replaced by something small of the same kind."""
    words = shlex.split(example)[1:]
    if command.startswith(("convert_imageset", "convert_annoset", "data")) and command != "data mean":
        shutil.rmtree("train_lmdb")
        shutil.rmtree("examples")
    if command == "train":
        solver = Path("case/solver.prototxt").read_text().replace('"net.prototxt"', '"case/net.prototxt"')
        target = Path(words[words.index("--solver") + 1])
        target.parent.mkdir(exist_ok=True)  # found before the shipped one
        target.write_text(solver)
    if command == "extract_features":
        Path("net.prototxt").write_text(_features_net())
    if command in ("data scenes", "data masks"):
        words += ["--count", "20"]
    if command == "test":
        words[words.index("--iterations") + 1] = "2"
    return words


def _features_net() -> str:
    data = (
        'layer { name: "d" type: "Data" top: "data" data_param { source: "train_lmdb" batch_size: 4 backend: LMDB } }'
    )
    lenet = Path(models.find("lenet/lenet.prototxt")).read_text()
    return data + lenet[lenet.index("layer", lenet.index("layer") + 1) :]


@pytest.fixture
def server(tmp_path):
    """A web server that holds the weights of a model, whose readme is in models/bvlc_alexnet."""
    weights = b"weights of a net" * 1000
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "bvlc_alexnet.caffemodel").write_bytes(weights)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        folder = tmp_path / "models" / "bvlc_alexnet"
        folder.mkdir(parents=True)
        (folder / "readme.md").write_text(
            "---\nname: AlexNet\ncaffemodel: bvlc_alexnet.caffemodel\n"
            f"caffemodel_url: http://127.0.0.1:{web.server_port}/bvlc_alexnet.caffemodel\n"
            f"sha1: {hashlib.sha1(weights).hexdigest()}\n---\n\nText.\n"
        )
        yield web
        web.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "command, example", EXAMPLES, ids=[f"{i}-{command}" for i, (command, _) in enumerate(EXAMPLES)]
)
def test_every_example_runs(capsys, request, at_home, command, example):
    if command == "download_model":
        request.getfixturevalue("server")
    if command in OF_A_GPU:
        outcome = run(capsys, *shlex.split(example)[1:], *(["--minutes", "0.01"] if command == "gpu_check" else []))
        assert outcome.status == 0 or "GPU" in outcome.err + outcome.out or "cupy" in outcome.err
        return
    if command == "data cifar10":
        packed = request.getfixturevalue("archive")
        shutil.copytree(packed, "cache/minicaffe", dirs_exist_ok=True)
    if command == "draw":
        pytest.importorskip("pygraphviz")
    if command in ("embed", "plot_log", "train"):
        pytest.importorskip("matplotlib")
    if command == "convert_cifar_data":
        shutil.copytree(request.getfixturevalue("archive"), "downloads", dirs_exist_ok=True)
    if example.endswith(".pt"):
        pytest.importorskip("torch")
    if "leveldb" in example or "siamese mnist" in example:
        pytest.importorskip("plyvel")
    outcome = run(capsys, *prepare(command, example))
    differs = command == "diff"
    assert outcome.status == (1 if differs and "tolerance" not in example else 0), outcome.err[-2000:]
    assert not outcome.errors
