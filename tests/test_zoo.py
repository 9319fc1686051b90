"""Weights of Caffe's model zoo, from a web server on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
from cli_case import run

WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model's folder, whose weights a server has; called with fields of the front matter to change."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "net.caffemodel").write_bytes(WEIGHTS)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()

        def make(**changes):
            fields = {
                "name": "A net", "caffemodel": "net.caffemodel", "sha1": hashlib.sha1(WEIGHTS).hexdigest(),
                "caffemodel_url": f"http://127.0.0.1:{web.server_port}/net.caffemodel", **changes,
            }  # fmt: skip
            lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
            Path("model").mkdir(exist_ok=True)
            Path("model/readme.md").write_text("\n".join(["---", *lines, "---", "", "sha1: of no account"]))

        yield make
        web.shutdown()
        thread.join()


def test_the_weights_are_brought_and_not_again(capsys, model):
    model()
    first, second = (run(capsys, "download_model", "model") for _ in range(2))
    assert (first.status, first.out) == (0, "model/net.caffemodel: downloaded, its SHA-1 is right\n")
    assert (second.status, second.out) == (0, "Model already exists.\n")
    assert Path("model/net.caffemodel").read_bytes() == WEIGHTS


def test_a_file_that_is_another_is_replaced(capsys, model):
    model()
    Path("model/net.caffemodel").write_bytes(b"old")
    assert run(capsys, "download_model", "model").status == 0
    assert Path("model/net.caffemodel").read_bytes() == WEIGHTS


def test_a_wrong_file_is_not_kept(capsys, model):
    model(sha1="0" * 40)
    outcome = run(capsys, "download_model", "model")
    assert outcome.status == 1 and "the model did not download correctly: its SHA-1 is" in outcome.err
    assert [path.name for path in Path("model").iterdir()] == ["readme.md"]


@pytest.mark.parametrize("changes, message", [
    ({"sha1": None}, "its front matter lacks sha1"),
    ({"caffemodel_url": ""}, "its front matter lacks caffemodel_url"),
    ({"caffemodel": "../net.caffemodel"}, "caffemodel must be a file's name"),
    ({"caffemodel_url": "http://127.0.0.1:9/x"}, "net.caffemodel could not be downloaded"),
])  # fmt: skip
def test_what_is_wrong_with_a_readme(capsys, model, changes, message):
    model(**changes)
    outcome = run(capsys, "download_model", "model")
    assert outcome.status == 1 and message in outcome.errors[0]
    assert not Path("net.caffemodel").exists()


def test_folders_that_are_no_models(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Must be valid Caffe model directory" in run(capsys, "download_model", "none").errors[0]
    Path("readme.md").write_text("# A net\n")
    assert "no front matter" in run(capsys, "download_model", ".").errors[0]
