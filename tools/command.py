"""Commands and groups of the command line: flags in gflags' forms as well as click's, groups that import on use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from minicaffe.tools import console, interrupts, log_flags
from minicaffe.tools.gflags import click_style, with_flag_files

ARGUMENTS = "minicaffe.arguments"
"""Where a command's context keeps what it was given, in click's forms."""


class _Explained(click.Command):
    """A command whose help ends with examples: whole command lines, which the tests run."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Command(_Explained):
    """A command whose flags may have Caffe's forms: ``-solver x``, ``-solver=x``, ``-q=false``, ``-noq``.

    Every command shows log messages on stderr, and has ``--quiet``, ``--verbose``, ``--traceback``, and the flags of
    glog and gflags.  Ctrl-C lets it clean up what it has half done, unless it ``handles_interrupts`` itself.
    """

    def __init__(self, *args: Any, handles_interrupts: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handles_interrupts = handles_interrupts
        self.params += log_flags.options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            ctx.meta[ARGUMENTS] = click_style(with_flag_files(args), self.get_params(ctx))
            return super().parse_args(ctx, [*ctx.meta[ARGUMENTS]])
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        if not self.handles_interrupts:
            interrupts.unwind()
        with console.messages(**log_flags.wishes(ctx.params)):
            return super().invoke(ctx)


class Group(_Explained, click.Group):
    """A group that knows the names and short helps of its commands and imports a command's module when it is used.

    ``sections`` maps a heading of the help to a table, which maps a command's name to (module, short help); the
    module's ``command`` is the command, or for several in one module ``module:name``.  ``aliases`` are other names of
    commands, which help does not list.  As with Caffe, flags may stand before the command's name.
    """

    command_class = Command

    def __init__(
        self,
        *args: Any,
        sections: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.no_args_is_help = False
        self.sections = dict(sections or {})
        self.aliases = dict(aliases or {})
        self.table = {name: entry for section in self.sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = self.aliases.get(name, name)
        if name in self.table:
            module, _, attribute = self.table[name][0].partition(":")
            return getattr(importlib.import_module(module), attribute or "command")
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        tables = {
            heading: [(name, text) for name, (_, text) in section.items()] for heading, section in self.sections.items()
        }
        if self.commands:
            tables["Commands"] = self._own_commands()
        for heading, rows in tables.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def _own_commands(self) -> list[tuple[str, str]]:
        return [(name, command.get_short_help_str(100)) for name, command in self.commands.items()]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands, without loading them."""
        rows = [(name, text) for name, (_, text) in self.table.items()] + self._own_commands()
        commands = [CompletionItem(name, help=text) for name, text in rows if name.startswith(incomplete)]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        args = with_flag_files(args)
        names = [*self.list_commands(ctx), *self.aliases]
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
        if args[0] not in names and args[0] not in self.aliases and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
            raise click.UsageError(f"unknown command '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)
