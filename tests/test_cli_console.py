"""Where results and messages go, and the flags of glog and gflags."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_case import run, write_case

from minicaffe.data.idx import read_labels

MINICAFFE = [sys.executable, "-c", "import sys; from minicaffe.tools.cli import main; sys.exit(main())"]
TEST = ("test", "-model", "net.prototxt", "-weights", "tiny_iter_6.caffemodel", "-iterations", 2)
TIME = ("time", "-model", "net.prototxt", "-iterations", 1)


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(capsys, "train", "-solver", write_case(tmp_path), "-quiet")


@pytest.mark.parametrize("args, first", [(TEST, "Loss: "), (TIME, "Average time per layer:")])
def test_results_go_to_stdout_whatever_is_logged(capsys, args, first):
    loud, quiet = run(capsys, *args), run(capsys, *args, "--quiet")
    assert loud.out.startswith(first) and quiet.out.startswith(first)
    assert "Running for" in loud.err or "Benchmark" in loud.err
    assert "] " not in loud.out and not quiet.err
    assert all(line in loud.messages for line in loud.out.splitlines())  # the log is as whole as Caffe's


def test_results_are_told_once_where_both_streams_are_one():
    process = subprocess.run(
        [*MINICAFFE, *map(str, TEST)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    lines = process.stdout.splitlines()
    assert sum(" accuracy = " in line and "Batch" not in line for line in lines) == 1
    assert not [line for line in lines if line.startswith("accuracy")]  # glog's lines, as from Caffe
    quiet = subprocess.run(
        [*MINICAFFE, *map(str, TEST), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert [line.split(" ")[0] for line in quiet.stdout.splitlines()] == ["Loss:", "accuracy", "loss"]


def test_scores_as_json(capsys):
    outcome = run(capsys, *TEST, "--json", "--quiet")
    found = json.loads(outcome.out)
    assert found["net"] == "tiny" and found["iterations"] == 2
    assert set(found["outputs"]) == {"accuracy", "loss"} and found["loss_weights"] == {"loss": 1}
    assert found["loss"] == pytest.approx(found["outputs"]["loss"])
    plain = run(capsys, *TEST, "--quiet").out.splitlines()
    assert len(plain) == 3


def test_times_as_json(capsys):
    found = json.loads(run(capsys, *TIME, "--json").out)
    assert [layer["name"] for layer in found["layers"]] == ["data", "ip", "loss"]
    for way in ("forward_ms", "backward_ms"):
        assert found[way] == pytest.approx(sum(layer[way] for layer in found["layers"]))
    assert found["total_ms"] == pytest.approx(found["forward_ms"] + found["backward_ms"])


def test_numbers_that_are_not_finite_are_null_in_json(capsys):
    net = Path("net.prototxt").read_text().replace('"gaussian" std: 1', '"constant" value: inf')
    Path("net.prototxt").write_text(net)
    found = json.loads(run(capsys, *TEST, "--json", "--quiet").out)
    assert found["loss"] is None


@pytest.mark.parametrize("flags, heard", [
    ([], {"I", "W"}), (["-minloglevel=1"], {"W"}), (["-minloglevel", "2"], set()), (["-minloglevel=3"], set()),
    (["--quiet"], {"W"}), (["-minloglevel=0", "-logtostderr", "-alsologtostderr=1", "-stderrthreshold=2"], {"I", "W"}),
    (["-colorlogtostderr", "-logbuflevel=-1", "-v=0"], {"I", "W"}),
])  # fmt: skip
def test_glogs_levels(capsys, flags, heard):
    legacy = Path("net.prototxt")
    legacy.write_text('input: "data" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1\n')
    outcome = run(capsys, "upgrade_net_proto_text", "net.prototxt", "new.prototxt", *flags)
    assert outcome.status == 0
    assert {line[0] for line in outcome.err.splitlines() if "] " in line} == heard


def test_glogs_environment(capsys, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "2")
    outcome = run(capsys, *TEST)
    assert not outcome.err and outcome.out.startswith("Loss: ")


def test_a_folder_of_logs(capsys):
    Path("logs").mkdir()
    outcome = run(capsys, *TEST, "-log_dir=logs")
    files = sorted(path.name for path in Path("logs").iterdir())
    assert len(files) == 2 and files[0] == "minicaffe.INFO" and ".log.INFO." in files[1]
    assert Path("logs/minicaffe.INFO").read_text() == outcome.err
    assert "no log can be written there" in run(capsys, *TEST, "-log_dir=none").errors[0]


def test_flags_in_a_file(capsys):
    Path("flags").write_text("# to test\n\n-model=net.prototxt\n--weights=tiny_iter_6.caffemodel\n-flagfile=more\n")
    Path("more").write_text("-iterations=1\n-quiet\n")
    for args in (("test", "-flagfile=flags"), ("test", "--flagfile", "flags"), ("-flagfile", "flags", "test")):
        outcome = run(capsys, *args)
        assert outcome.status == 0 and outcome.out.startswith("Loss: ") and not outcome.err
    assert "Running for 3 iterations." in run(capsys, "test", "-flagfile=flags", "-quiet=false", "-iterations=3").err


@pytest.mark.parametrize("content, message", [
    (None, "flags cannot be read: No such file"), ("-flagfile=flags\n", "flags includes itself"),
    ("iterations 3\n", "flags:1: expected a flag such as -gpu=0; found 'iterations 3'"), ("-nosuch=1\n", "No such option"),
])  # fmt: skip
def test_files_of_flags_that_are_wrong(capsys, content, message):
    if content is not None:
        Path("flags").write_text(content)
    outcome = run(capsys, "test", "-flagfile=flags")
    assert outcome.status == 2 and message in outcome.errors[0]


def test_help_of_a_command(capsys):
    assert run(capsys, "help", "train").out == run(capsys, "train", "--help").out
    assert run(capsys, "help", "data", "siamese").out.startswith("Usage: minicaffe data siamese")
    assert "Run a net:" in run(capsys, "help").out
    assert "unknown command 'trian'; did you mean 'train'?" in run(capsys, "help", "trian").errors[0]
    assert "has no commands of its own; found 'more'" in run(capsys, "help", "train", "more").errors[0]


@pytest.mark.parametrize("other, name", [
    ("draw_net", "draw"), ("resize_and_crop_images", "resize_and_crop"), ("plot_training_log", "plot_log"),
    ("download_model_binary", "download_model"),
])  # fmt: skip
def test_names_of_caffes_scripts(capsys, other, name):
    assert run(capsys, other, "--help").out.replace(other, name) == run(capsys, name, "--help").out


def test_the_module_is_the_command_line():
    found = subprocess.run(
        [sys.executable, "-m", "minicaffe", "help", "time"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("Usage: minicaffe time")


def test_summaries_take_the_net_as_an_argument(capsys):
    by_name, by_flag = (run(capsys, "summarize", *args) for args in (["net.prototxt"], ["-model", "net.prototxt"]))
    assert by_name.status == 0 and by_name.out == by_flag.out and "InnerProduct" in by_name.out
    narrow = run(capsys, "summarize", "net.prototxt", "-w", 8).out
    assert "InnerProduct" not in narrow and narrow != by_name.out
    for args in ([], ["net.prototxt", "-model", "net.prototxt"]):
        assert run(capsys, "summarize", *args).status == 2


def test_caffes_converter_of_mnist(capsys, tmp_path, monkeypatch):
    from test_cli_data import records, write_idx

    data = write_idx(tmp_path / "mnist", monkeypatch)
    names = [f"mnist/t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    outcome = run(capsys, "convert_mnist_data", *names, "db", "-backend=lmdb")
    assert {"A total of 20 items.", "Rows: 28 Cols: 28", "Processed 20 files."} <= set(outcome.messages)
    images, labels, keys = records("db")
    assert (images[:, 0] == data["test"][0]).all() and (labels == read_labels(names[1])).all()
    assert keys[3] == b"00000003"


def test_caffes_converter_of_pairs(capsys, tmp_path, monkeypatch):
    pytest.importorskip("plyvel")
    from test_cli_data import records, write_idx

    data = write_idx(tmp_path / "mnist", monkeypatch)
    names = [f"mnist/train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    run(capsys, "convert_mnist_siamese_data", *names, "db", "-seed=4")
    images, labels, _ = records("db")
    digits, classes = data["train"]
    assert images.shape == (30, 2, 28, 28)
    for pair, same in zip(images, labels, strict=True):
        first, second = (int((digits == image).all(axis=(1, 2)).argmax()) for image in pair)
        assert (classes[first] == classes[second]) == same
