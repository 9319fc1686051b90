"""``minicaffe data``: what its commands write, and that the shipped nets read it."""

from __future__ import annotations

import gzip
import shutil
import struct

import numpy as np
import pytest
from cli_case import contents, run

from minicaffe import models, proto
from minicaffe.data.datum import parse, to_array
from minicaffe.data.db import backend_of, open_db
from minicaffe.net import Net
from minicaffe.proto.files import blob_to_array, read_binary


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def records(path):
    """Images (N, C, H, W), labels and keys of a database."""
    images, labels, keys = [], [], []
    with open_db(path, backend_of(path)) as database:
        more = database.seek_to_first()
        while more:
            key, value = database.item()
            datum = parse(value)
            images.append(to_array(datum))
            labels.append(datum.label)
            keys.append(key)
            more = database.next()
    return np.array(images), np.array(labels), keys


def write_idx(folder, monkeypatch):
    """Small files in MNIST's format, accepted as MNIST's: images uint8 and labels by split."""
    import hashlib

    from minicaffe.data import mnist

    rng = np.random.default_rng(0)
    folder.mkdir()
    data, digests = {}, {}
    for split, prefix, count in (("train", "train", 30), ("test", "t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        data[split] = images, labels
        for name, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            raw = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(raw))
            digests[f"{prefix}-{name}-ubyte"] = hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr(mnist, "SHA256", digests)
    return data


def test_mnist_becomes_labelled_databases_where_lenet_reads_them(capsys, tmp_path, monkeypatch):
    data = write_idx(tmp_path / "files", monkeypatch)
    outcome = run(capsys, "data", "mnist", "files")
    assert outcome.status == 0
    assert outcome.out.splitlines()[0].startswith("examples/mnist/mnist_train_lmdb (lmdb): 30 images: 3 of label 0")
    for split, (pixels, digits) in data.items():
        images, labels, keys = records(tmp_path / "examples" / "mnist" / f"mnist_{split}_lmdb")
        np.testing.assert_array_equal(images[:, 0], pixels)
        np.testing.assert_array_equal(labels, digits)
        assert keys[:2] == [b"00000000", b"00000001"]
    net = Net(models.find("lenet/lenet_train_test.prototxt"), proto.TRAIN)
    assert net.blobs["data"].shape == (64, 1, 28, 28)


def test_fetch_from_a_folder_puts_mnist_where_the_others_find_it(capsys, tmp_path, monkeypatch):
    write_idx(tmp_path / "files", monkeypatch)
    refused = run(capsys, "data", "mnist")
    assert refused.status == 1
    assert "minicaffe data fetch mnist" in refused.errors[0]
    assert run(capsys, "data", "fetch", "mnist", "-from", "files").status == 0
    assert len(list((tmp_path / "cache").rglob("*ubyte.gz"))) == 4
    assert run(capsys, "data", "mnist", "-output", "out").status == 0
    assert run(capsys, "data", "siamese", "-output", "pairs").status == 0
    assert (tmp_path / "pairs" / "mnist_siamese_train_leveldb" / "CURRENT").exists()


@pytest.mark.parametrize("what, lost", [("mnist", "mnist_test_lmdb"), ("siamese", "mnist_siamese_test_leveldb")])
def test_a_run_that_was_ended_between_two_databases_is_told(capsys, tmp_path, monkeypatch, what, lost):
    write_idx(tmp_path / "files", monkeypatch)
    assert run(capsys, "data", "fetch", "mnist", "-from", "files").status == 0
    assert run(capsys, "data", what, "-output", "out").status == 0
    shutil.rmtree(tmp_path / "out" / lost)
    refused = run(capsys, "data", what, "-output", "out")
    assert refused.status == 1 and f"but not {lost}: an earlier run was ended" in refused.errors[0]
    assert "--overwrite makes all anew" in refused.errors[0] and not (tmp_path / "out" / lost).exists()
    assert run(capsys, "data", what, "-output", "out", "-overwrite").status == 0
    assert (tmp_path / "out" / lost).exists()


def test_fetch_refuses_files_that_are_not_mnists(capsys, tmp_path, monkeypatch):
    write_idx(tmp_path / "files", monkeypatch)
    (tmp_path / "files" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    outcome = run(capsys, "data", "fetch", "mnist", "-from", "files")
    assert outcome.status == 1
    assert "not MNIST's t10k-labels-idx1-ubyte" in outcome.errors[0]
    assert not (tmp_path / "cache").exists()


def test_siamese_mnist_is_what_caffes_converter_writes(capsys, tmp_path, monkeypatch):
    """A LevelDB: as many pairs as images, the bytes of one behind the other's, label 1 where the digits are equal."""
    data = write_idx(tmp_path / "files", monkeypatch)
    outcome = run(capsys, "data", "siamese", "mnist", "-from", "files")
    assert outcome.status == 0
    for split, (pixels, digits) in data.items():
        path = tmp_path / "examples" / "siamese" / f"mnist_siamese_{split}_leveldb"
        pairs, similar, keys = records(path)
        assert pairs.shape == (len(pixels), 2, 28, 28)
        assert keys[-1] == b"%08d" % (len(pixels) - 1)
        number = {image.tobytes(): digit for image, digit in zip(pixels, digits, strict=True)}
        found = [[number[image.tobytes()] for image in pair] for pair in pairs]
        np.testing.assert_array_equal(similar, [a == b for a, b in found])
        images, labels, _ = records(path.parent / f"mnist_{split}_lmdb")
        np.testing.assert_array_equal(images[:, 0], pixels)
        np.testing.assert_array_equal(labels, digits)


def test_siamese_digits_are_balanced_pairs_of_real_digits(capsys, tmp_path):
    outcome = run(capsys, "data", "siamese", "-count", 40)
    assert outcome.status == 0
    assert (
        outcome.out.splitlines()[0]
        == "examples/digits/digits_siamese_train_lmdb (lmdb): 40 pairs: 20 of label 0, 20 of label 1"
    )
    folder = tmp_path / "examples" / "digits"
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits_siamese_test_lmdb", "digits_siamese_train_lmdb", "digits_test_lmdb", "digits_train_lmdb",
    ]  # fmt: skip
    singles, digits, _ = records(folder / "digits_train_lmdb")
    label = {image.tobytes(): digit for image, digit in zip(singles, digits, strict=True)}
    pairs, similar, _ = records(folder / "digits_siamese_train_lmdb")
    assert pairs.shape == (40, 2, 28, 28)
    np.testing.assert_array_equal(similar, [label[a.tobytes()] == label[b.tobytes()] for a, b in pairs])
    net = Net(models.find("siamese/digits_train_test.prototxt"), proto.TEST)
    assert net.blobs["pair_data"].shape == (100, 2, 28, 28)


def test_seed_count_balance_and_backend(capsys, tmp_path):
    for name, *flags in (("a",), ("b",), ("c", "-seed", "2"), ("d", "-nobalance"), ("e", "-backend", "leveldb")):
        assert run(capsys, "data", "siamese", "digits", "-count", "50", "-output", name, *flags).status == 0
    a, b, c, d = (records(tmp_path / name / "digits_siamese_train_lmdb") for name in "abcd")
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], c[0])
    assert a[1].sum() == c[1].sum() == 25
    assert d[1].sum() < 15
    np.testing.assert_array_equal(records(tmp_path / "e" / "digits_siamese_train_leveldb")[0], a[0])
    test = records(tmp_path / "a" / "digits_siamese_test_lmdb")
    assert len(test[0]) == 50


