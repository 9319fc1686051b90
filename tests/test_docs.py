"""The code in the guides runs."""

from __future__ import annotations

import configparser
import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from minicaffe import compat, models, proto
from minicaffe.kernels.fast_paths import FAST_PATHS
from minicaffe.proto.text import parse
from minicaffe.solvers.history import Row
from minicaffe.tools.cli import main

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parent.parent / "docs"


def guide_text(guide: str) -> str:
    return (DOCS / guide).read_text()


def fenced(guide: str) -> list[tuple[str, str]]:
    """The language and text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", guide_text(guide), re.DOTALL | re.MULTILINE)


def blocks(guide: str, language: str) -> list[str]:
    return [block for name, block in fenced(guide) if name == language]


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


def need_what_guides_need() -> None:
    for package in ("matplotlib", "pygraphviz", "tensorboardX"):
        pytest.importorskip(package)


def go_through(guide: str, folder: Path, shorter: dict[str, str], count: str = "--count 400") -> list[str]:
    """Run a guide's commands and Python blocks in their order in a folder; returns what each Python block printed.

    Fewer pairs are made than the guide asks for, and ``shorter`` replaces texts of its blocks.
    """
    printed, names, before = [], {"__name__": "guide"}, Path.cwd()
    os.chdir(folder)
    try:
        for language, block in fenced(guide):
            for long, short in shorter.items():
                block = block.replace(long, short)
            if language == "console":
                for line in block.splitlines():
                    words = shlex.split(line.removeprefix("$ minicaffe "))
                    assert main([*words, *(count.split() if words[0] == "data" else [])]) == 0, line
            elif language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(block, guide, "exec"), names)
                printed.append(out.getvalue())
    finally:
        os.chdir(before)
    return printed


def test_the_siamese_guide_says_what_happens(tmp_path):
    need_what_guides_need()
    folder = tmp_path
    solver = "siamese/digits_solver.prototxt"
    shorter = {"iter_1000": "iter_60", f"--solver {solver}": f"--solver {solver} --max_iter 60"}
    record, shapes, loss, trained, table, score = go_through("siamese.md", folder, shorter)
    assert re.fullmatch(r"b'\d{8}' \(2, 28, 28\) uint8 [01]\n", record)
    assert shapes == "(64, 2, 28, 28) (64, 1, 28, 28) (64, 2)\n7.0\n"
    by_hand, computed = map(float, loss.split())
    assert by_hand == pytest.approx(computed, rel=1e-5)
    assert trained.startswith("20 ")
    assert re.search(r"copied +5  conv1, conv2, ip1, ip2, feat\n +ignored +5  conv1_p", table)
    assert table.endswith("(355, 2)\n")
    assert float(score.rstrip("%\n")) > 30  # after 60 iterations; equal points give 10
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    told = {
        row.strip("`") for row in re.findall(r"^\| (`digits_siamese_\w+\.\w+`)", guide_text("siamese.md"), re.MULTILINE)
    }
    told = {name.replace("iter_1000", "iter_60") for name in told}
    assert told and {f"examples/digits/{name}" for name in told} <= made
    assert {"mnist_siamese.png", "mnist_siamese_train_test.png", "features.png", "siamese/mnist_siamese.ipynb"} <= made
    assert any(name.startswith("board/events") for name in made)


def layers_of(text: str) -> list:
    net = parse(text, proto.NetParameter())
    return [*net.layer, *net.layers]


def test_the_layers_of_the_siamese_guide_are_those_of_the_shipped_nets():
    files = [
        "mnist_siamese.prototxt", "mnist_siamese_train_test.prototxt", "legacy/mnist_siamese_v1.prototxt",
        "legacy/mnist_siamese_train_test_v1.prototxt",
    ]  # fmt: skip
    shipped = [layer for name in files for layer in layers_of(Path(models.find(f"siamese/{name}")).read_text())]
    shown = [layer for language, block in fenced("siamese.md") if language == "protobuf" for layer in layers_of(block)]
    assert len(shown) == 10
    assert [layer.name for layer in shown if layer not in shipped] == []


def test_the_training_guide_says_what_happens(tmp_path):
    need_what_guides_need()
    rows, drawn, stopped, table = go_through("training.md", tmp_path, {"--max_iter 300": "--max_iter 60"})
    assert rows.splitlines()[0].startswith("Row(iteration=0, phase='test', net=0, output='loss', value=0.")
    assert drawn == "" and (tmp_path / "by_hand.png").stat().st_size > 10_000
    told, iteration = stopped.split()
    assert told == "True" and 0 < int(iteration) <= 200
    assert re.search(r"copied +5  conv1, conv2, ip1, ip2, feat\n +ignored +5  conv1_p", table)
    assert any((tmp_path / "board").glob("events*"))
    columns = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", guide_text("training.md"), re.MULTILINE)
    assert [name for row in columns for name in row if name] == list(Row._fields)


def test_the_pages_of_the_site_are_there():
    listed = re.findall(r": (\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_extras_that_are_named_can_be_installed():
    root = DOCS.parent
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    files = [
        root / "README.md",
        root / "mkdocs.yml",
        *DOCS.rglob("*.md"),
        *(root / "minicaffe").rglob("*.py"),
        *(root / "tools").rglob("*.py"),
    ]
    named = {extra for path in files for extra in re.findall(r"(?:minicaffe|\.|whl)\[([a-z0-9]+)\]", path.read_text())}
    extras = set(config["options.extras_require"])
    assert {"example", "notebook", "tensorboard", "docs"} <= named & extras
    assert {extra.partition(" ")[0] for extra in compat._EXTRA_OF.values()} <= extras
    assert named <= extras
