"""Scripts of the shapes that people run on pycaffe, as they are but for the line that imports caffe.

They are in ``tests/scripts``, make their own data in the working folder, and end with a line that begins with "done".
"""

from __future__ import annotations

import logging
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != "voc_layers")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the scripts, and nothing left of what they import."""
    shutil.copytree(SCRIPTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = {path.stem for path in SCRIPTS.glob("*.py")}
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("MINICAFFE_GPU_FALLBACK", "0")  # so that what a script sets is undone
    logger = logging.getLogger("minicaffe")
    handlers, level = list(logger.handlers), logger.level
    yield tmp_path
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name in [name for name in sys.modules if name.partition(".")[0] in (own | {"caffe"})]:
        del sys.modules[name]


def run_here(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].startswith("done: ")


@pytest.mark.parametrize("name", NAMES)
def test_scripts_run_with_minicaffe_imported_in_the_place_of_caffe(name, folder, capsys, monkeypatch):
    for path in folder.glob("*.py"):
        text = re.sub(r"^import caffe$", "import minicaffe as caffe", path.read_text(), flags=re.MULTILINE)
        path.write_text(re.sub(r"^from caffe\b", "from minicaffe", text, flags=re.MULTILINE))
    run_here(folder / f"{name}.py", capsys, monkeypatch)
    assert "caffe" not in sys.modules


@pytest.mark.parametrize("name", NAMES)
def test_scripts_run_as_they_are_once_minicaffe_is_installed_as_caffe(name, folder, capsys, monkeypatch):
    import minicaffe

    minicaffe.install_as_caffe()
    run_here(folder / f"{name}.py", capsys, monkeypatch)
    assert sys.modules["caffe"] is minicaffe


@pytest.mark.parametrize("name", ["fcn", "multilabel"])
def test_scripts_and_their_layers_run_by_python_m_minicaffe(name, folder):
    done = subprocess.run([sys.executable, "-m", "minicaffe", f"{name}.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("done: ") and "Iteration" in done.stderr
