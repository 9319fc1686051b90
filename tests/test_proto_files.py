"""Nets, solvers and weights read from files, and what a user is told of a wrong one."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.errors import DataError, PrototxtError, SnapshotError, WeightsError
from minicaffe.proto import files

UPGRADE = Path(__file__).parent / "golden" / "upgrade"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the working directory, which is empty at first."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write_file


MODEL = proto.NetParameter(
    name="m",
    layer=[
        proto.LayerParameter(name="ip", type="InnerProduct", blobs=[files.array_to_blob(np.ones((2, 3), np.float32))])
    ],
)
STATE = proto.SolverState(
    iter=3, learned_net="m_iter_3.caffemodel", history=[files.array_to_blob(np.ones(3))], current_step=1
)
MEAN = proto.BlobProto(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])


def test_net_is_upgraded_and_its_layers_are_located(write, caplog):
    caplog.set_level(logging.INFO)
    name = write("old.prototxt", 'name: "n"\nlayers { name: "r" type: RELU\n bottom: "x" top: "x" }\n')
    net, locations = files.read_net(name)
    assert [(layer.name, layer.type) for layer in net.layer] == [("r", "ReLU")]
    assert locations.of("r") == "old.prototxt:2"
    assert caplog.messages == [
        "Attempting to upgrade input file specified using deprecated V1LayerParameter: old.prototxt",
        "Successfully upgraded file specified using deprecated V1LayerParameter",
    ]


def test_net_that_cannot_be_upgraded_names_its_file(write):
    with pytest.raises(PrototxtError, match=r"^x\.prototxt: Unknown layer name: zzz"):
        files.read_net(write("x.prototxt", 'layers { layer { name: "a" type: "zzz" } }'))


def test_solver_type_and_inline_nets_are_upgraded(write):
    solver = files.read_solver(
        write(
            "s.prototxt",
            """
            solver_type: ADAM
            net_param { layers { name: "r" type: RELU } }
            test_net_param { layer { name: "a" type: "TanH" } }
            test_net_param { input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 }
            snapshot_prefix: "p"
            """,
        )
    )
    assert solver.type == "Adam"
    assert not solver.HasField("solver_type")
    assert solver.net_param.layer[0].type == "ReLU"
    assert not solver.net_param.layers
    assert [net.layer[0].type for net in solver.test_net_param] == ["TanH", "Input"]


def test_snapshot_prefix_defaults_to_the_solver_file(write, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "snapshots").mkdir()
    assert files.read_solver(write("my_solver.prototxt", "base_lr: 1")).snapshot_prefix == "my_solver"
    assert files.read_solver(write("b.prototxt", 'snapshot_prefix: "x/y"')).snapshot_prefix == "x/y"
    assert files.read_solver(write("c.prototxt", 'snapshot_prefix: "snapshots/"')).snapshot_prefix == "snapshots/c"
    assert caplog.messages == [
        "snapshot_prefix was not specified and is set to my_solver",
        "snapshot_prefix was a directory and is replaced to snapshots/c",
    ]


def test_solver_settings_of_our_own_are_read(write):
    solver = files.read_solver(
        write("s.prototxt", "warmup_iter: 5 warmup_start_lr: 0.25 plateau_winsize: 10 plateau_winsize: 20")
    )
    assert (solver.warmup_iter, solver.warmup_start_lr, list(solver.plateau_winsize)) == (5, 0.25, [10, 20])


@pytest.mark.parametrize("message", [MODEL, STATE, MEAN], ids=["model", "state", "mean"])
def test_binary_message_reads_back(write, message):
    files.write_binary("x.bin", message)
    assert files.read_binary("x.bin", type(message)) == message


def test_model_of_a_fork_keeps_its_unknown_fields(write):
    forked = MODEL.SerializeToString() + b"\x60\x01"  # field 12 of NVCaffe's NetParameter
    net = files.read_net_binary(write("x.caffemodel", forked))
    assert net.layer[0].name == "ip"
    assert net.SerializeToString() == forked


def test_truncated_model_is_told(write):
    whole = MODEL.SerializeToString()
    for length in range(4, len(whole)):  # the first three bytes alone are a net without layers
        with pytest.raises(WeightsError, match=rf"x \({length} bytes\) is truncated, corrupt or of another kind"):
            files.read_binary(write("x", whole[:length]), proto.NetParameter)


def zip_archive(name: str) -> bytes:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("a", "b")
    return Path(name).read_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "x is an empty file"),
        (b'name: "LeNet"\nlayer {\n}\n', "x is a text file, probably a prototxt"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "x is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "x is a git-lfs pointer, .*run 'git lfs pull'"),
        (b"\n <!DOCTYPE html>\n<html>", "x is a web page: the download failed"),
        (b"\x1f\x8b\x08" + bytes(20), "x is a gzip archive"),
        (STATE.SerializeToString(), "x is a solver state"),
        (MEAN.SerializeToString(), "x is a single blob"),
        (bytes(range(256)), "truncated, corrupt or of another kind"),
    ],
    ids=["empty", "text", "hdf5", "lfs", "html", "gzip", "state", "mean", "noise"],
)
def test_file_that_is_no_model_is_told_apart(write, content, expected):
    with pytest.raises(WeightsError, match=expected + r".*; a weights file \(a binary NetParameter\) is expected"):
        files.read_binary(write("x", content), proto.NetParameter)


def test_zip_archive_is_told(write):
    with pytest.raises(WeightsError, match="x is a zip archive"):
        files.read_binary(write("x", zip_archive("y")), proto.NetParameter)


def test_model_given_as_solver_state_is_told_with_the_callers_error(write):
    with pytest.raises(SnapshotError, match=r"x is a net with its weights .*; a solver state file .* is expected"):
        files.read_binary(write("x", MODEL.SerializeToString()), proto.SolverState, "solver state", SnapshotError)


def test_missing_file_and_directory_are_told(tmp_path):
    with pytest.raises(
        DataError, match=r"File not found: nope\.bin \(mean; tried /.*/nope\.bin; the working directory is /"
    ):
        files.read_binary("nope.bin", proto.BlobProto, "mean", DataError)
    with pytest.raises(WeightsError, match="is a directory; a weights file is expected"):
        files.read_binary(tmp_path, proto.NetParameter)


def test_old_binary_model_is_upgraded():
    assert [layer.type for layer in files.read_net_binary(UPGRADE / "v1_model.in.caffemodel").layer][:2] == [
        "Convolution",
        "ReLU",
    ]


def test_unwritable_place_is_told(write):
    with pytest.raises(SnapshotError, match="the folder .* does not exist"):
        files.write_binary("no/x.caffemodel", MODEL)
