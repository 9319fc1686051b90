"""Leaving out fast paths: by name, in a block or for a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minicaffe.kernels import fast_paths


def test_all_are_taken_unless_left_out():
    assert all(fast_paths.taken(name) for name in fast_paths.FAST_PATHS)
    with fast_paths.without("winograd", "fusion"):
        with fast_paths.without("rotated"):
            assert [n for n in fast_paths.FAST_PATHS if not fast_paths.taken(n)] == ["fusion", "rotated", "winograd"]
        assert fast_paths.taken("rotated") and not fast_paths.taken("winograd")
    assert all(fast_paths.taken(name) for name in fast_paths.FAST_PATHS)


def test_an_error_inside_the_block_changes_nothing():
    with pytest.raises(KeyError), fast_paths.without("winograd"):
        raise KeyError
    assert fast_paths.taken("winograd")


def test_an_unknown_name():
    with (
        pytest.raises(ValueError, match="no fast path is called winigrad; there are: .*winograd"),
        fast_paths.without("winigrad"),
    ):
        pass


def run(value: str) -> subprocess.CompletedProcess:
    code = "from minicaffe.kernels import fast_paths as f; print([n for n in f.FAST_PATHS if not f.taken(n)])"
    environment = {**os.environ, "MINICAFFE_WITHOUT": value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_the_environment_names_those_to_do_without():
    assert run("winograd, depthwise").stdout == "['depthwise', 'winograd']\n"
    assert run("").stdout == "[]\n"
    assert "no fast path is called fast" in run("fast").stderr
