"""The code in the guides runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from minicaffe.kernels.fast_paths import FAST_PATHS

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parent.parent / "docs"


def blocks(guide: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / guide).read_text(), re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """The Python blocks of the guide on layers, the first of which can be imported as ``mylayers``."""
    layer, *others = blocks("writing-a-layer.md", "python")
    (tmp_path / "mylayers.py").write_text(layer)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "mylayers", raising=False)
    return others


def execute(code: str) -> None:
    exec(compile(code, "writing-a-layer.md", "exec"), {"__name__": "guide"})


def test_the_test_of_the_guide_passes(guide, pytester):
    pytester.makepyfile(test_mylayers=guide[0])
    # in a process of its own: pytester forgets modules that are first imported inside it, which NumPy does not survive
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    counts = result.parseoutcomes()
    assert counts.get("passed", 0) in (1, 3) and counts.get("passed", 0) + counts.get("skipped", 0) == 3, counts


def test_layers_of_the_guide_run_alone(guide, capsys):
    execute(guide[1])
    lines = capsys.readouterr().out
    assert "() (4, 3)" in lines and "(2, 4, 6, 6) [(4, 3, 3, 3), (4,)]" in lines


def test_the_wrong_gradient_of_the_guide_is_found(guide):
    with pytest.raises(AssertionError) as caught:
        execute(guide[2])
    message = blocks("writing-a-layer.md", "")[-1]
    assert "Broken" in message and str(caught.value).startswith(message)
    assert "[0, 2]: found 0, expected" in str(caught.value)


def test_the_loss_of_the_guide_is_right(guide):
    execute(guide[3])
    with pytest.raises(AssertionError, match="wrong gradient"):
        execute(guide[3].replace("sign * top", "2 * sign * top"))


def test_the_guide_to_performance_names_every_fast_path():
    named = re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "performance.md").read_text(), re.MULTILINE)
    assert [name for name, _ in named] == list(FAST_PATHS)
