"""The table of commands in the guide for Caffe's users: what it names is there, and what is there it names."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from cli_case import run

from minicaffe.tools.cli import COMMANDS, cli

GUIDE = Path(__file__).parent.parent / "docs" / "migrating.md"
OURS = {"embed", "models", "gpu_check", "help", "data", "warm"}
"""Commands with no counterpart in Caffe that other pages tell of; of data, the table names the parts."""
CAFFES = (
    """
caffe train, caffe test, caffe time, caffe device_query, convert_imageset, compute_image_mean, extract_features,
upgrade_net_proto_text, upgrade_net_proto_binary, upgrade_solver_proto_text, convert_mnist_data,
convert_mnist_siamese_data, convert_cifar_data, classification, classify.py, detect.py, draw_net.py, train.py, parse_log.py,
parse_log.sh, extract_seconds.py, plot_training_log.py, summarize.py, resize_and_crop_images.py, download_model_binary.py,
get_mnist.sh, get_cifar10.sh, get_ilsvrc_aux.sh, create_mnist.sh, create_mnist_siamese.sh, create_cifar10.sh,
create_imagenet.sh, make_imagenet_mean.sh
""".replace("\n", " ")
    .strip()
    .split(", ")
)


def rows() -> list[tuple[str, str]]:
    section = GUIDE.read_text().partition("## Commands\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (.*?) \| (.*) \|$", section, re.MULTILINE)
    return [(theirs, ours) for theirs, ours in found if theirs != "Caffe"]


def named(ours: str) -> list[list[str]]:
    """The commands that a cell names: ``minicaffe data mean`` as its words, and other names in brackets."""
    commands = [words.split() for words in re.findall(r"`minicaffe ([a-z_0-9 ]+)`", ours)]
    return commands + [[name] for group in re.findall(r"\(or (.*?)\)", ours) for name in re.findall(r"`(\w+)`", group)]


@pytest.mark.parametrize("theirs, ours", rows())
def test_each_command_in_the_table_is_there(capsys, theirs, ours):
    if ours == "not here":
        return
    assert named(ours), f"no command in '{ours}'"
    for words in named(ours):
        group: click.Command = cli
        name = ""
        while words and isinstance(group, click.Group):
            name, group = words[0], group.get_command(click.Context(group), words[0])
            assert group is not None, f"there is no command {name}"
            words = words[1:]
        if words:  # an argument, such as the name of a data set
            choices = [p.type.choices for p in group.params if isinstance(p.type, click.Choice)]
            assert any(words[0] in options for options in choices)


def test_every_command_is_in_the_table():
    there = {words[0] if words[0] != "data" else "data" for _, ours in rows() for words in named(ours)}
    assert set(COMMANDS) - OURS <= there


def test_every_command_of_caffe_is_in_the_table():
    cells = " ".join(theirs for theirs, _ in rows())
    missing = [name for name in CAFFES if not re.search(rf"[`/]{re.escape(name)}[ `]", cells)]
    assert not missing


def test_flags_in_the_table_are_there(capsys):
    for _, ours in rows():
        commands = named(ours)
        for flag in re.findall(r"`(--\w+)[ A-Z]*`", ours):
            assert flag in run(capsys, *commands[0], "--help").out, f"{commands[0]} has no {flag}"
