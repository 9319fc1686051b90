"""Batches: Caffe's own, bit for bit; ahead of time, resumable, and without hanging when something is wrong."""

from __future__ import annotations

import gc
import io
import json
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from golden_data import first_layer
from PIL import Image

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.datum import from_array
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.db import open_db
from minicaffe.data.source import BatchSource, ImageReader
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "formats").glob("data__*.prototxt"))
backends = pytest.mark.parametrize("backend", ["lmdb", "leveldb"])


def numbered(path, backend="lmdb", count=10, shape=(1, 2, 3)):
    """A database whose record n holds the pixels n and the label n."""
    with open_db(path, backend, "new") as database:
        for n in range(count):
            database.put(b"%08d" % n, from_array(np.full(shape, n, np.uint8), n).SerializeToString())
    return path


def source(
    path, batch_size=4, backend="lmdb", phase=proto.TRAIN, prefetch=4, seed=1, rank=0, solver_count=1, **transform
):
    data_param = proto.DataParameter(
        source=str(path), batch_size=batch_size, backend=backend.upper(), prefetch=prefetch
    )
    transform_param = proto.TransformationParameter(**transform)
    return DatumSource(data_param, transform_param, phase, Stream(seed), rank, solver_count)


def labels(data, batches):
    return [data.next_batch().label.tolist() for _ in range(batches)]


@pytest.mark.parametrize("case", CASES)
def test_caffes_batches(case, monkeypatch):
    monkeypatch.chdir(GOLDEN / "formats")
    layer = first_layer(Path(f"{case}.prototxt"))
    with np.load(f"{case}.npz") as golden:
        phase = proto.Phase.Value(str(golden["phase"]))
        data = DatumSource(layer.data_param, layer.transform_param, phase, Stream(1))
        count = sum(key.startswith("data_") for key in golden)
        for n in range(count):
            batch = data.next_batch()
            np.testing.assert_array_equal(batch.data, golden[f"data_{n}"])
            if len(layer.top) > 1:
                np.testing.assert_array_equal(batch.label, golden[f"label_{n}"])
        assert data.shape == golden["data_0"].shape[1:]
    data.close()


@pytest.mark.parametrize("seed", [1, 1701])
@pytest.mark.parametrize("case", ["crop", "mirror", "crop_mirror"])
def test_caffes_random_crops_and_mirrors(case, seed, monkeypatch):
    monkeypatch.chdir(GOLDEN / "rng")
    layer = first_layer(Path(f"data_train_{case}.prototxt"))
    data = DatumSource(layer.data_param, layer.transform_param, proto.TRAIN, Stream(seed))
    with np.load("data_train.npz") as golden:
        for n in range(3):
            np.testing.assert_array_equal(data.next_batch().data, golden[f"{case}__seed{seed}__batch{n}"])
    data.close()


@pytest.mark.parametrize(("transform", "draws"), [({}, 1), ({"mirror": True}, 3)])
def test_the_draws_that_caffe_takes_from_the_seeding_stream(tmp_path, transform, draws):
    stream, expected = Stream(7), Stream(7)
    data_param = proto.DataParameter(source=str(numbered(tmp_path / "db")), batch_size=1, backend="LMDB")
    DatumSource(data_param, proto.TransformationParameter(**transform), proto.TRAIN, stream).close()
    expected.draws(draws)
    assert stream.draw() == expected.draw()


@backends
def test_batches_wrap_around_and_say_so(tmp_path, backend, caplog):
    caplog.set_level(logging.INFO)
    data = source(numbered(tmp_path / "db", backend), backend=backend, scale=0.5)
    batch = data.next_batch()
    np.testing.assert_array_equal(
        batch.data, 0.5 * np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((1, 2, 3))
    )
    assert labels(data, 3) == [[4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]]
    assert "Restarting data prefetching from start." in caplog.messages
    data.close()


def test_a_batch_larger_than_the_database(tmp_path):
    data = source(numbered(tmp_path / "db", count=3), batch_size=7)
    assert labels(data, 2) == [[0, 1, 2, 0, 1, 2, 0], [1, 2, 0, 1, 2, 0, 1]]
    data.close()


def test_the_batch_in_hand_stays_while_others_are_read_ahead(tmp_path):
    data = source(numbered(tmp_path / "db"), prefetch=1)
    for _ in range(50):
        batch = data.next_batch()
        before = batch.data.copy(), batch.label.copy()
        threading.Event().wait(0.001)
        np.testing.assert_array_equal(batch.data, before[0])
        np.testing.assert_array_equal(batch.label, before[1])
    data.close()


