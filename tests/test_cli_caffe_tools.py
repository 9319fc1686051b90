"""Caffe's tools that convert and upgrade, against what Caffe's own wrote (golden/upgrade, golden/formats, golden/pyapi)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_case import run
from PIL import Image

from minicaffe import proto
from minicaffe.data.datum import parse, to_array
from minicaffe.data.db import backend_of, open_db
from minicaffe.proto import text
from minicaffe.proto.files import read_binary

GOLDEN = Path(__file__).parent / "golden"
UPGRADES = sorted(path.name.removesuffix(".in.prototxt") for path in (GOLDEN / "upgrade").glob("*.in.prototxt"))


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def records(path) -> list[tuple[bytes, bytes]]:
    found = []
    with open_db(path, backend_of(path)) as database:
        more = database.seek_to_first()
        while more:
            found.append(database.item())
            more = database.next()
    return found


# --- upgrades ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", UPGRADES)
def test_a_prototxt_is_upgraded_as_by_caffes_tool(capsys, case):
    kind = "solver" if case.startswith("solver") else "net"
    shutil.copy(GOLDEN / "upgrade" / f"{case}.in.prototxt", ".")
    outcome = run(capsys, f"upgrade_{kind}_proto_text", f"{case}.in.prototxt", "out.prototxt")
    expected = GOLDEN / "upgrade" / f"{case}.out.prototxt"
    log = (GOLDEN / "upgrade" / f"{case}.out.prototxt.log").read_text()
    if not expected.exists():
        assert "[exit status -6]" in log and outcome.status == 1 and outcome.errors
        assert not Path("out.prototxt").exists()
        return
    message = proto.SolverParameter if kind == "solver" else proto.NetParameter
    assert text.read_text("out.prototxt", message) == text.read_text(expected, message)
    assert outcome.status == int(re.findall(r"\[exit status (-?\d+)\]", log)[0])
    theirs = [line.partition("] ")[2] for line in log.splitlines() if line[:1] in "IWE" and "] " in line]
    assert outcome.messages == [
        line.replace("./build/tools/", "").replace(f"to {case}.out.prototxt", "to out.prototxt") for line in theirs
    ]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_binary_model_is_upgraded_as_by_caffes_tool(capsys, version):
    outcome = run(
        capsys, "upgrade_net_proto_binary", GOLDEN / "upgrade" / f"{version}_model.in.caffemodel", "new.caffemodel"
    )
    assert outcome.status == 0
    expected = read_binary(GOLDEN / "upgrade" / f"{version}_model.out.caffemodel", proto.NetParameter)
    assert read_binary("new.caffemodel", proto.NetParameter) == expected


def test_a_new_file_is_said_to_be_new_and_written_all_the_same(capsys):
    Path("net.prototxt").write_text('layer { name: "a" type: "ReLU" bottom: "x" top: "a" }\n')
    outcome = run(capsys, "upgrade_net_proto_text", "net.prototxt", "out.prototxt")
    assert outcome.status == 0 and "File already in latest proto format: net.prototxt" in outcome.messages
    assert text.read_text("out.prototxt", proto.NetParameter).layer[0].name == "a"


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, expected", [
    ([], "db_raw_lmdb"),
    (["--backend=leveldb"], "db_raw_leveldb"),
    (["-gray"], "db_gray_lmdb"),
    (["-resize_height=8", "-resize_width=9"], "db_resize_lmdb"),
    (["-encoded", "-check_size"], "db_enc_lmdb"),
])  # fmt: skip
def test_a_database_of_images_is_caffes_byte_for_byte(capsys, flags, expected):
    if "leveldb" in expected:
        pytest.importorskip("plyvel")
    folder = GOLDEN / "formats"
    outcome = run(capsys, "convert_imageset", *flags, f"{folder}/images/", folder / "list.txt", "db")
    assert outcome.status == 0
    assert outcome.out.startswith("db (") and "20 images: 7 of label 0, 7 of label 1, 6 of label 2" in outcome.out
    assert {"A total of 20 images.", "Processed 20 files."} <= set(outcome.messages)
    assert records("db") == records(folder / expected)


def test_encoded_images_hold_caffes_pixels(capsys):
    folder = GOLDEN / "formats"
    flags = ["-resize_height=16", "-resize_width=16", "-encode_type=jpg"]
    outcome = run(capsys, "convert_imageset", *flags, f"{folder}/images/", folder / "list.txt", "db")
    assert "encode_type specified, assuming encoded=true." in outcome.messages
    ours, theirs = records("db"), records(folder / "db_jpg_lmdb")
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        assert parse(a).encoded and parse(a).label == parse(b).label
        np.testing.assert_array_equal(to_array(parse(a)), to_array(parse(b)))


def write_images(folder: Path, **sizes: tuple[int, int]) -> None:
    """A PNG of noise of each given (height, width)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.png")


