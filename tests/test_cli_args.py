"""The command line itself: forms of flags, help, wrong usage, exit status."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from cli_case import run

from minicaffe import __version__
from minicaffe.tools.cli import COMMANDS, cli, main
from minicaffe.tools.command import Command, Group
from minicaffe.tools.gflags import click_style

OPTIONS = [
    click.Option(["--solver"]),
    click.Option(["--level"], type=int),
    click.Option(["--sigint_effect"]),
    click.Option(["--display_lrm"], is_flag=True),
    click.Option(["--balance/--nobalance"], default=None),
]


@pytest.mark.parametrize("given, expected", [
    (["-solver", "x"], ["--solver", "x"]),
    (["--solver", "x"], ["--solver", "x"]),
    (["-solver=x=y"], ["--solver=x=y"]),
    (["--solver=x"], ["--solver=x"]),
    (["-level", "-1"], ["--level", "-1"]),
    (["-solver", "-odd-name"], ["--solver", "-odd-name"]),
    (["--sigint-effect=none"], ["--sigint_effect=none"]),
    (["-display_lrm"], ["--display_lrm"]),
    (["-display_lrm=true"], ["--display_lrm"]),
    (["-display_lrm=false"], []),
    (["-nodisplay_lrm"], []),
    (["--nobalance"], ["--nobalance"]),
    (["-balance=false"], ["--nobalance"]),
    (["-balance=1"], ["--balance"]),
    (["a", "-solver", "x", "b"], ["a", "--solver", "x", "b"]),
    (["-", "--", "-solver"], ["-", "--", "-solver"]),
    (["-unknown=3"], ["--unknown=3"]),
    (["-h"], ["--help"]),
    (["-helpshort"], ["--help"]),
    (["--display_lrm", "-display_lrm=false"], []),
])  # fmt: skip
def test_flags_in_caffes_forms(given, expected):
    assert click_style(given, OPTIONS) == expected


def test_a_boolean_takes_only_true_or_false():
    with pytest.raises(click.BadParameter, match="'maybe' is neither true nor false"):
        click_style(["-display_lrm=maybe"], OPTIONS)


def test_flags_may_stand_before_the_command(capsys, tmp_path):
    before = run(capsys, "-model", tmp_path / "no.prototxt", "time", "-iterations=3")
    after = run(capsys, "time", f"--model={tmp_path / 'no.prototxt'}", "--iterations", "3")
    assert before.status == after.status == 1
    assert before.errors == after.errors
    assert "File not found" in after.errors[0]


def all_commands(group: click.Group, path: tuple[str, ...] = ()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


EVERY = list(all_commands(cli))


@pytest.mark.parametrize("path, command", EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_every_command_and_flag_has_help(capsys, path, command):
    assert isinstance(command, (Command, Group))
    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option))
    shown = run(capsys, *path, "-help")
    assert shown.status == 0
    assert shown.out.startswith(f"Usage: minicaffe {' '.join(path)}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_command_says(name):
    command = cli.get_command(click.Context(cli), name)
    assert command.get_short_help_str(200) == COMMANDS[name][1]


def test_the_overview_has_a_line_for_each_command(capsys):
    for shown in (run(capsys), run(capsys, "--help")):
        assert shown.status == 0
        lines = shown.out.splitlines()
        for name, (_, text) in COMMANDS.items():
            assert sum(line.split(maxsplit=1) == [name, text] for line in lines) == 1


def test_the_overview_loads_no_heavy_package():
    heavy = "{'numpy', 'numba', 'h5py', 'matplotlib', 'rich', 'google.protobuf', 'lmdb'}"
    code = (
        f"import sys; from minicaffe.tools.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("flag", ["--version", "-version"])
def test_version(capsys, flag):
    assert run(capsys, flag) == (0, f"minicaffe version {__version__}\n", "")


@pytest.mark.parametrize("args, message", [
    (["trian"], "unknown command 'trian'; did you mean 'train'?"),
    (["data", "siames"], "unknown command 'siames'; did you mean 'siamese'?"),
    (["train", "-solvr", "x"], "No such option '--solvr'"),
    (["train"], "Missing option '--solver'"),
    (["train", "-solver"], "Option '--solver' requires an argument."),
    (["train", "-solver", "x", "-sigint_effect", "explode"], "'explode' is not one of"),
    (["test", "-model", "x"], "Missing option '--weights'"),
    (["test", "-model", "x", "-weights", "y", "-iterations", "0"], "0 is not in the range"),
    (["time", "-model", "x", "-phase", "BOTH"], "'BOTH' is not one of"),
    (["train", "-solver", "x", "more"], "unexpected extra argument"),
    (["train", "-solver", "x", "-quiet=perhaps"], "'perhaps' is neither true nor false"),
    (["train", "-solver", "x", "-snapshot", "a", "-weights", "b"],
     "Give a snapshot to resume training or weights to finetune but not both."),
])  # fmt: skip
def test_wrong_usage(capsys, args, message):
    outcome = run(capsys, *args)
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert message.replace("'", "") in outcome.errors[0].replace("'", "")
    assert "--help' tells the flags" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("args", [["train"], ["train", "-solver"], ["train", "-solvr", "x"]])
def test_wrong_usage_points_to_the_commands_help(capsys, args):
    assert run(capsys, *args).err.endswith("('minicaffe train --help' tells the flags)\n")


def test_an_unknown_flag_suggests_the_nearest(capsys):
    assert "--solver" in run(capsys, "train", "-solvr", "x").errors[0]


def test_traceback_is_shown_on_request(capsys):
    assert "Traceback" in run(capsys, "train", "-solver", "no", "-traceback").err


def test_an_unexpected_error_says_how_to_see_more(capsys, monkeypatch):
    monkeypatch.setattr("minicaffe.models.find", lambda path: 1 / 0)
    outcome = run(capsys, "train", "-solver", "x")
    assert outcome.status == 1
    assert outcome.errors == ["error: unexpected ZeroDivisionError: division by zero"]
    assert "--traceback" in outcome.err


def test_ctrl_c_outside_training(capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("minicaffe.models.find", interrupted)
    outcome = run(capsys, "train", "-solver", "x")
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == "interrupted"


def test_a_closed_pipe_is_quiet():
    command = [
        sys.executable,
        "-c",
        "import sys; from minicaffe.tools.cli import main; sys.exit(main())",
        "models",
        "list",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() != 0


def test_the_installed_command_is_main():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="minicaffe")
    assert script.load() is main


@pytest.mark.parametrize(("closed", "status"), [("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0)])
def test_commands_work_with_closed_streams(closed, status):
    command = (
        f"{sys.executable} -c 'import sys; from minicaffe.tools.cli import main; sys.exit(main())' models list {closed}"
    )
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=False).returncode == status


def test_an_error_is_heard_on_stdout_where_stderr_is_closed(tmp_path):
    command = f"{sys.executable} -c 'import sys; from minicaffe.tools.cli import main; sys.exit(main())' time -model {tmp_path}/no 2>&-"
    child = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert "error: File not found" in child.stdout


def test_an_end_of_file_is_no_interruption(capsys, monkeypatch):
    def ended(*_):
        raise EOFError("ran out of input")

    monkeypatch.setattr("minicaffe.models.find", ended)
    outcome = run(capsys, "time", "-model", "x")
    assert outcome.status == 1
    assert "unexpected EOFError: ran out of input" in outcome.err