@pytest.mark.parametrize("consumed", [0, 1, 7])
@backends
def test_a_restored_source_continues_bit_for_bit(tmp_path, backend, consumed):
    path = numbered(tmp_path / "db", backend, shape=(3, 8, 9))
    transform = {"crop_size": 5, "mirror": True}
    one = source(path, backend=backend, **transform)
    for _ in range(consumed):
        one.next_batch()
    state = json.loads(json.dumps(one.state()))
    other = source(path, backend=backend, seed=2, **transform)
    other.next_batch()
    other.restore(state)
    assert other.state() == state
    for _ in range(6):
        expected, batch = one.next_batch(), other.next_batch()
        np.testing.assert_array_equal(batch.data, expected.data)
        np.testing.assert_array_equal(batch.label, expected.label)
    one.close()
    other.close()


def test_a_state_of_another_database_is_refused(tmp_path):
    long, short = numbered(tmp_path / "long"), numbered(tmp_path / "short", count=2)
    one, other = source(long), source(short)
    one.next_batch()
    with pytest.raises(DataError, match=f"{short}: no record '00000004', where the snapshot stopped reading"):
        other.restore(one.state())
    one.close()
    other.close()


def shuffled(path, seed=1, rank=0, solver_count=1, batch_size=4, **options):
    data_param = proto.DataParameter(source=str(path), batch_size=batch_size, backend="LMDB", **options)
    param = proto.TransformationParameter(mirror=True)
    return DatumSource(data_param, param, proto.TRAIN, Stream(seed), rank, solver_count)


def test_a_shuffled_database_gives_each_record_once_a_round(tmp_path):
    data = shuffled(numbered(tmp_path / "db"), batch_size=5, shuffle=True)
    rounds = [sum(labels(data, 2), []) for _ in range(3)]
    assert [sorted(order) for order in rounds] == [list(range(10))] * 3
    assert len({tuple(order) for order in rounds}) == 3
    data.close()


def test_solvers_share_the_records_of_a_shuffled_round(tmp_path):
    numbered(tmp_path / "db", count=7)
    taken = []
    for rank in range(2):
        data = shuffled(tmp_path / "db", rank=rank, solver_count=2, batch_size=7, shuffle=True)
        taken.append(labels(data, 1)[0])  # two rounds: of 4 and 3 records, or of 3 and 4
        data.close()
    assert sorted(taken[0][:4] + taken[1][:3]) == sorted(taken[0][4:] + taken[1][3:]) == list(range(7))


def test_records_drawn_from_a_pool(tmp_path):
    data = shuffled(numbered(tmp_path / "db", count=100), shuffle_pool_size=3)
    drawn = labels(data, 20)
    assert drawn[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]  # they fill the pool
    later = sum(drawn[3:], [])
    assert len(set(later)) == len(later) and later != sorted(later)  # each is read from the database once
    assert set(later[:4]) <= set(range(12)) and set(later) <= set(range(80))
    data.close()


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle_pool_size": 2}])
def test_a_shuffled_source_goes_on_where_a_snapshot_was_taken(tmp_path, options):
    data = shuffled(numbered(tmp_path / "db", count=11), **options)
    labels(data, 5)
    state = json.loads(json.dumps(data.state()))
    expected = [data.next_batch().data.tolist() for _ in range(8)]
    data.close()
    again = shuffled(tmp_path / "db", seed=9, **options)
    again.restore(state)
    assert [again.next_batch().data.tolist() for _ in range(8)] == expected
    again.close()
    other = shuffled(tmp_path / "db")
    with pytest.raises(DataError, match="shuffle_pool_size is not what it was"):
        other.restore(state)
    other.close()


def test_a_shuffled_source_knows_another_database(tmp_path):
    data = shuffled(numbered(tmp_path / "db"), shuffle=True)
    state = data.state()
    data.close()
    other = shuffled(numbered(tmp_path / "other", count=9), shuffle=True)
    with pytest.raises(DataError, match="9 records, where the snapshot was taken with 10"):
        other.restore(state)
    other.close()


def test_solvers_share_the_records(tmp_path):
    path = numbered(tmp_path / "db", count=9)
    ranks = [source(path, batch_size=3, rank=rank, solver_count=2) for rank in range(2)]
    assert [labels(data, 3) for data in ranks] == [
        [[0, 2, 4], [6, 8, 1], [3, 5, 7]],
        [[1, 3, 5], [7, 0, 2], [4, 6, 8]],
    ]
    for data in ranks:
        data.close()