def test_what_cannot_be_read_is_named_and_left_out(capsys):
    write_images(Path("images"), a=(4, 5), b=(4, 5))
    Path("images/list.txt").write_text("a.png 3\nnone.png 1\nb.png 0\n")
    outcome = run(capsys, "convert_imageset", "images/", "images/list.txt", "db")
    assert outcome.status == 0 and "1 could not be read and were left out" in outcome.out
    assert any("Could not open or find file images/none.png" in message for message in outcome.messages)
    assert [key for key, _ in records("db")] == [b"00000000_a.png", b"00000002_b.png"]


def test_no_database_is_made_of_no_image(capsys):
    Path("list.txt").write_text("none.png 1\n")
    outcome = run(capsys, "convert_imageset", "./", "list.txt", "db")
    assert outcome.status == 1 and "not one of 1 images could be read" in outcome.errors[0]
    assert not Path("db").exists()


def test_a_list_of_several_labels_taken_for_one_of_fewer(capsys):
    write_images(Path("images"), a=(4, 5))
    Path("list.txt").write_text("a.png 3 0.5 -1e-2\n")
    outcome = run(capsys, "convert_imageset", "images/", "list.txt", "db")
    assert outcome.status == 1 and "'a.png 3 0.5' ends in a number: tell how many --labels" in outcome.errors[0]


@pytest.mark.parametrize("flags", [[], ["-encoded"]])
def test_the_size_is_checked_on_request(capsys, flags):
    write_images(Path("images"), a=(4, 5), b=(4, 6))
    Path("images/list.txt").write_text("a.png 0\nb.png 0\n")
    args = ["convert_imageset", *flags, "images/", "images/list.txt"]
    assert run(capsys, *args, "db").status == 0
    outcome = run(capsys, *args, "other", "-check_size")
    assert outcome.status == 1 and "b.png: its shape is (3, 4, 6)" in outcome.errors[0]


def test_shuffled_images_keep_their_labels(capsys):
    write_images(Path("images"), **{f"im{n}": (3, 3) for n in range(9)})
    Path("list.txt").write_text("".join(f"im{n}.png {n}\n" for n in range(9)))
    run(capsys, "convert_imageset", "-shuffle", "-seed=5", "images/", "list.txt", "db")
    labels = []
    for n, (key, value) in enumerate(records("db")):
        label = parse(value).label
        assert key == b"%08d_im%d.png" % (n, label)
        labels.append(label)
    assert labels != sorted(labels) and sorted(labels) == list(range(9))


def test_an_unknown_encoding_is_refused(capsys):
    write_images(Path("images"), a=(4, 5))
    Path("list.txt").write_text("a.png 0\n")
    outcome = run(capsys, "convert_imageset", "-encode_type=nosuch", "images/", "list.txt", "db")
    assert outcome.status == 1 and "cannot be encoded as 'nosuch'; set encode_type to png or jpg" in outcome.errors[0]


def test_folders_are_classes(capsys):
    write_images(Path("photos/dog"), x=(4, 4), y=(6, 4))
    write_images(Path("photos/cat"), z=(5, 5))
    outcome = run(capsys, "data", "images", "photos", "db", "-resize_height=4", "-resize_width=4")
    assert outcome.out.splitlines() == [
        "db (lmdb): 3 images: 1 of label 0, 2 of label 1", "label 0: cat", "label 1: dog",
    ]  # fmt: skip
    assert [(key, parse(value).label) for key, value in records("db")] == [
        (b"00000000_cat/z.png", 0), (b"00000001_dog/x.png", 1), (b"00000002_dog/y.png", 1),
    ]  # fmt: skip


