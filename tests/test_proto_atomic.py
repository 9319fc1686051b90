"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
import stat

import pytest

from minicaffe.errors import SnapshotError
from minicaffe.proto.atomic import atomic_path, write_atomic


def test_new_file_is_written_with_the_users_usual_permissions(tmp_path):
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"new")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_old_file_is_replaced_also_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("a")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomic("a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_failing_writer_leaves_the_old_file_and_no_other(tmp_path, failure):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(failure), atomic_path(tmp_path / "a") as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half")
        raise failure
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_file_too_large_for_the_disk_leaves_the_old_one(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the system refuses the write, as it does on a full disk
    try:
        with pytest.raises(SnapshotError, match=r"cannot write .*/a: File too large"):
            write_atomic(tmp_path / "a", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_missing_folder_and_special_files_are_told(tmp_path):
    with pytest.raises(SnapshotError, match="the folder .*/no does not exist; create it first"):
        write_atomic(tmp_path / "no" / "a", b"new")
    with pytest.raises(SnapshotError, match="is not a regular file"):
        write_atomic(tmp_path, b"new")
    with pytest.raises(SnapshotError, match="is not a regular file"):
        write_atomic("/dev/null", b"new")
