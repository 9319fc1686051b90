"""Databases: what is written is read back, and everything that can be wrong with one is said."""

from __future__ import annotations

import gc
import logging
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minicaffe.data.db import backend_of, open_db
from minicaffe.data.leveldb_store import LevelDbWriter
from minicaffe.data.lmdb_store import LmdbWriter
from minicaffe.errors import DataError

FORMATS = Path(__file__).parent / "golden" / "formats"
RECORDS = [(b"b", b"two"), (b"a", b"one"), (b"c", b"three")]

backends = pytest.mark.parametrize("backend", ["lmdb", "leveldb"])


def write(path, backend, records=RECORDS, mode="new"):
    with open_db(path, backend, mode) as database:
        for key, value in records:
            database.put(key, value)


def read(path, backend):
    with open_db(path, backend) as database:
        records, found = [], database.seek_to_first()
        while found:
            records.append(database.item())
            found = database.next()
        return records


def content(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path(folder).iterdir()}


@backends
def test_records_come_in_key_order(tmp_path, backend):
    write(tmp_path / "db", backend)
    assert read(tmp_path / "db", backend) == sorted(RECORDS)
    assert backend_of(tmp_path / "db") == backend


@backends
def test_seek_finds_exactly_a_key(tmp_path, backend):
    write(tmp_path / "db", backend)
    with open_db(tmp_path / "db", backend) as database:
        assert database.seek(b"b")
        assert database.item() == (b"b", b"two")
        assert not database.seek(b"bb")
        assert database.count() == (3 if backend == "lmdb" else None)


@backends
def test_two_readers_of_one_database_are_independent(tmp_path, backend):
    write(tmp_path / "db", backend)
    with open_db(tmp_path / "db", backend) as one, open_db(tmp_path / "db", backend) as other:
        one.seek_to_first()
        other.seek_to_first()
        one.next()
        assert (one.item()[0], other.item()[0]) == (b"b", b"a")


@pytest.mark.parametrize("name", ["db_raw_lmdb", "db_raw_leveldb", "db_fresh_leveldb"])
def test_reading_changes_nothing_in_the_folder(tmp_path, name):
    folder = shutil.copytree(FORMATS / name, tmp_path / name)
    before = content(folder)
    assert len(read(folder, name.rsplit("_", 1)[1])) == 20
    assert content(folder) == before


def test_leveldb_of_caffe_holds_the_records_of_the_lmdb():
    expected = read(FORMATS / "db_raw_lmdb", "lmdb")
    assert read(FORMATS / "db_raw_leveldb", "leveldb") == expected
    assert read(FORMATS / "db_fresh_leveldb", "leveldb") == expected


def test_lmdb_grows_beyond_its_first_map(tmp_path):
    values = np.random.default_rng(1).bytes(30 << 20)
    records = [(b"%04d" % n, values[n << 16 : n + 1 << 16]) for n in range(480)]
    write(tmp_path / "db", "lmdb", records)
    assert read(tmp_path / "db", "lmdb") == records


@backends
def test_more_records_than_a_commit_holds(tmp_path, backend):
    records = [(b"%05d" % n, b"%d" % n) for n in range(2500)]
    write(tmp_path / "db", backend, records)
    assert read(tmp_path / "db", backend) == records


@backends
def test_an_existing_database_is_not_touched(tmp_path, backend):
    write(tmp_path / "db", backend)
    before = content(tmp_path / "db")
    with pytest.raises(DataError, match="exists already"):
        open_db(tmp_path / "db", backend, "new")
    assert content(tmp_path / "db") == before


@backends
def test_replace_puts_the_new_database_in_place(tmp_path, backend):
    write(tmp_path / "db", backend)
    write(tmp_path / "db", backend, [(b"x", b"new")], "replace")
    assert read(tmp_path / "db", backend) == [(b"x", b"new")]
    assert [file.name for file in tmp_path.iterdir()] == ["db"]


@backends
def test_a_reader_keeps_the_database_that_it_opened(tmp_path, backend):
    write(tmp_path / "db", backend)
    with open_db(tmp_path / "db", backend) as old:
        write(tmp_path / "db", backend, [(b"x", b"new")], "replace")
        assert old.seek_to_first()
        assert old.item() == (b"a", b"one")
        assert read(tmp_path / "db", backend) == [(b"x", b"new")]