def test_a_lists_paths_start_at_its_folder(capsys):
    write_images(Path("photos"), x=(4, 4))
    Path("photos/list.txt").write_text("x.png 7\n")
    assert (
        run(capsys, "data", "images", "photos/list.txt", "db", "--quiet").out == "db (lmdb): 1 images: 1 of label 7\n"
    )


def test_the_mean_image_is_caffes(capsys):
    outcome = run(
        capsys, "compute_image_mean", "-backend", "lmdb", GOLDEN / "formats" / "db_raw_lmdb", "mean.binaryproto"
    )
    assert outcome.out.splitlines()[1:] == [
        "mean_value channel [0]: 142.158", "mean_value channel [1]: 128.263", "mean_value channel [2]: 120.383",
    ]  # fmt: skip
    assert Path("mean.binaryproto").read_bytes() == (GOLDEN / "formats" / "mean.binaryproto").read_bytes()
    assert run(capsys, "compute_image_mean", GOLDEN / "formats" / "db_raw_lmdb").out.startswith("The mean of 20 images")


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_are_caffes(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(GOLDEN / "pyapi")
    outcome = run(
        capsys, "extract_features", "feat.caffemodel", "feat.prototxt", "conv,ip",
        f"{tmp_path}/conv,{tmp_path}/ip", 3, "lmdb", "CPU", 0,
    )  # fmt: skip
    assert outcome.status == 0
    assert "Extracted features of 21 query images for feature blob conv" in outcome.out
    for blob in ("conv", "ip"):
        ours, theirs = records(tmp_path / blob), records(f"feat_{blob}_lmdb")
        assert [key for key, _ in ours] == [key for key, _ in theirs]
        for (_, a), (_, b) in zip(ours, theirs, strict=True):
            assert not parse(a).HasField("label")
            np.testing.assert_allclose(to_array(parse(a)), to_array(parse(b)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blobs, databases, message", [
    ("conv", "a,b", "1 blobs (conv) but 2 databases (a,b)"),
    ("conv,conv", "a,b", "a blob is named twice"),
    ("nope", "a", "Unknown feature blob name nope in the network 'feat'; it has: data, label, conv, ip"),
])  # fmt: skip
def test_wrong_features(capsys, monkeypatch, blobs, databases, message):
    monkeypatch.chdir(GOLDEN / "pyapi")
    outcome = run(capsys, "extract_features", "feat.caffemodel", "feat.prototxt", blobs, databases, 1, "lmdb")
    assert outcome.status != 0 and message in outcome.errors[0]
    assert not Path("a").exists()


def test_images_with_several_labels(capsys):
    for i in range(3):
        Image.new("L", (5, 4), i).save(f"an image {i}.png")
    Path("list.txt").write_text("".join(f"an image {i}.png {i} {-i / 4}\n" for i in range(3)))
    for name, flags in (("raw", ()), ("encoded", ("--encoded",))):
        outcome = run(capsys, "convert_imageset", "--gray", "--labels", "2", *flags, "./", "list.txt", f"{name}_lmdb")
        assert outcome.status == 0
        found = [parse(value) for _, value in records(f"{name}_lmdb")]
        assert [list(datum.float_data) for datum in found] == [[0, 0], [1, -0.25], [2, -0.5]]
        assert [to_array(datum)[0, 0, 0] for datum in found] == [0, 1, 2]
    for line in ("an image 0.png 1", "an image 0.png 1 x", "an image 0.png 1 nan", ""):
        Path("odd.txt").write_text(f"an image 1.png 1 2\n{line}\n")
        outcome = run(capsys, "convert_imageset", "--labels", "2", "./", "odd.txt", "odd_lmdb")
        assert outcome.status == 1 and f"line 2: expected a path and 2 numbers; found '{line}'" in str(outcome)
        assert not Path("odd_lmdb").exists()


def test_labels_that_are_cut_are_told(capsys):
    Image.new("L", (5, 4)).save("a.png")
    Path("list.txt").write_text("a.png 1.0\na.png 0.25\na.png 0.5\n")
    outcome = run(capsys, "convert_imageset", "./", "list.txt", "db_lmdb")
    assert [parse(value).label for _, value in records("db_lmdb")] == [1, 0, 0]
    told = [line for line in outcome.messages if "is read as" in line]
    assert len(told) == 1 and "line 2: the label '0.25' is read as 0" in told[0] and "--labels 1" in told[0]
