"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys

import pytest
from kills import killed_at_each_step

from minicaffe.errors import SnapshotError
from minicaffe.proto import atomic
from minicaffe.proto.atomic import (
    atomic_path,
    name_beside,
    new_folder,
    put_folder,
    remove_leftovers,
    write_atomic,
)


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


def replace_folder(path):
    """Put a new folder at ``path``."""
    folder = new_folder(path)
    for name in "ab":
        with open(os.path.join(folder, name), "w") as file:
            file.write("new")
    put_folder(folder, path, replace=True)


def content(folder):
    return {name: (folder / name).read_text() for name in os.listdir(folder)}


OLD, NEW = {"a": "old", "c": "old"}, {"a": "new", "b": "new"}


def old_folder(path):
    shutil.rmtree(path.parent, ignore_errors=True)
    path.mkdir(parents=True)
    for name in OLD:
        (path / name).write_text("old")


def test_a_killed_process_leaves_the_old_file_or_the_new_one_and_the_next_cleans_up(tmp_path):
    seen = set()
    (tmp_path / "a").write_bytes(b"old")
    for _ in killed_at_each_step(lambda: write_atomic(tmp_path / "a", b"new")):
        seen.add((tmp_path / "a").read_bytes())
        write_atomic(tmp_path / "b", b"next")
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert seen >= {b"old"}
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_killed_process_leaves_the_old_folder_or_the_new_one(tmp_path):
    path, steps = tmp_path / "db" / "train", []
    for step in killed_at_each_step(lambda: replace_folder(path), start=lambda: old_folder(path)):
        steps.append(content(path))
        remove_leftovers(path.parent)
        assert os.listdir(path.parent) == ["train"], step
    assert steps[0] == OLD and steps[-1] in (OLD, NEW) and all(found in (OLD, NEW) for found in steps)
    assert content(path) == NEW and os.listdir(path.parent) == ["train"]


def test_where_folders_cannot_change_places_in_one_step_the_next_process_repairs(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path, missing = tmp_path / "db" / "train", 0
    for step in killed_at_each_step(lambda: replace_folder(path), start=lambda: old_folder(path)):
        missing += not path.exists()
        remove_leftovers(path.parent)
        assert os.listdir(path.parent) == ["train"], step
        assert content(path) in (OLD, NEW)
    assert missing == 1
    assert content(path) == NEW and os.listdir(path.parent) == ["train"]


def test_a_failing_second_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "db" / "train"
    path.mkdir(parents=True)
    (path / "a").write_text("old")
    rename = os.rename
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", lambda one, other: rename(one if ".tmp" not in one else "nowhere", other))
    with pytest.raises(OSError):
        replace_folder(path)
    assert content(path) == {"a": "old"}


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    old_folder(tmp_path / "disk" / "train")
    (tmp_path / "train").symlink_to("disk/train")
    replace_folder(tmp_path / "train")
    assert (tmp_path / "train").is_symlink() and content(tmp_path / "train") == NEW
    assert os.listdir(tmp_path / "disk") == ["train"]


def test_what_living_processes_write_is_left_alone(tmp_path):
    code = (
        "import sys; from minicaffe.proto.atomic import name_beside, new_folder\n"
        "open(name_beside(sys.argv[1] + '/a'), 'w').close(); new_folder(sys.argv[1] + '/b'); print(flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    open(name_beside(str(tmp_path / "c")), "w").close()
    write_atomic(tmp_path / "d", b"")
    assert len(os.listdir(tmp_path)) == 4
    other.kill()
    other.wait()
    write_atomic(tmp_path / "d", b"")
    assert len(os.listdir(tmp_path)) == 2


def test_a_process_that_got_the_number_of_one_that_ended_does_not_count_as_it(tmp_path):
    name = os.path.basename(name_beside(str(tmp_path / "a")))
    number, start = name.split("-")[1:3]
    (tmp_path / name.replace(f"-{number}-{start}-", f"-{number}-1-")).write_text("")
    (tmp_path / name).write_text("")
    (tmp_path / ".a.00000000-1-1-00000000.tmp").write_text("of another machine")
    (tmp_path / ".mine.tmp").write_text("")
    remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([name, ".a.00000000-1-1-00000000.tmp", ".mine.tmp"])


def test_a_long_name_in_any_script(tmp_path):
    name = "ü" * 125
    write_atomic(tmp_path / name, b"new")
    assert os.listdir(tmp_path) == [name]