def test_replace_refuses_a_folder_that_is_no_database(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="is no database"):
        open_db(tmp_path, "lmdb", "replace")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@backends
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_database_that_cannot_even_be_begun_leaves_nothing_behind(tmp_path, backend, error, monkeypatch):
    cls = {"lmdb": LmdbWriter, "leveldb": LevelDbWriter}[backend]

    def fail(self):
        assert list(tmp_path.iterdir())
        raise error

    monkeypatch.setattr(cls, "_create", fail)
    with pytest.raises((KeyboardInterrupt, DataError)):
        open_db(tmp_path / "db", backend, "new")
    gc.collect()
    assert not list(tmp_path.iterdir())


@backends
def test_a_writer_that_is_given_up_leaves_nothing_behind(tmp_path, backend):
    database = open_db(tmp_path / "db", backend, "new")
    database.put(*RECORDS[0])
    assert list(tmp_path.iterdir())
    del database
    gc.collect()
    assert not list(tmp_path.iterdir())


@backends
@pytest.mark.parametrize("mode", ["new", "replace"])
def test_an_error_while_writing_leaves_nothing_behind(tmp_path, backend, mode):
    if mode == "replace":
        write(tmp_path / "db", backend)
    with pytest.raises(ZeroDivisionError), open_db(tmp_path / "db", backend, mode) as database:
        database.put(b"k", b"v")
        database.commit()
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == (["db"] if mode == "replace" else [])
    if mode == "replace":
        assert read(tmp_path / "db", backend) == sorted(RECORDS)