def test_a_rank_resumes_among_its_own_records(tmp_path):
    path = numbered(tmp_path / "db", count=9)
    one = source(path, batch_size=2, rank=1, solver_count=2)
    one.next_batch()
    other = source(path, batch_size=2, rank=1, solver_count=2)
    other.restore(one.state())
    assert labels(other, 4) == labels(one, 4)
    one.close()
    other.close()


def test_a_position_is_the_same_for_every_rank(tmp_path):
    """The state of one rank lets each go on where it stood."""
    path = numbered(tmp_path / "db", count=9)
    one, other = (source(path, batch_size=2, rank=rank, solver_count=3) for rank in (0, 2))
    assert labels(one, 2) == [[0, 3], [6, 0]]
    assert labels(other, 2) == [[2, 5], [8, 2]]
    assert one.state() == other.state()
    other.restore(one.state())
    assert labels(other, 1) == [[5, 8]]
    one.close()
    other.close()


def test_a_rank_beyond_the_solvers(tmp_path):
    with pytest.raises(DataError, match="solver rank 2 must lie below the solver count 2"):
        source(numbered(tmp_path / "db"), rank=2, solver_count=2)


def test_sizes_may_differ_under_a_crop(tmp_path):
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        for n, side in enumerate((4, 6, 5)):
            database.put(b"%d" % n, from_array(np.full((1, side, side), n, np.uint8)).SerializeToString())
    data = source(tmp_path / "db", batch_size=3, crop_size=3)
    np.testing.assert_array_equal(data.next_batch().data[:, 0, 0, 0], [0, 1, 2])
    data.close()
    one_by_one = source(tmp_path / "db", batch_size=1)
    assert [one_by_one.next_batch().data.shape for _ in range(3)] == [(1, 1, 4, 4), (1, 1, 6, 6), (1, 1, 5, 5)]
    one_by_one.close()
    data = source(tmp_path / "db", batch_size=3)
    with pytest.raises(DataError, match=r"record '1': its shape is \(1, 6, 6\)"):
        data.next_batch()
    data.close()


@pytest.mark.parametrize("kind", ["raw", "encoded"])
def test_several_labels(tmp_path, kind):
    """They are the floats beside an image's bytes; the layer's top is (N, L)."""
    values = np.array([[0.5, -2], [1e6, 0], [3, 0.25]], np.float32)
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        for n, value in enumerate(values):
            datum = from_array(np.full((1, 4, 4), n, np.uint8), value)
            if kind == "encoded":
                datum = proto.Datum(encoded=True, data=_png(np.full((4, 4), n, np.uint8)), float_data=value)
            database.put(b"%d" % n, datum.SerializeToString())
        database.put(b"3", from_array(np.zeros((1, 4, 4), np.uint8), 7).SerializeToString())
    data = source(tmp_path / "db", batch_size=3)
    assert data.labels == (2,)
    batch = data.next_batch()
    np.testing.assert_array_equal(batch.label, values)
    assert batch.data[:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"record '3': it has 1 label\(s\), the first record 2"):
        data.next_batch()
    data.close()


def _png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_labels_in_a_second_database(tmp_path):
    """Caffe's own way: a Data layer for the images, another one for the labels."""
    values = np.random.default_rng(1).normal(size=(4, 3, 1, 1)).astype(np.float32)
    with open_db(tmp_path / "labels", "lmdb", "new") as database:
        for n, value in enumerate(values):
            database.put(b"%d" % n, from_array(value).SerializeToString())
    images, targets = source(numbered(tmp_path / "images", count=4), 4), source(tmp_path / "labels", 4)
    assert images.next_batch().label.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(targets.next_batch().data, values)
    images.close()
    targets.close()


def test_crops_of_encoded_images_are_those_of_raw_ones(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 9, 11), dtype=np.uint8)
    with open_db(tmp_path / "raw", "lmdb", "new") as raw, open_db(tmp_path / "encoded", "lmdb", "new") as encoded:
        for n, image in enumerate(images):
            raw.put(b"%d" % n, from_array(image).SerializeToString())
            content = _png(np.ascontiguousarray(image[::-1].transpose(1, 2, 0)))
            encoded.put(b"%d" % n, proto.Datum(data=content, encoded=True).SerializeToString())
    batches = []
    for kind in ("raw", "encoded"):
        data = source(tmp_path / kind, batch_size=8, crop_size=6, mirror=True, mean_value=[1, 2, 3], scale=0.1)
        batches.append(data.next_batch().data)
        data.close()
    np.testing.assert_array_equal(*batches)


