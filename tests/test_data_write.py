"""Databases of images and pairs: drawn as Caffe draws them, written so that Caffe and we read the same."""

from __future__ import annotations

import os

import numpy as np
import pytest
from kills import killed_at_each_step
from PIL import Image

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.db import open_db
from minicaffe.data.pairs import draw_pairs, pairs_from_folder, pairs_from_list
from minicaffe.data.write import write_images, write_pairs
from minicaffe.errors import DataError
from minicaffe.proto import atomic

IMAGES = np.random.default_rng(1).integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = np.random.default_rng(2).integers(0, 4, 30, dtype=np.uint8)
SCALE = 0.00390625

backends = pytest.mark.parametrize("backend", ["lmdb", "leveldb"])


def source(path, backend, batch_size, **transform):
    data_param = proto.DataParameter(source=str(path), batch_size=batch_size, backend=backend.upper())
    return DatumSource(data_param, proto.TransformationParameter(**transform), proto.TRAIN, Stream(1))


@backends
def test_image_database(tmp_path, backend):
    written = write_images(tmp_path / "db", IMAGES, LABELS, backend)
    assert written == (str(tmp_path / "db"), backend, 30, dict(enumerate(np.bincount(LABELS).tolist())))
    with open_db(tmp_path / "db", backend) as database:
        database.seek_to_first()
        key, value = database.item()
    assert key == b"00000000"
    assert (
        value
        == proto.Datum(
            channels=1, height=28, width=28, data=IMAGES[0].tobytes(), label=int(LABELS[0])
        ).SerializeToString()
    )


@backends
def test_pair_database_gives_back_pixels_and_labels_and_wraps_around(tmp_path, backend):
    pairs, similar = draw_pairs(LABELS, seed=5)
    assert write_pairs(tmp_path / "db", IMAGES, pairs, similar, backend).records == 30
    data = source(tmp_path / "db", backend, 20, scale=SCALE)
    for start in (0, 20):
        batch = data.next_batch()
        rows = np.arange(start, start + 20) % 30
        np.testing.assert_array_equal(batch.data, IMAGES[pairs[rows]] * np.float32(SCALE))
        np.testing.assert_array_equal(batch.label, similar[rows])
    data.close()


def test_labels_that_are_no_whole_numbers_are_kept(tmp_path):
    for name, labels, expected in (
        ("whole", np.array([3.0, -1.0]), [3, -1]),
        ("fractions", np.array([0.25, 2.0]), [[0.25], [2]]),
        ("several", np.array([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]]),
    ):
        written = write_images(tmp_path / name, IMAGES[:2], labels)
        assert written.labels == ({3: 1, -1: 1} if name == "whole" else {})
        data = source(tmp_path / name, "lmdb", 2)
        assert data.next_batch().label.tolist() == expected
        data.close()


def test_colour_pairs_have_six_channels(tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    write_pairs(tmp_path / "db", images, np.array([[1, 4]]), np.array([1]), "lmdb")
    data = source(tmp_path / "db", "lmdb", 1)
    assert data.shape == (6, 4, 6)
    np.testing.assert_array_equal(data.next_batch().data[0], np.concatenate([images[1], images[4]]))
    data.close()


@backends
def test_an_existing_database_is_only_replaced_on_demand(tmp_path, backend):
    write_images(tmp_path / "db", IMAGES, LABELS, backend)
    with pytest.raises(DataError, match="exists already"):
        write_images(tmp_path / "db", IMAGES[:7], LABELS[:7], backend)
    assert write_images(tmp_path / "db", IMAGES[:7], LABELS[:7], backend, overwrite=True).records == 7


def test_counts_that_differ(tmp_path):
    with pytest.raises(DataError, match="30 images but 29 labels"):
        write_images(tmp_path / "db", IMAGES, LABELS[1:])
    with pytest.raises(DataError, match="1 pairs but 2 labels"):
        write_pairs(tmp_path / "db", IMAGES, np.array([[0, 1]]), np.array([0, 1]))


def test_pairs_are_drawn_as_caffes_converter_draws_them():
    pairs, similar = draw_pairs(LABELS, seed=9)
    draws = Stream(9).draws(60).tolist()
    expected = [(i % 30, j % 30) for i, j in zip(draws[::2], draws[1::2], strict=True)]
    assert [tuple(pair) for pair in pairs.tolist()] == expected
    assert similar.tolist() == [int(LABELS[i] == LABELS[j]) for i, j in expected]


def test_balanced_pairs_reach_every_allowed_partner_and_no_other():
    labels = np.array([5, 5, 2, 7, 7, 7])
    pairs, similar = draw_pairs(labels, count=4000, seed=1, balance=True)
    assert similar.tolist() == [1, 0] * 2000
    np.testing.assert_array_equal(similar, labels[pairs[:, 0]] == labels[pairs[:, 1]])
    assert len({tuple(pair) for pair in pairs.tolist()}) == 36


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ([], {}, "at least one image"),
        ([1, 1], {"balance": True}, "at least two classes"),
        ([1, 2], {"count": 0}, "the number of pairs must be at least 1"),
    ],
)
def test_pairs_that_cannot_be_drawn(labels, arguments, message):
    with pytest.raises(DataError, match=message):
        draw_pairs(np.array(labels, np.uint8), **arguments)


