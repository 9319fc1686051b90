"""``minicaffe``: the command line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from minicaffe import __version__
from minicaffe.errors import DataError, MinicaffeError
from minicaffe.tools import databases
from minicaffe.tools.command import Group

COMMANDS = {
    "train": ("minicaffe.tools.train", "Train a net, or fine-tune one."),
    "test": ("minicaffe.tools.test", "Score a net with given weights."),
    "time": ("minicaffe.tools.time", "Measure how long each layer of a net takes."),
    "embed": ("minicaffe.tools.embed", "Plot and score the features that a siamese net gives images."),
    "draw": ("minicaffe.tools.draw", "Draw a net as a picture or as Graphviz text."),
    "data": ("minicaffe.tools.data", "Download data, and make databases for nets to read."),
    "models": ("minicaffe.tools.models", "List or copy the models that come with minicaffe."),
    "device_query": ("minicaffe.tools.device_query", "Show what is known about GPUs."),
}


@click.command(cls=Group, table=COMMANDS, epilog="'minicaffe COMMAND --help' tells a command's flags.")
@click.version_option(__version__, prog_name="minicaffe", message="%(prog)s version %(version)s")
def cli() -> None:
    """Train, test, time and draw Caffe nets.

    Flags are written as Caffe's: -solver FILE, -solver=FILE, --solver FILE or --solver=FILE.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.

    Errors are one message on stderr; ``--traceback`` adds where they come from.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return cli.main(args, prog_name="minicaffe", standalone_mode=False) or 0
    except click.Abort:
        message, status = "interrupted", 130
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "minicaffe"
        message, status = f"error: {error.format_message()}\n('{where} --help' tells the flags)", 2
    except click.ClickException as error:
        message, status = f"error: {error.format_message()}", 1
    except MinicaffeError as error:
        hint = databases.how_to_make(str(error)) if isinstance(error, DataError) else None
        message, status = f"error: {error}" + (f"\n(make it with: {hint})" if hint else ""), 1
    except Exception as error:  # a bug, or an error in a user's own Python layer
        message = f"error: unexpected {type(error).__name__}: {error}\n(run it again with --traceback to see where it comes from)"
        status = 1
    if any(arg.lstrip("-") == "traceback" for arg in args):
        traceback.print_exc()
    click.echo(message, err=True)
    return status