def test_a_packed_image_among_floats(tmp_path):
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        content = _png(np.uint8([[[1, 2, 3]]]))
        for n, datum in enumerate((from_array(np.full((3, 1, 1), 0.5)), proto.Datum(data=content, encoded=True))):
            database.put(b"%d" % n, datum.SerializeToString())
    data = source(tmp_path / "db", batch_size=2)
    assert data.next_batch().data.tolist() == [[[[0.5]]] * 3, [[[3]], [[2]], [[1]]]]
    data.close()


def test_floats_and_bytes_in_one_batch(tmp_path):
    """Whichever comes first."""
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        for n, pixels in enumerate([np.uint8([200]), np.float32([-0.5]), np.float32([1e6]), np.uint8([7])]):
            database.put(b"%d" % n, from_array(pixels.reshape(1, 1, 1)).SerializeToString())
    data = source(tmp_path / "db", batch_size=2, scale=0.5, mean_value=[2])
    assert [data.next_batch().data.ravel().tolist() for _ in range(2)] == [[99, -1.25], [499999, 2.5]]
    data.close()


def test_first_record_at_fault_is_named_whatever_thread_found_it(tmp_path):
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        for n in range(64):
            content = _png(np.zeros((4, 4), np.uint8)) if n < 20 else b"no image"
            database.put(b"%02d" % n, proto.Datum(encoded=True, data=content).SerializeToString())
    for _ in range(5):
        data = source(tmp_path / "db", batch_size=64)
        with pytest.raises(DataError, match="record '20': not an image"):
            data.next_batch()
        data.close()


def test_float_data(tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 2, 1, 1)).astype(np.float32)
    with open_db(tmp_path / "db", "lmdb", "new") as database:
        for n, value in enumerate(values):
            database.put(b"%d" % n, from_array(value).SerializeToString())
    data = source(tmp_path / "db")
    np.testing.assert_array_equal(data.next_batch().data, values)
    data.close()


@pytest.mark.parametrize(
    "damage", [b"\xff\xff\xff", proto.Datum(channels=1, height=2, width=3, data=b"12").SerializeToString()]
)
def test_a_damaged_record_is_named_and_does_not_hang(tmp_path, damage):
    path = numbered(tmp_path / "db", count=6)
    shutil.copytree(path, tmp_path / "damaged")
    with open_db(tmp_path / "damaged", "lmdb", "replace") as database, open_db(path, "lmdb") as good:
        good.seek_to_first()
        for n in range(6):
            database.put(good.item()[0], damage if n == 5 else good.item()[1])
            good.next()
    data = source(tmp_path / "damaged")
    assert labels(data, 1) == [[0, 1, 2, 3]]
    for _ in range(2):
        with pytest.raises(DataError, match=f"lmdb database {tmp_path}/damaged, record '00000005': "):
            data.next_batch()
    data.close()


def test_an_empty_database(tmp_path):
    numbered(tmp_path / "db", count=0)
    with pytest.raises(DataError, match="empty, not one record"):
        source(tmp_path / "db")


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("prefetch", 0)])
def test_bad_data_param(tmp_path, field, value):
    with pytest.raises(DataError, match=f"data_param.{field}: must be at least 1"):
        source(numbered(tmp_path / "db"), **{field: value})


def test_the_record_is_named_when_the_transform_does_not_fit(tmp_path):
    with pytest.raises(DataError, match=r"record '00000000': transform_param: a crop of 5 x 5 is larger"):
        source(numbered(tmp_path / "db"), crop_size=5)


def test_closing_does_not_wait_for_the_rest_of_a_batch():
    class Reader(ImageReader):
        shape, reads, began = (1, 1, 1), 0, threading.Event()

        def read(self, item):
            self.reads += 1
            if item:
                self.began.set()
                assert self.stopped.wait(60)
            return np.zeros(self.shape, np.uint8), 0

        def begin(self, batch):
            return self.begin_with(batch, range(1000))

        def position(self):
            return 0

        encode = go_to = at = None

    reader = Reader(Transformer(proto.TransformationParameter(), proto.TEST, Stream(1)))
    data = BatchSource(reader, batch_size=1000, depth=1)
    waiting = threading.Thread(target=data.next_batch, daemon=True)
    waiting.start()
    assert reader.began.wait(60)
    data.close()
    assert reader.reads < 100


@pytest.mark.parametrize("end", ["close", "collect"])
def test_the_thread_ends(tmp_path, end):
    before = threading.active_count()
    data = source(numbered(tmp_path / "db"))
    data.next_batch()
    assert threading.active_count() == before + 1
    if end == "close":
        data.close()
    else:
        del data
        gc.collect()
    assert threading.active_count() == before