@pytest.fixture
def photos(tmp_path):
    """Two classes of two images each, every one of a single colour."""
    for n, name in enumerate(["cat/a.png", "cat/b.png", "dog/c.png", "dog/d e.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (10 * n, 100, 200)).save(tmp_path / name)
    (tmp_path / "cat" / ".hidden").write_text("no image")
    return tmp_path


def test_pairs_from_a_list(photos):
    (photos / "list.txt").write_text("cat/a.png cat/b.png 1\n\ncat/a.png\tdog/d e.png\t0\n")
    images, pairs, similar = pairs_from_list(photos / "list.txt", 3, 4, color=True)
    assert images.shape == (3, 3, 3, 4)
    assert images[:, :, 0, 0].tolist() == [[200, 100, 0], [200, 100, 10], [200, 100, 30]]
    assert pairs.tolist() == [[0, 1], [0, 2]]
    assert similar.tolist() == [1, 0]
    assert pairs_from_list(photos / "list.txt", 3, 4).images.shape == (3, 1, 3, 4)


def test_every_bad_line_of_a_list_is_named(photos):
    path = photos / "list.txt"
    path.write_text("cat/a.png cat/b.png 1\ncat/a.png cat/b.png\ncat/a.png cat/b.png yes\ncat/a.png cat/z.png 0\n")
    with pytest.raises(DataError) as error:
        pairs_from_list(path, 3, 4)
    assert [line.split(": ", 1)[0] for line in str(error.value).splitlines()] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert "2 fields, expected 3" in str(error.value)
    assert "'yes', expected 1 (same) or 0 (different)" in str(error.value)
    assert "no such file: cat/z.png" in str(error.value)


def test_lists_that_hold_nothing(tmp_path):
    with pytest.raises(DataError, match=r"pair list .*list.txt: cannot be read"):
        pairs_from_list(tmp_path / "list.txt", 3, 4)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"list.txt: empty; it takes lines"):
        pairs_from_list(tmp_path / "list.txt", 3, 4)


def test_pairs_from_a_folder(photos):
    images, pairs, similar = pairs_from_folder(photos, 3, 4, color=True, count=50, seed=3, balance=True)
    assert images[:, 2, 0, 0].tolist() == [0, 10, 20, 30]
    np.testing.assert_array_equal(pairs, draw_pairs(np.array([0, 0, 1, 1]), 50, 3, balance=True)[0])
    np.testing.assert_array_equal(similar, pairs[:, 0] // 2 == pairs[:, 1] // 2)


def test_folders_that_hold_no_images(tmp_path, photos):
    with pytest.raises(DataError, match="nowhere: not found"):
        pairs_from_folder(tmp_path / "nowhere", 3, 4)
    with pytest.raises(DataError, match="cat: no images; it must hold one folder"):
        pairs_from_folder(photos / "cat", 3, 4)
    (photos / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"notes.txt: not an image"):
        pairs_from_folder(photos, 3, 4)
    with pytest.raises(DataError, match="cannot be resized to 0 x 4"):
        pairs_from_folder(photos, 0, 4)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_killed_replacement_leaves_the_old_database_or_the_new_one(tmp_path, backend, in_one_step, monkeypatch):
    if not in_one_step:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)

    def write(count, overwrite=True):
        write_images(tmp_path / "db", IMAGES[:count], LABELS[:count], backend, overwrite)

    def count():
        with open_db(tmp_path / "db", backend) as database:
            records, more = 0, database.seek_to_first()
            while more:
                records, more = records + 1, database.next()
        return records

    write(30)
    found, missing = [], 0
    for _ in killed_at_each_step(lambda: write(20), lambda: write(30)):
        missing += not (tmp_path / "db").exists()
        found.append(count())
        with pytest.raises(DataError, match="exists already"):
            write(20, overwrite=False)
    assert (found[0], set(found) <= {20, 30}, missing, count()) == (30, True, int(not in_one_step), 20)
    assert os.listdir(tmp_path) == ["db"]
