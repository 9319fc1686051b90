"""Weights in files of every format, and from one to another."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cli_case import run

from minicaffe import models, proto, weight_files
from minicaffe.data import safetensors
from minicaffe.errors import WeightsError
from minicaffe.net import Net
from minicaffe.proto.files import read_net_binary
from minicaffe.weight_files import Stored

GOLDEN = Path(__file__).parent / "golden"
ENDINGS = [".caffemodel", ".caffemodel.h5", ".npz", ".safetensors"]
LENET = models.find("lenet/lenet.prototxt")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def params_of(net: Net) -> dict[str, np.ndarray]:
    return {f"{name}/{i}": blob.data.copy() for name, blobs in net.params.items() for i, blob in enumerate(blobs)}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype
        np.testing.assert_array_equal(array, b[name])


@pytest.mark.parametrize("target", ENDINGS)
@pytest.mark.parametrize("source", ENDINGS)
def test_weights_are_the_same_in_every_format(capsys, source, target):
    net = Net(LENET, proto.TEST)
    net.save("lenet.caffemodel")
    assert run(capsys, "convert", "lenet.caffemodel", f"a{source}").status == 0
    outcome = run(capsys, "convert", f"a{source}", f"b{target}", "--quiet")
    assert (outcome.status, outcome.out) == (0, f"b{target}: 431080 params of 4 layers\n")
    assert_same(weight_files.read(f"b{target}").named(), params_of(net))
    loaded = Net(LENET, proto.TEST, weights=f"b{target}")
    assert_same(params_of(loaded), params_of(net))


def test_a_caffemodel_of_a_net_has_all_its_layers(capsys):
    Net(LENET, proto.TEST).save("lenet.caffemodel")
    run(capsys, "convert", "lenet.caffemodel", "lenet.npz")
    run(capsys, "convert", "lenet.npz", "bare.caffemodel")
    run(capsys, "convert", "lenet.npz", "whole.caffemodel", "--model", "lenet/lenet.prototxt")
    assert [layer.name for layer in read_net_binary("bare.caffemodel").layer] == ["conv1", "conv2", "ip1", "ip2"]
    whole = read_net_binary("whole.caffemodel")
    assert [layer.type for layer in whole.layer[:3]] == ["Input", "Convolution", "Pooling"]
    assert whole.name == "LeNet" and len(whole.layer[1].blobs) == 2


def test_safetensors_keep_the_types_of_layers(capsys):
    Net(LENET, proto.TEST).save("lenet.caffemodel")
    run(capsys, "convert", "lenet.caffemodel", "lenet.safetensors")
    run(capsys, "convert", "lenet.safetensors", "again.caffemodel")
    net = read_net_binary("again.caffemodel")
    assert net.name == "LeNet" and [layer.type for layer in net.layer] == [*["Convolution"] * 2, *["InnerProduct"] * 2]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_old_models_get_the_shapes_of_today(version):
    stored = weight_files.read(GOLDEN / "upgrade" / f"{version}_model.in.caffemodel")
    with np.load(GOLDEN / "upgrade" / "bin_models.npz") as expected:
        for name, array in stored.named().items():
            layer, _, index = name.rpartition("/")
            np.testing.assert_array_equal(array, expected[f"{version}__{layer}__{index}"])
            assert array.shape == expected[f"{version}__{layer}__{index}"].shape
    assert stored.count == sum(array.size for array in stored.named().values()) > 0


def test_the_layout_of_a_safetensors_file():
    safetensors.write("x.safetensors", {"a/0": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"net": "n"})
    data = Path("x.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    assert json.loads(data[8 : 8 + size]) == {
        "__metadata__": {"net": "n"}, "a/0": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    }  # fmt: skip
    assert data[8 + size :] == np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("kind, stored, expected", [
    ("BF16", np.array([0x3F80, 0xC040], "<u2"), np.array([1.0, -3.0], np.float32)),
    ("F16", np.array([1.5, -2], "<f2"), np.array([1.5, -2], np.float16)),
    ("I64", np.array([3, -4], "<i8"), np.array([3, -4], np.int64)),
])  # fmt: skip
def test_safetensors_of_other_types(kind, stored, expected):
    header = json.dumps({"a/0": {"dtype": kind, "shape": [2], "data_offsets": [0, stored.nbytes]}}).encode()
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + stored.tobytes())
    arrays, _ = safetensors.read("x.safetensors")
    np.testing.assert_array_equal(arrays["a/0"], expected)
    assert arrays["a/0"].dtype == expected.dtype


@pytest.mark.parametrize("entry, message", [
    ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "has 4 bytes"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}, "lies outside it"),
    ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "lies outside it"),
    ({"dtype": "F8", "shape": [8], "data_offsets": [0, 8]}, "of type F8, which is not known"),
    ({"shape": [2]}, "no whole safetensors file"),
    ([1], "no whole safetensors file"),
])  # fmt: skip
def test_a_safetensors_file_that_contradicts_itself(entry, message):
    header = json.dumps({"a/0": entry}).encode()
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(WeightsError, match=message):
        weight_files.read("x.safetensors")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_file_cut_short_is_refused(ending):
    weight_files.write(f"x{ending}", Stored({"a": [np.ones(100, np.float32)]}))
    data = Path(f"x{ending}").read_bytes()
    Path(f"x{ending}").write_bytes(data[:-20])
    with pytest.raises(WeightsError, match="no whole"):
        weight_files.read(f"x{ending}")


@pytest.mark.parametrize("arrays, message", [
    ({"conv1": np.ones(2)}, "'conv1' .* is no param; expected numbers under names such as 'conv1/0'"),
    ({"conv1/w": np.ones(2)}, "'conv1/w' .* is no param"),
    ({"conv1/1": np.ones(2)}, r"layer 'conv1' has params \[1\]; one is missing"),
    ({"conv1/0": np.array(["text"])}, "is no param"),
])  # fmt: skip
def test_arrays_that_are_no_params(arrays, message):
    np.savez("x.npz", **arrays)
    with pytest.raises(WeightsError, match=message):
        weight_files.read("x.npz")


@pytest.mark.parametrize("name, message", [
    ("net/data.pkl", "'net/data.pkl' in it is no array; it is PyTorch's: save its tensors as .npz or .safetensors"),
    ("notes.txt", "'notes.txt' in it is no array$"),
])  # fmt: skip
def test_another_archive_is_refused(name, message):
    with zipfile.ZipFile("x.pt", "w") as archive:
        archive.writestr(name, b"anything")
    with pytest.raises(WeightsError, match=message):
        weight_files.read("x.pt")


def test_python_objects_are_never_unpickled():
    np.savez("x.npz", **{"a/0": np.array([{"a": 1}], object)})
    with pytest.raises(WeightsError, match="no whole .npz file"):
        weight_files.read("x.npz")


@pytest.mark.parametrize("change, message", [
    (lambda layers: layers.update(ip2=[layers["ip2"][0]]), "Incompatible number of blobs for layer ip2: 1 in the file, 2"),
    (lambda layers: layers.update(ip2=[layers["ip2"][0].T, layers["ip2"][1]]), "shape mismatch"),
])  # fmt: skip
def test_archives_that_do_not_fit_a_net_change_nothing(change, message):
    net = Net(LENET, proto.TEST)
    net.save("lenet.caffemodel")
    before = params_of(net)
    stored = weight_files.read("lenet.caffemodel")
    for params in stored.layers.values():
        params[0] = params[0] + 1
    change(stored.layers)
    weight_files.write("x.safetensors", stored)
    with pytest.raises(WeightsError, match=message):
        net.copy_from("x.safetensors")
    assert_same(params_of(net), before)


@pytest.mark.parametrize("args, message", [
    (("a.caffemodel", "b.txt"), "weights are written as .caffemodel, .h5, .npz, .safetensors; found '.txt'"),
    (("none.npz", "b.npz"), "cannot read the weights file none.npz: No such file or directory"),
    (("net.prototxt", "b.npz"), "is a text file"),
    (("a.caffemodel", "b.caffemodel", "--model", "resnet50/deploy.prototxt"), "has no layer conv2, ip1, ip2"),
])  # fmt: skip
def test_what_cannot_be_converted(capsys, args, message):
    Net(LENET, proto.TEST).save("a.caffemodel")
    shutil.copy(LENET, "net.prototxt")
    outcome = run(capsys, "convert", *args)
    assert outcome.status == 1 and message in outcome.err
    assert not Path(args[1]).exists()