@backends
def test_a_killed_writer_leaves_no_database(tmp_path, backend):
    script = (
        "import os, signal, sys; from minicaffe.data.db import open_db\n"
        "database = open_db(sys.argv[1], sys.argv[2], 'new')\n"
        "database.put(b'k', b'v'); database.commit(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "db"
    assert subprocess.run([sys.executable, "-c", script, path, backend], check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    write(path, backend)
    assert read(path, backend) == sorted(RECORDS)


@backends
def test_a_full_disk_is_reported(tmp_path, backend):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    value = np.random.default_rng(1).bytes(1 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    try:
        with pytest.raises(DataError, match=r"database .*db: writing record 1 failed \(.*free space"):
            write(tmp_path / "db", backend, [(b"k", value)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@backends
def test_missing(tmp_path, backend, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        open_db("examples/db", backend)
    text = str(error.value)
    assert str(tmp_path / "examples" / "db") in text
    assert f"relative to the working directory {tmp_path}" in text
    assert "minicaffe data" in text


@pytest.mark.parametrize(("name", "asked"), [("db_raw_lmdb", "LEVELDB"), ("db_raw_leveldb", "LMDB")])
def test_the_other_backend_is_read_as_what_it_is(name, asked, caplog):
    caplog.set_level(logging.INFO)
    assert read(FORMATS / name, asked)
    (line,) = caplog.messages
    assert read(FORMATS / name, asked) == read(FORMATS / name, name.rsplit("_", 1)[1])
    assert str(FORMATS / name) in line
    assert "it is read as what it is" in line


@pytest.mark.parametrize(("there", "asked"), [("lmdb", "leveldb"), ("leveldb", "lmdb")])
def test_the_same_data_under_the_name_of_the_other_backend(tmp_path, monkeypatch, caplog, there, asked):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / f"train_{there}", there, [(b"k", b"v")])
    caplog.set_level(logging.INFO)
    assert read(f"train_{asked}", asked) == [(b"k", b"v")]
    assert caplog.messages == [f"{tmp_path}/train_{asked} is not there; {tmp_path}/train_{there} is read in its stead"]
    (tmp_path / f"train_{asked}").mkdir()
    with pytest.raises(DataError, match=f"train_{asked}: an empty folder"):  # what is there is what is meant
        open_db(f"train_{asked}", asked)


def test_the_file_instead_of_its_folder():
    with pytest.raises(DataError, match=f"a file.*give its folder: {FORMATS / 'db_raw_lmdb'}"):
        open_db(FORMATS / "db_raw_lmdb" / "data.mdb", "lmdb")


def test_an_empty_source():
    with pytest.raises(DataError, match="source is empty"):
        open_db("", "lmdb")


def test_an_unknown_backend(tmp_path):
    with pytest.raises(DataError, match="unknown database backend 'hdf5': choose lmdb or leveldb"):
        open_db(tmp_path, "hdf5")


@backends
def test_a_folder_without_a_database(tmp_path, backend):
    with pytest.raises(DataError, match="an empty folder, not a database"):
        open_db(tmp_path, backend)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="a folder without (data.mdb|CURRENT), not a database"):
        open_db(tmp_path, backend)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@backends
def test_no_permission(tmp_path, backend):
    write(tmp_path / "db", backend)
    (tmp_path / "db").chmod(0)
    try:
        with pytest.raises(DataError, match="permission denied"):
            open_db(tmp_path / "db", backend)
    finally:
        (tmp_path / "db").chmod(0o755)


@pytest.mark.parametrize(
    ("size", "message"), [(0, "not an LMDB file"), (100, "not an LMDB file"), (4096, "truncated"), (20480, "truncated")]
)
def test_a_truncated_lmdb(tmp_path, size, message):
    folder = shutil.copytree(FORMATS / "db_raw_lmdb", tmp_path / "db")
    os.truncate(folder / "data.mdb", size)
    with pytest.raises(DataError, match=rf"{folder}/data.mdb: {message}"):
        open_db(folder, "lmdb")


READ = """
import sys
from minicaffe.data.db import open_db
from minicaffe.errors import DataError
try:
    with open_db(sys.argv[1], "lmdb") as database:
        found = database.seek_to_first()
        while found:
            sum(database.item()[1])
            found = database.next()
        database.seek(b"0150")
except DataError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """An LMDB file of 300 records, some of them on pages of their own, and its pages by kind."""
    folder = tmp_path_factory.mktemp("tree") / "db"
    values = np.random.default_rng(2)
    write(folder, "lmdb", [(b"%04d" % n, values.bytes(9000 if n % 100 == 50 else 800)) for n in range(300)])
    content = (folder / "data.mdb").read_bytes()
    kinds = {}
    for page in range(2, len(content) // 4096):
        number, kind = struct.unpack_from("=QxxH", content, page * 4096)
        if number == page and kind in (1, 2):
            kinds.setdefault(kind, []).append(page)
    meta = max((struct.unpack_from("=QQQ", content, page * 4096 + 128)[::-1], page) for page in (0, 1))
    root, last_leaf = meta[0][2], kinds[2][-1]
    # records were added in order: the leaf in the middle was split off long before the end, and is still in use
    return content, {"meta": meta[1], "root": root, "leaf": kinds[2][len(kinds[2]) // 2], "last leaf": last_leaf}


def zeroed(page):
    page[:] = bytes(4096)


def scrambled(page):
    page[:] = np.random.default_rng(3).bytes(4096)


def half_zeroed(page):
    page[2048:] = bytes(2048)


def long_values(page):
    """Its records claim to be of 4 GB."""
    for place in struct.unpack_from(f"={(struct.unpack_from('=H', page, 12)[0] - 16) // 2}H", page, 16):
        struct.pack_into("=HH", page, place, 0xFFFF, 0xFFFF)


def of_another_kind(page):
    page[10] ^= 3


@pytest.mark.parametrize(("kind", "damage"), [
    *((kind, damage) for kind in ("meta", "root", "leaf", "last leaf") for damage in (zeroed, scrambled)),
    ("root", half_zeroed), ("leaf", half_zeroed), ("root", of_another_kind), ("leaf", of_another_kind), ("leaf", long_values),
])  # fmt: skip
def test_a_damaged_page_of_an_lmdb_is_an_error_and_no_crash(tmp_path, tree, kind, damage):
    content, pages = tree
    file, start = bytearray(content), 4096 * pages[kind]
    page = file[start : start + 4096]
    damage(page)
    file[start : start + 4096] = page
    (tmp_path / "data.mdb").write_bytes(file)
    child = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith(f"lmdb database {tmp_path}")
    assert "rebuild it" in child.stdout or "build the database again" in child.stdout


def test_an_undamaged_lmdb_is_read_through_its_pages(tmp_path, tree):
    (tmp_path / "data.mdb").write_bytes(tree[0])
    assert [key for key, _ in read(tmp_path, "lmdb")] == [b"%04d" % n for n in range(300)]
    with open_db(tmp_path, "lmdb") as database:
        for n in (0, 299, 150, 50, 7):
            assert database.seek(b"%04d" % n)
            assert database.item()[0] == b"%04d" % n
        assert database.seek(b"0297")
        assert [database.next() for _ in range(3)] == [True, True, False]


CUT_SHORT = """
import os, sys
from minicaffe.data.db import open_db
from minicaffe.errors import DataError
folder, backend, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_db(folder, backend) as database:
    database.seek_to_first()
    database.next()
    for name in os.listdir(folder):
        if name.endswith((".mdb", ".ldb", ".sst")):
            os.truncate(os.path.join(folder, name), size)
    try:
        while database.next():
            database.item()
        print("read to the end")
    except DataError as error:
        print(error)
"""


@pytest.mark.parametrize("size", [0, 8192, 100_000])
@backends
def test_a_database_that_is_cut_short_while_it_is_read(tmp_path, backend, size):
    """A mapped file would end the process with a bus error."""
    values = np.random.default_rng(2)
    write(tmp_path / "db", backend, [(b"%04d" % n, values.bytes(9000 if n % 100 == 50 else 800)) for n in range(300)])
    child = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, tmp_path / "db", backend, str(size)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, "")
    expected = "the database is damaged" if backend == "lmdb" else "read to the end"  # LevelDB's tables are copied
    assert expected in child.stdout


def test_an_lmdb_whose_branches_lead_in_a_circle(tmp_path, tree):
    content, pages = tree
    file, root = bytearray(content), pages["root"]
    first, second = struct.unpack_from("=HH", file, 4096 * root + 16)
    node = file[4096 * root + first : 4096 * root + first + 6]
    file[4096 * root + second : 4096 * root + second + 6] = node  # the second child is the first one again
    (tmp_path / "data.mdb").write_bytes(file)
    with open_db(tmp_path, "lmdb") as database, pytest.raises(DataError, match=r"key that comes before it.*damaged"):
        found = database.seek_to_first()
        while found:
            found = database.next()


def test_an_lmdb_file_of_something_else(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database " * 1000)
    with pytest.raises(DataError, match="not an LMDB file"):
        open_db(tmp_path, "lmdb")


@pytest.mark.parametrize("name", ["db_raw_leveldb", "db_fresh_leveldb"])
def test_a_damaged_leveldb_is_not_read_as_a_shorter_one(tmp_path, name):
    folder = shutil.copytree(FORMATS / name, tmp_path / "db")
    largest = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    largest.write_bytes(damaged)
    with pytest.raises(DataError, match=f"leveldb database {folder}: reading failed .*the database is damaged"):
        read(folder, "leveldb")


def test_a_leveldb_without_its_table(tmp_path):
    folder = shutil.copytree(FORMATS / "db_raw_leveldb", tmp_path / "db")
    next(folder.glob("*.ldb")).unlink()
    with pytest.raises(DataError, match="reading failed .*the database is damaged"):
        open_db(folder, "leveldb")


def test_a_leveldb_that_another_process_writes(tmp_path):
    script = (
        "import sys; from minicaffe import compat\n"
        "database = compat.leveldb().DB(sys.argv[1], create_if_missing=True)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, tmp_path / "db"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(DataError, match="in use by another process"):
            open_db(tmp_path / "db", "leveldb")
        writer.communicate()


def test_temporary_folders_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    database = open_db(FORMATS / "db_raw_leveldb", "leveldb")
    assert len(list(tmp_path.iterdir())) == 1
    database.close()
    database.close()
    assert not list(tmp_path.iterdir())


@backends
def test_too_many_open_files_are_no_damage(tmp_path, backend):
    write(tmp_path / "db", backend, [(b"a", b"b")])
    code = """
import os, resource, sys
from minicaffe.data.db import open_db
from minicaffe.errors import DataError
open_db(sys.argv[1], sys.argv[2]).close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    open_db(sys.argv[1], sys.argv[2])
except DataError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, tmp_path / "db", backend]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Too many open files" in child.stdout
    assert "raise the limit (ulimit -n)" in child.stdout
    assert "damaged" not in child.stdout


@backends
def test_a_name_with_a_null_byte(tmp_path, backend):
    for mode in ("read", "new"):
        with pytest.raises(DataError, match="a name with a null byte"):
            open_db(f"{tmp_path}/a\0b", backend, mode)


def test_a_full_disk_is_no_input_output_error(tmp_path, monkeypatch):
    monkeypatch.setattr("minicaffe.data.store._free_space", lambda path: 0)
    with (
        pytest.raises(DataError, match=r"writing record 1 failed \(No space left on device\)"),
        open_db(tmp_path / "db", "lmdb", "new") as database,
    ):
        database.put(b"a", b"b")
        raise database.failed(OSError("mdb_txn_commit: Input/output error"))
