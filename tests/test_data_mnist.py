"""IDX files, MNIST's download from a server of our own, and the digits that come along."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minicaffe.data import mnist
from minicaffe.data.digits import read_digits
from minicaffe.data.idx import read_images, read_labelled_images, read_labels
from minicaffe.errors import DataError

IMAGES = np.random.default_rng(1).integers(0, 256, (4, 50, 60), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1], np.uint8)


def idx(array, magic=None):
    code = magic or 0x0800 | array.ndim
    return struct.pack(f">{1 + array.ndim}I", code, *array.shape) + array.tobytes()


FILES = {
    f"{prefix}-{name}": idx(array)
    for prefix in ("train", "t10k")
    for name, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS))
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path, pack):
    (tmp_path / "images").write_bytes(pack(idx(IMAGES)))
    (tmp_path / "labels").write_bytes(pack(idx(LABELS)))
    images, labels = read_labelled_images(tmp_path / "images", tmp_path / "labels")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, 0 bytes are less than its header"),
        (idx(IMAGES)[:-1], "4 x 50 x 60, 12000 bytes, but 11999 follow"),
        (idx(IMAGES) + b"\0", "12000 bytes, but 12001 follow"),
        (idx(IMAGES, 2052), "magic number is 2052, expected 2051"),
        (idx(LABELS) + b"\0" * 8, "magic number is 2049, expected 2051"),
        (gzip.compress(idx(IMAGES))[:-9], "truncated or damaged gzip"),
        (gzip.compress(idx(IMAGES))[:-8] + b"\0" * 8, "truncated or damaged gzip"),
    ],
)
def test_bad_idx(tmp_path, content, message):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError, match=f"file {tmp_path}/images: .*{message}"):
        read_images(tmp_path / "images")


def test_missing_idx(tmp_path):
    with pytest.raises(DataError, match="file .*labels: cannot be read"):
        read_labels(tmp_path / "labels")


def test_images_and_labels_of_different_sets(tmp_path):
    (tmp_path / "images").write_bytes(idx(IMAGES))
    (tmp_path / "labels").write_bytes(idx(LABELS[:3]))
    with pytest.raises(DataError, match="4 images in .*but 3 labels"):
        read_labelled_images(tmp_path / "images", tmp_path / "labels")


class Mirror(ThreadingHTTPServer):
    """Serves the four files gzipped; ``cut`` is the number of bytes after which it drops a connection, if any."""

    def __init__(self, damage=bytes, cut=None, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.damage, self.cut, self.ranges = damage, cut, ranges
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        super().__exit__(*exception)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, asked = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, asked))
        content = self.server.damage(gzip.compress(FILES[name.removesuffix(".gz")], mtime=0))
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_):
        pass


def down():
    """The address of a mirror that does not answer."""
    with Mirror() as mirror:
        return mirror.url


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch):
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()})


def test_download(tmp_path):
    with Mirror() as mirror:
        folder = mnist.fetch_mnist(tmp_path, [mirror.url])
        assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.gz" for name in FILES)
        asked = len(mirror.requests)
        mnist.fetch_mnist(tmp_path, [mirror.url])
        assert len(mirror.requests) == asked == 4
    images, labels = mnist.read_mnist(folder, "test")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_mirror_that_is_down_is_passed_over(tmp_path):
    with Mirror() as mirror:
        mnist.fetch_mnist(tmp_path, [down(), mirror.url])
    mnist.check_mnist(tmp_path)


def test_a_cut_transfer_is_resumed(tmp_path):
    with Mirror(cut=7000) as mirror:
        mnist.fetch_mnist(tmp_path, [mirror.url])
        asked = [ranges for name, ranges in mirror.requests if name == "train-images-idx3-ubyte.gz"]
    assert asked[0] is None
    assert len(asked) == 2
    assert 0 < int(asked[1][len("bytes=") : -1]) <= 7000
    mnist.check_mnist(tmp_path)


def test_an_interrupted_download_is_resumed_later(tmp_path):
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / f"{name}.part").write_bytes(gzip.compress(FILES[name.removesuffix(".gz")], mtime=0)[:20])
    with Mirror() as mirror:
        mnist.fetch_mnist(tmp_path, [mirror.url])
        assert mirror.requests[0] == (name, "bytes=20-")
    mnist.check_mnist(tmp_path)


@pytest.mark.parametrize(("ranges", "size"), [(False, 20), (True, 50000)])
def test_a_server_that_cannot_resume_sends_everything_anew(tmp_path, ranges, size):
    (tmp_path / "train-images-idx3-ubyte.gz.part").write_bytes(b"x" * size)
    with Mirror(ranges=ranges) as mirror:
        mnist.fetch_mnist(tmp_path, [mirror.url])
    mnist.check_mnist(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    def damaged(content):
        return gzip.compress(gzip.decompress(content)[:-1] + b"?")

    with Mirror(damage=damaged) as mirror, pytest.raises(DataError) as error:
        mnist.fetch_mnist(tmp_path, [down(), mirror.url])
    assert "Connection refused" in str(error.value)
    assert "not MNIST's train-images-idx3-ubyte: the SHA256 of its content is" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_mirror_is_passed_over(tmp_path):
    with Mirror(damage=lambda content: content[:-1] + b"?") as damaged, Mirror() as good:
        mnist.fetch_mnist(tmp_path, [damaged.url, good.url])
    mnist.check_mnist(tmp_path)


def test_files_already_there(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    assert mnist.check_mnist(tmp_path) == tmp_path
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[::-1]))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: not MNIST's t10k-labels-idx1-ubyte"):
        mnist.check_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=f"folder {tmp_path}: no t10k-labels-idx1-ubyte"):
        mnist.read_mnist(tmp_path, "train")


def test_digits():
    train, test = read_digits("train"), read_digits("test")
    assert train[0].shape == (1442, 28, 28)
    assert test[0].shape == (355, 28, 28)
    for images, labels in (train, test):
        assert images.dtype == labels.dtype == np.uint8
        assert len(images) == len(labels)
        assert images.max() == 255
        assert not images[:, :4].any()
        assert not images[:, :, -4:].any()
        assert np.bincount(labels).min() > len(labels) / 11
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of the whole set, as published
    np.testing.assert_array_equal(np.bincount(train[1]) + np.bincount(test[1]), counts)
    assert not {image.tobytes() for image in train[0]} & {image.tobytes() for image in test[0]}
