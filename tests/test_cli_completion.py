"""Completion by Tab: what the shell is answered, and a real bash."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from cli_case import run

from minicaffe.tools.cli import COMMANDS


@pytest.fixture
def complete(capsys, monkeypatch, tmp_path):
    """The completions that bash is given for a line with the cursor at its end."""
    monkeypatch.chdir(tmp_path)

    def ask(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1) if shell == "bash" else words[-1])
        monkeypatch.setenv("_MINICAFFE_COMPLETE", f"{shell}_complete")
        with pytest.raises(SystemExit) as ended:
            run(capsys)
        assert ended.value.code == 0
        return capsys.readouterr().out.split()

    return ask


def values(answer: list[str]) -> list[str]:
    return [line.partition(",")[2] for line in answer]


def test_commands(complete):
    assert values(complete("minicaffe ")) == list(COMMANDS)
    assert values(complete("minicaffe upgrade_net")) == ["upgrade_net_proto_text", "upgrade_net_proto_binary"]
    assert "siamese" in values(complete("minicaffe data "))
    assert values(complete("minicaffe help tr")) == ["train"]


@pytest.mark.parametrize("line, flag", [
    ("minicaffe train -so", "-solver"),
    ("minicaffe train --so", "--solver"),
    ("minicaffe train -solver x -max", "-max_iter"),
    ("minicaffe data siamese -bal", "-balance"),
])  # fmt: skip
def test_flags_with_one_dash_or_two(complete, line, flag):
    assert values(complete(line)) == [flag]


def test_values_of_flags(complete):
    assert values(complete("minicaffe time -phase ")) == ["TRAIN", "TEST"]
    assert values(complete("minicaffe time -phase TE")) == ["TEST"]
    assert complete("minicaffe train -weights any") == ["file,any"]
    assert complete("minicaffe convert_imageset im") == ["dir,im"]


def test_shipped_models_and_files(complete, tmp_path):
    (tmp_path / "lenses").mkdir()
    (tmp_path / "len.prototxt").touch()
    assert complete("minicaffe train -solver len") == ["plain,len.prototxt", "part,lenet/", "part,lenses/"]
    assert complete("minicaffe train -solver = lenet/lenet_s") == [
        "plain,lenet/lenet_solver.prototxt"
    ]  # bash cuts at =
    assert values(complete("minicaffe draw siamese/legacy/")) == [
        "siamese/legacy/mnist_siamese_train_test_v1.prototxt", "siamese/legacy/mnist_siamese_v1.prototxt",
    ]  # fmt: skip


def test_a_value_behind_an_equals_sign_where_the_shell_does_not_cut(complete):
    assert complete("minicaffe train -solver=lenet/lenet_s", "fish") == [
        "plain,-solver=lenet/lenet_solver.prototxt"
    ]  # fmt: skip


@pytest.mark.parametrize("shell, sign", [
    ("bash", "complete -o nosort -F"), ("zsh", "#compdef minicaffe"), ("fish", "complete --no-files"),
])  # fmt: skip
def test_what_switches_it_on(capsys, shell, sign):
    outcome = run(capsys, "completion", shell)
    assert outcome.status == 0 and sign in outcome.out


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_a_real_bash(tmp_path):
    pexpect = pytest.importorskip("pexpect")
    (tmp_path / "minicaffe").write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; from minicaffe.tools.cli import main; sys.exit(main())' \"$@\"\n"
    )
    (tmp_path / "minicaffe").chmod(0o755)
    environment = os.environ | {"PS1": "$ ", "TERM": "dumb", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "my net.prototxt").touch()
    bash = pexpect.spawn(
        "bash", ["--norc", "--noprofile"], env=environment, cwd=str(tmp_path), encoding="utf-8", timeout=60,
        dimensions=(50, 200),
    )  # fmt: skip
    try:
        bash.sendline('eval "$(minicaffe completion bash)"; echo rea""dy')
        bash.expect("ready\r\n")
        for typed, shown in (
            ("minicaffe tra\t", "train "),
            ("minicaffe train -so\t", "-solver "),
            ("minicaffe train -solver=siamese/digits_s\t", "siamese/digits_solver.prototxt "),
            ("minicaffe draw my\t", r"my\ net.prototxt "),
        ):
            bash.send(typed)
            bash.expect_exact(shown)
            bash.send("\x15")
    finally:
        bash.close(force=True)
