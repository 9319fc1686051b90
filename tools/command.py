"""Commands and groups of the command line: flags in gflags' forms as well as click's, groups that import on use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from minicaffe.tools import console, interrupts

_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


class Command(click.Command):
    """A command whose flags may have Caffe's forms: ``-solver x``, ``-solver=x``, ``-q=false``, ``-noq``.

    Every command shows log messages on stderr, and has ``--quiet``, ``--verbose`` and ``--traceback``.  Ctrl-C lets it
    clean up what it has half done, unless it ``handles_interrupts`` itself.
    """

    def __init__(self, *args: Any, handles_interrupts: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handles_interrupts = handles_interrupts
        self.params += [
            click.Option(["--quiet"], is_flag=True, help="Show only warnings and errors."),
            click.Option(["--verbose"], is_flag=True, help="Show everything that is logged."),
            click.Option(
                ["--traceback"], is_flag=True, expose_value=False, help="Show Python's traceback with an error."
            ),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, click_style(args, self.get_params(ctx)))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        if not self.handles_interrupts:
            interrupts.unwind()
        with console.messages(ctx.params.pop("quiet"), ctx.params.pop("verbose")):
            return super().invoke(ctx)


class Group(click.Group):
    """A group that knows the names and short helps of its commands and imports a command's module when it is used.

    ``table`` maps a name to (module, short help); the module's ``command`` is the command.  As with Caffe, flags may
    stand before the command's name.
    """

    command_class = Command

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.no_args_is_help = False
        self.table = dict(table or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self.table:
            return importlib.import_module(self.table[name][0]).command
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in self.table.items()]
        rows += [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        names = self.list_commands(ctx)
        at = next((i for i, arg in enumerate(args) if arg in names), None)
        if at is None:
            args = click_style(args, self.get_params(ctx))
        elif args[0].startswith("-"):
            args = [args[at], *args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args[0] not in names:
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
            raise click.UsageError(f"unknown command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)


def click_style(args: Sequence[str], params: Iterable[click.Parameter]) -> list[str]:
    """``args`` with the options of ``params`` in click's form; a value that follows its option is left as it is.

    Raises click.BadParameter for a boolean that is neither true nor false.
    """
    options = {
        opt.lstrip("-"): p for p in params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)
    }
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            return [*result, arg, *rest]
        if not arg.startswith("-") or arg == "-":
            result.append(arg)
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        name = "help" if name == "h" else name.replace("-", "_")
        option = options.get(name)
        negated = options.get(name.removeprefix("no")) if option is None and name.startswith("no") else None
        if option is not None and option.is_flag and equals:
            result += _boolean(option, value)
        elif negated is not None and negated.is_flag and not equals:
            result += _boolean(negated, "false")
        else:
            result.append(f"--{name}{equals}{value}")
            if option is not None and not option.is_flag and not equals:
                result += [following for following in [next(rest, None)] if following is not None]
    return result


def _boolean(option: click.Option, value: str) -> list[str]:
    if value.lower() in _TRUE:
        return option.opts[:1]
    if value.lower() in _FALSE:
        return option.secondary_opts[:1]
    raise click.BadParameter(f"'{value}' is neither true nor false", param=option)
