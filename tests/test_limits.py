"""Memory is compared with what there is before it is taken, by files and by definitions."""

from __future__ import annotations

import gzip
import io
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import minicaffe
from minicaffe import limits, testing
from minicaffe.data.idx import read_idx
from minicaffe.data.image import MOST_PIXELS, decode_image
from minicaffe.errors import DataError, OutOfMemoryError, PrototxtError, ShapeError
from minicaffe.proto import text
from minicaffe.proto.files import read_net


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(limits, "available", lambda: 100e6)


def test_available_memory_follows_the_limit_of_the_address_space():
    code = "from minicaffe import limits; print(limits.available())"
    free = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < free < float("inf")
    limited = subprocess.run(
        [sys.executable, "-c", f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, -1)); {code}"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert 0 <= float(limited.stdout) < 2 << 30


@pytest.mark.parametrize(
    ("size", "words"), [(3, "3 bytes"), (2048, "2 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**42, "4.1e+03 GiB")]
)
def test_amounts(size, words):
    assert limits.amount(size) == words


@pytest.mark.parametrize(
    ("kind", "bottom", "fields"),
    [
        ("InnerProduct", (2, 3), {"num_output": 2**31 - 1}),
        ("Convolution", (1, 3, 4, 4), {"num_output": 2**31 - 1, "kernel_size": 3}),
        ("Tile", (1, 3), {"tiles": 2**31 - 1}),
        ("DummyData", None, {"shape": {"dim": [2**31]}}),
    ],
)
def test_layers_that_ask_for_more_than_there_is(little_memory, kind, bottom, fields):
    with pytest.raises(
        OutOfMemoryError, match=rf"^not enough memory: layer '{kind}' \({kind}\): .* GiB, 95\.4 MiB are free"
    ):
        testing.run(kind, [] if bottom is None else [np.zeros(bottom)], **fields)


@pytest.mark.parametrize("dims", [[2**62], [2**40, 2**40], [2**63 - 1, 2**63 - 1]])
def test_shapes_that_no_memory_holds(dims):
    with pytest.raises(ShapeError, match=r"layer 'DummyData' \(DummyData\): a blob of shape .*which no memory holds"):
        testing.run("DummyData", shape={"dim": dims})


def test_batches_that_do_not_fit(little_memory, tmp_path):
    from minicaffe.data.write import write_images

    write_images(tmp_path / "db", np.zeros((3, 5, 5), np.uint8), np.arange(3))
    for fields in ("batch_size: 10000000", "batch_size: 2 prefetch: 4000000000"):
        with pytest.raises(OutOfMemoryError, match=r"layer 'd' \(Data\).*use a smaller batch_size or prefetch"):
            minicaffe.Net(
                text.parse(
                    f'layer {{ name: "d" type: "Data" top: "x" data_param {{ source: "{tmp_path}/db" backend: LMDB {fields} }} }}',
                    minicaffe.proto.NetParameter(),
                ),
                minicaffe.TRAIN,
            )


def peak() -> int:
    """Bytes that this process had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("claimed", "problem"), [(10, "but more than 73375 follow"), (10**7, "files of up to 1073741824 bytes")]
)
def test_a_small_idx_file_of_much_content(tmp_path, claimed, problem):
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4I", 2051, claimed, 28, 28))
        for _ in range(50):
            file.write(bytes(10_000_000))
    before = peak()
    with pytest.raises(DataError, match=problem):
        read_idx(path, 3)
    assert peak() - before < 100e6


def test_a_small_image_of_many_pixels():
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    assert MOST_PIXELS < 9000 * 9000
    before = peak()
    with pytest.raises(DataError, match=f"an image of 9000 x 9000 pixels; up to {MOST_PIXELS} are decoded"):
        decode_image(stream.getvalue())
    assert peak() - before < 50e6


def test_image_formats_that_start_programs_are_not_read():
    with pytest.raises(DataError, match="not an image of a known format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


@pytest.mark.parametrize(
    "content", ['name: "' + "a" * 2_000_000 + '"', " " * 500_000, 'name: "' + "\\a" * 200_000 + '"']
)
def test_long_words_of_a_prototxt(tmp_path, content):
    path = tmp_path / "net.prototxt"
    path.write_text(content)
    before = peak()
    read_net(path)[1].of("no such layer")
    assert peak() - before < 200e6


def test_a_prototxt_that_is_too_large(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("#" * (text.LARGEST + 1))
    with pytest.raises(PrototxtError, match="net.prototxt has more than 8388608 bytes"):
        read_net(path)
    with pytest.raises(PrototxtError, match="zero has more than"):
        read_net("/dev/zero")


def test_an_error_shows_a_part_of_a_long_line():
    with pytest.raises(PrototxtError) as caught:
        text.parse("x" * 100_000 + " { }", minicaffe.proto.NetParameter())
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("path", ["/dev/zero", "fifo", "a\0b", "/"])
def test_what_is_no_regular_file(in_folder, tmp_path, path):
    in_folder(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(OSError, match="regular file|null byte|directory") as caught:
        limits.read_file(path)
    assert caught.value.strerror
