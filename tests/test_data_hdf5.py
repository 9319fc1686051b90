"""HDF5 files are read in a process of their own: no file ends this one, is followed elsewhere, or takes what it claims."""

from __future__ import annotations

import os
import signal

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from minicaffe.data import hdf5
from minicaffe.errors import DataError, MinicaffeError, OutOfMemoryError


@pytest.fixture
def file(tmp_path):
    """A file of datasets of many kinds."""
    path = tmp_path / "a.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as made:
        made["plain"] = rng.standard_normal((50, 3, 4)).astype(np.float32)
        made["group/doubles"] = rng.standard_normal(7)
        made["scalar"] = np.int16(-3)
        made["none"] = np.zeros((0, 3))
        made["big_endian"] = np.arange(5, dtype=">i4")
        made["name"], made["fixed"] = "of any length", np.bytes_("fixed")
        made["soft"] = h5py.SoftLink("/group/doubles")
        for name, filters in FILTERS.items():
            made.create_dataset(name, data=rng.integers(0, 9, (200, 300)), chunks=(64, 64), **filters)
        made["passwd"] = h5py.ExternalLink("/etc/passwd", "/")
        made["away"] = h5py.SoftLink("/passwd/data")
        made.create_dataset("raw", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        made.create_virtual_dataset("virtual", layout)
        made.create_dataset("empty claim", (2**30,), "f4", chunks=(1024,))
        made.create_dataset("huge claim", (2**50,), "f4", chunks=(1024,))
    return path


FILTERS = {
    "gzip": {"compression": "gzip", "shuffle": True},
    "lzf": {"compression": "lzf"},
    "checked": {"fletcher32": True},
}


def test_values_are_those_of_h5py(file):
    names = ["plain", "group/doubles", "scalar", "none", "big_endian", "soft", *FILTERS]
    found = hdf5.read(file, names)
    with h5py.File(file) as direct:
        for name, values in zip(names, found, strict=True):
            expected = direct[name][()]
            assert values.dtype == expected.dtype, name
            np.testing.assert_array_equal(values, expected, strict=True)
    assert hdf5.read(file, ["name", "fixed"]) == [b"of any length", np.bytes_("fixed")]


def test_values_of_all_kinds_behind_a_user_block(tmp_path):
    """Some lie in the file as NumPy has them, others do not: integers of 24 bits, values beside the header or none."""
    path, names = tmp_path / "a.h5", ["f2", "f4", ">f8", "i1", ">u2", "?", "S3"]
    with h5py.File(path, "w", userblock_size=1024) as made:
        for name in names:
            made[name] = np.array([[1, 0, 2]]).astype(name)
        made.create_dataset("unwritten", (3,), "f4", fillvalue=2)
        short = h5t.STD_I32LE.copy()
        short.set_precision(24)
        short.set_offset(8)
        compact = h5p.create(h5p.DATASET_CREATE)
        compact.set_layout(h5d.COMPACT)
        for name, kind, properties in (("short", short, None), ("compact", h5t.NATIVE_INT32, compact)):
            dataset = h5d.create(made.id, name.encode(), kind, h5s.create_simple((2,)), properties)
            dataset.write(h5s.ALL, h5s.ALL, np.array([-7, 1 << 20], np.int32))
    names += ["unwritten", "short", "compact"]
    with h5py.File(path) as direct:
        for name, values in zip(names, hdf5.read(path, names), strict=True):
            np.testing.assert_array_equal(values, direct[name][()], strict=True)


def test_a_file_that_is_cut_while_it_is_read(tmp_path, monkeypatch):
    path, read = tmp_path / "a.h5", hdf5._read_from
    with h5py.File(path, "w") as made:
        made["x"] = np.arange(1000.0)

    def cut_and_read(path, place, target):
        os.truncate(path, place + 4000)
        read(path, place, target)

    monkeypatch.setattr(hdf5, "_read_from", cut_and_read)
    with pytest.raises(DataError, match=r"a\.h5: truncated, its values go on behind its end"):
        hdf5.read(path, ["x"])


def test_entries_are_all_that_is_in_the_file_itself(file):
    found = hdf5.entries(file)
    assert found["plain"] == ("<f4", (50, 3, 4))
    assert found["group"] == (None, None)
    assert found["group/doubles"].shape == (7,)
    assert not {"soft", "passwd", "away"} & set(found)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("passwd", "a link to another file, /etc/passwd, which is not followed"),
        ("passwd/data", "a link to another file"),
        ("away", "a link to another file"),
        ("raw", "keeps its values in other files"),
        ("virtual", "keeps its values in other files"),
        ("absent", "no dataset 'absent'; it has: .*plain"),
        ("group", "no dataset 'group'"),
        ("empty claim", "would be 4294967296 bytes, of which 0 are stored"),
        ("huge claim", "would be 4503599627370496 bytes"),
    ],
)
def test_what_is_refused(file, name, problem):
    with pytest.raises(DataError, match=rf"HDF5 file {file}: .*{problem}"):
        hdf5.read(file, [name])
    assert len(hdf5.read(file, ["plain"])) == 1


def test_values_that_do_not_fit_into_memory(file, monkeypatch):
    monkeypatch.setattr("minicaffe.limits.available", lambda: 100e6)
    with h5py.File(file, "a") as made:
        made["large"] = np.zeros(2**24)
    with pytest.raises(OutOfMemoryError, match=r"dataset 'large' of HDF5 file .* takes 128 MiB, 95\.4 MiB are free"):
        hdf5.read(file, ["large"])


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_no_hdf5_file(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DataError, match=rf"HDF5 file {tmp_path}/a.h5: "):
        hdf5.entries(tmp_path / "a.h5")
    with pytest.raises(DataError, match="no such file"):
        hdf5.entries(tmp_path / "b.h5")
    with pytest.raises(DataError, match="cannot read HDF5 file"):
        hdf5.entries(f"{tmp_path}/a\0.h5")


def test_a_file_that_ends_the_process_which_reads_it(file, monkeypatch):
    """As libhdf5 does for some damaged files."""

    def killed(self, request):
        os.kill(self._child.pid, signal.SIGSEGV)
        yield from ask(self, request)

    ask = hdf5._Process.ask
    with monkeypatch.context() as patch:
        patch.setattr(hdf5._Process, "ask", killed)
        with pytest.raises(DataError, match=r"damaged: reading it ended the process that did \(signal 11\)"):
            hdf5.entries(file)
    assert "plain" in hdf5.entries(file)


def test_a_file_that_is_read_for_ever(file, monkeypatch):
    def stopped(self, request):
        os.kill(self._child.pid, signal.SIGSTOP)
        yield from ask(self, request)

    ask = hdf5._Process.ask
    with monkeypatch.context() as patch:
        patch.setattr(hdf5._Process, "ask", stopped)
        patch.setattr(hdf5, "PATIENCE", 0.3)
        with pytest.raises(DataError, match="made no progress for 0 seconds, and was ended"):
            hdf5.entries(file)
    assert "plain" in hdf5.entries(file)


def test_damaged_files_give_values_or_an_error(file):
    content = file.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            hdf5.read(file, [*FILTERS, "plain"])
        except MinicaffeError as error:
            assert str(file) in str(error)
