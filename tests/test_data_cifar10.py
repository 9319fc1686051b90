"""CIFAR-10: its archive and files, read, checked and fetched; the databases and the mean image that its models read."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest
from cli_case import run
from test_cli_data import records

from minicaffe import models, proto
from minicaffe.data import cifar10
from minicaffe.errors import DataError
from minicaffe.net import Net
from minicaffe.proto.files import blob_to_array, read_binary

NAMES = [*cifar10.FILES["train"], *cifar10.FILES["test"]]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def files() -> dict[str, bytes]:
    """The six files, of 4 records each."""
    rng = np.random.default_rng(0)
    content = {}
    for k, name in enumerate(NAMES):
        batch = rng.integers(0, 256, (4, 3073), np.uint8)
        batch[:, 0] = (np.arange(4) + k) % 10
        content[name] = batch.tobytes()
    return content


@pytest.fixture
def folder(tmp_path, files):
    """A folder of the unpacked files."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def archive(tmp_path, files, monkeypatch):
    """A folder with the files in an archive, accepted as CIFAR-10's."""
    place = tmp_path / "packed"
    place.mkdir()
    with tarfile.open(place / cifar10.ARCHIVE, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256((place / cifar10.ARCHIVE).read_bytes()).hexdigest())
    return place


def test_a_record_is_a_label_and_three_planes(folder):
    red, green, blue = (np.full((32, 32), level, np.uint8) for level in (1, 2, 3))
    green[0, 31] = 200
    (folder / "test_batch.bin").write_bytes(b"\x07" + red.tobytes() + green.tobytes() + blue.tobytes())
    images, labels = cifar10.read_cifar10(folder, "test")
    np.testing.assert_array_equal(images, [[red, green, blue]])
    assert labels.tolist() == [7]


@pytest.mark.parametrize("place", ["folder", "archive"])
def test_splits_are_read_in_the_files_order(place, files, request):
    images, labels = cifar10.read_cifar10(request.getfixturevalue(place), "train")
    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [(i + k) % 10 for k in range(5) for i in range(4)]
    assert images[-1].tobytes() == files["data_batch_5.bin"][-3072:]
    assert len(cifar10.read_cifar10(request.getfixturevalue(place), "test")[1]) == 4


@pytest.mark.parametrize(("content", "message"), [
    (b"", "0 bytes are no whole number of records of 3073 bytes"),
    (b"\x01" * 3072, "3072 bytes are no whole number"),
    (b"\x0a" + bytes(3072), r"label 10 is none of 0 \.\. 9"),
])  # fmt: skip
def test_a_file_of_another_format_is_named(folder, content, message):
    (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3.bin: {message}"):
        cifar10.read_cifar10(folder, "train")


def test_missing_files_are_named(folder):
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"neither cifar-10-binary.tar.gz nor data_batch_2.bin"):
        cifar10.read_cifar10(folder, "train")


def test_an_archive_that_is_another_is_refused(archive):
    with open(archive / cifar10.ARCHIVE, "ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DataError, match=r"not CIFAR-10's cifar-10-binary.tar.gz: its SHA256 is"):
        cifar10.read_cifar10(archive, "train")


def test_an_archive_without_the_files_is_refused(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / cifar10.ARCHIVE, "w:gz"):
        pass
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256((tmp_path / cifar10.ARCHIVE).read_bytes()).hexdigest())
    with pytest.raises(DataError, match="cannot be unpacked .*data_batch_1.bin"):
        cifar10.read_cifar10(tmp_path, "train")


def test_fetch_downloads_the_archive_once(tmp_path, archive, monkeypatch):
    asked = []

    def served(urls, path, check):
        asked.append(urls)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((archive / cifar10.ARCHIVE).read_bytes())
        check(path)

    monkeypatch.setattr(cifar10, "download", served)
    for _ in range(2):
        assert cifar10.fetch_cifar10(tmp_path / "here", ["http://mirror/"]) == tmp_path / "here"
    assert asked == [["http://mirror/cifar-10-binary.tar.gz"]]


def test_commands_make_what_the_models_read(capsys, tmp_path, archive, files):
    refused = run(capsys, "data", "cifar10")
    assert refused.status == 1
    assert "minicaffe data fetch cifar10" in refused.errors[0]
    assert run(capsys, "data", "fetch", "cifar10", "-from", "packed").status == 0
    outcome = run(capsys, "data", "cifar10")
    assert outcome.status == 0
    assert outcome.out.splitlines()[0].startswith(
        "examples/cifar10/cifar10_train_lmdb (lmdb): 20 images: 1 of label 0, 2 of label 1"
    )
    made = tmp_path / "examples" / "cifar10"
    for split in ("train", "test"):
        expected = b"".join(files[name] for name in cifar10.FILES[split])
        images, labels, keys = records(made / f"cifar10_{split}_lmdb")
        found = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
        assert found.tobytes() == expected
        assert keys[:2] == [b"00000", b"00001"]
    train = records(made / "cifar10_train_lmdb")[0]
    mean = blob_to_array(read_binary(made / "mean.binaryproto", proto.BlobProto, "mean", DataError))
    np.testing.assert_allclose(mean, train.mean(axis=0, keepdims=True), rtol=1e-6)
    net = Net(models.find("cifar10/cifar10_quick_train_test.prototxt"), proto.TRAIN)
    net.run_forward()
    np.testing.assert_allclose(net.blobs["data"].data[0], train[0] - mean[0], atol=1e-4)
    net.close()


@pytest.mark.parametrize("missing", ["cifar10_test_lmdb", "mean.binaryproto"])
def test_an_error_tells_the_command_that_makes_what_is_missing(capsys, tmp_path, folder, missing):
    assert run(capsys, "data", "cifar10", "bin").status == 0
    path = tmp_path / "examples" / "cifar10" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = run(capsys, "train", "-solver", "cifar10/cifar10_quick_solver.prototxt")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "(make it with: minicaffe data cifar10)"


def test_fetch_refuses_another_archive(capsys, tmp_path, archive):
    (archive / cifar10.ARCHIVE).write_bytes(b"something else")
    outcome = run(capsys, "data", "fetch", "cifar10", "-from", "packed")
    assert outcome.status == 1
    assert "not CIFAR-10's cifar-10-binary.tar.gz" in outcome.errors[0]
    assert not (tmp_path / "cache").exists()