def test_databases_that_exist_are_left_as_they_are(capsys, tmp_path):
    command = ("data", "siamese", "digits", "-count", 20, "-output", "out")
    run(capsys, *command)
    before = contents(tmp_path)
    refused = run(capsys, *command, "-seed", 5)
    assert refused.status == 1
    assert "exists already and is left as it is" in refused.errors[0]
    assert contents(tmp_path) == before
    assert run(capsys, *command, "-seed", 5, "-overwrite").status == 0
    assert contents(tmp_path) != before


@pytest.fixture
def folders(tmp_path):
    """Two folders of two gray images each, 6 x 5 pixels."""
    from PIL import Image

    for name, level in (("cats", 40), ("dogs", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.full((6, 5), level + k, np.uint8)).save(tmp_path / "images" / name / f"{k}.png")
    return tmp_path / "images"


def test_pairs_of_a_list(capsys, tmp_path, folders):
    (folders / "list.txt").write_text("cats/0.png cats/1.png 1\ncats/0.png dogs/1.png 0\n")
    outcome = run(capsys, "data", "pairs", "images/list.txt", "db", "-height", 6, "-width", 5)
    assert (outcome.status, outcome.out) == (0, "db (lmdb): 2 pairs: 1 of label 0, 1 of label 1\n")
    images, labels, _ = records(tmp_path / "db")
    assert images.shape == (2, 2, 6, 5)
    assert images[:, :, 0, 0].tolist() == [[40, 41], [40, 201]]
    assert labels.tolist() == [1, 0]


def test_a_bad_line_of_a_list_is_named(capsys, tmp_path, folders):
    (folders / "list.txt").write_text("cats/0.png cats/1.png 1\ncats/0.png cats/9.png 1\n")
    outcome = run(capsys, "data", "pairs", "images/list.txt", "db", "-height", 6, "-width", 5)
    assert outcome.status == 1
    assert "images/list.txt:2: no such file: cats/9.png" in outcome.errors[0]
    assert not (tmp_path / "db").exists()


def test_pairs_of_a_folder(capsys, tmp_path, folders):
    outcome = run(
        capsys,
        "data",
        "folder",
        "images",
        "db",
        "-height",
        3,
        "-width",
        4,
        "-count",
        10,
        "-balance",
        "-backend",
        "leveldb",
    )
    assert outcome.status == 0
    images, labels, _ = records(tmp_path / "db")
    assert images.shape == (10, 2, 3, 4)
    assert labels.sum() == 5
    kind = images[:, :, 0, 0] > 100
    np.testing.assert_array_equal(labels, kind[:, 0] == kind[:, 1])


def test_mean_of_a_database(capsys, tmp_path):
    from minicaffe.data.write import write_images

    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), np.uint8)
    write_images("db", images, np.zeros(7, np.uint8))
    outcome = run(capsys, "data", "mean", "db", "mean.binaryproto")
    assert outcome.status == 0
    expected = images.mean(axis=0)
    np.testing.assert_allclose(
        blob_to_array(read_binary("mean.binaryproto", proto.BlobProto)).reshape(3, 4, 5), expected, rtol=1e-6
    )
    assert [float(line.rpartition(": ")[2]) for line in outcome.out.splitlines()[1:]] == pytest.approx(
        expected.mean(axis=(1, 2)), rel=1e-5
    )


def test_mean_needs_images_of_one_size(capsys, tmp_path):
    from minicaffe.data.datum import from_array

    with open_db("db", "lmdb", "new") as database:
        for n, side in enumerate((4, 5)):
            database.put(b"%08d" % n, from_array(np.zeros((1, side, side), np.uint8), 0).SerializeToString())
    outcome = run(capsys, "data", "mean", "db", "mean.binaryproto")
    assert outcome.status == 1
    assert "record '00000001'" in outcome.errors[0]
    assert not (tmp_path / "mean.binaryproto").exists()
