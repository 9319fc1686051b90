"""``minicaffe help``: the help of a command."""

from __future__ import annotations

import click

from minicaffe.tools.command import Command


@click.command(cls=Command, examples=["minicaffe help train", "minicaffe help data siamese"])
@click.argument(
    "names", metavar="[COMMAND...]", nargs=-1,
    shell_complete=lambda context, _, start: context.find_root().command.shell_complete(context.find_root(), start),
)  # fmt: skip
@click.pass_context
def command(context: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of a command.

    Without COMMAND it lists the commands.
    """
    shown = context.find_root()
    for name in names:
        group = shown.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"'{shown.command_path}' has no commands of its own; found '{name}'", context)
        _, found, _ = group.resolve_command(shown, [name])
        assert found is not None
        shown = click.Context(found, info_name=name, parent=shown)
    click.echo(shown.get_help())
